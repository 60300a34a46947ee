package grants_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

func ExampleMarshalVerdict() {
	dead := &applebusiness.Error{
		Endpoint: applebusiness.TokenEndpoint, StatusCode: 401, Code: applebusiness.CodeInvalidGrant,
		Description: "Invalid refresh_token", Reason: applebusiness.ErrInvalidRefreshToken,
	}
	column := grants.MarshalVerdict(dead)
	fmt.Printf("%s\n", column)
	read, err := grants.UnmarshalVerdict(column)
	fmt.Println(read, err)
	// Output:
	// {"endpoint":"token","status":401,"code":"invalid_grant","description":"Invalid refresh_token","reason":"invalid_refresh_token"}
	// applebusiness: invalid_grant: "Invalid refresh_token" (HTTP 401) <nil>
}

func TestVerdictCodec(t *testing.T) {
	for name, test := range map[string]struct{ from, want *applebusiness.Error }{
		"nothing":      {nil, nil},
		"the zero one": {new(applebusiness.Error), new(applebusiness.Error)},
		"all that is kept": {
			&applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, StatusCode: 401, Code: applebusiness.CodeInvalidGrant,
				Description: "Invalid refresh_token", Reason: applebusiness.ErrInvalidRefreshToken,
				GrantType: applebusiness.GrantTypeRefreshToken, RequestID: "request-1", ResponseLost: true},
			&applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, StatusCode: 401, Code: applebusiness.CodeInvalidGrant,
				Description: "Invalid refresh_token", Reason: applebusiness.ErrInvalidRefreshToken,
				GrantType: applebusiness.GrantTypeRefreshToken, RequestID: "request-1", ResponseLost: true},
		},
		"what is not": {
			&applebusiness.Error{StatusCode: 401, Code: "rt-SECRET", GrantType: "SECRET7", RequestID: "rt-SECRET-4711", Description: "Token rt-SECRET is unknown", URI: "https://SECRET.example", Parameter: "SECRET", RetryAfter: time.Hour},
			&applebusiness.Error{StatusCode: 401},
		},
	} {
		t.Run(name, func(t *testing.T) {
			text := grants.MarshalVerdict(test.from)
			assert.Equal(t, test.from == nil, text == nil)
			assert.NotContains(t, string(text), "SECRET")
			got, err := grants.UnmarshalVerdict(text)
			require.NoError(t, err)
			assert.Equal(t, test.want, got)
		})
	}
	for _, text := range []string{"", "null"} { // what a Store's own JSON makes of no verdict
		got, err := grants.UnmarshalVerdict([]byte(text))
		assert.Nil(t, got, text)
		assert.NoError(t, err, text)
	}
	for _, text := range []string{"SECRET", "[]", "1", `{"status":"SECRET"}`, `{"status":401`} {
		got, err := grants.UnmarshalVerdict([]byte(text))
		assert.Nil(t, got, text)
		assert.EqualError(t, err, "applebusiness/grants: what is stored as the verdict is not one", text)
	}
}

func TestTokenCodec(t *testing.T) {
	token := &oauth2.Token{AccessToken: "at <é> \"\u2028", RefreshToken: "rt", TokenType: "Bearer"}
	for name, aead := range map[string]grants.AEAD{"in clear": nil, "encrypted": testKey} {
		t.Run(name, func(t *testing.T) {
			sealed, err := grants.SealToken(aead, "a", 7, token)
			require.NoError(t, err)
			opened, err := grants.OpenToken(aead, "a", 7, sealed)
			require.NoError(t, err)
			assert.Equal(t, token, opened)
			for _, wrong := range []*oauth2.Token{{AccessToken: "SECRET\xff"}, {RefreshToken: "SECRET\xff"}, {TokenType: "SECRET\xff"}} {
				_, err := grants.SealToken(aead, "a", 7, wrong)
				assert.EqualError(t, err, "applebusiness/grants: the token is not UTF-8")
			}
			_, err = grants.SealToken(aead, "a", 7, nil)
			assert.EqualError(t, err, "applebusiness/grants: there is no token to store")
		})
	}

	sealed, err := grants.SealToken(testKey, "a", 7, token)
	require.NoError(t, err)
	for name, try := range map[string]struct {
		grant   string
		version int64
		sealed  []byte
	}{
		"another grant": {"b", 7, sealed}, "another version": {"a", 8, sealed}, "a digit moved": {":a", 7, sealed},
		"cut": {"a", 7, sealed[:len(sealed)-1]}, "nothing": {"a", 7, nil}, "in clear": {"a", 7, []byte(`{"access_token":"SECRET"}`)},
	} {
		opened, err := grants.OpenToken(testKey, try.grant, try.version, try.sealed)
		assert.Nil(t, opened, name)
		assert.EqualError(t, err, "applebusiness/grants: the AEAD failed to decrypt the token", name)
	}
	for _, text := range [][]byte{nil, sealed, []byte("SECRET"), []byte(`{"access_token":SECRET}`)} {
		opened, err := grants.OpenToken(nil, "a", 7, text)
		assert.Nil(t, opened)
		assert.EqualError(t, err, "applebusiness/grants: what is stored as the token is not one; is it encrypted?")
	}
}

// gcm is a grants.AEAD of one AES key.
type gcm struct{ cipher.AEAD }

func newGCM(key []byte) gcm {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return gcm{aead}
}

func (g gcm) Encrypt(plaintext, associatedData []byte) ([]byte, error) {
	return g.Seal(nil, nil, plaintext, associatedData), nil
}

func (g gcm) Decrypt(ciphertext, associatedData []byte) ([]byte, error) {
	return g.Open(nil, nil, ciphertext, associatedData)
}

func ExampleSealToken() {
	key := make([]byte, 32) // in production: from a key service
	_, _ = rand.Read(key)
	aead := newGCM(key)

	const version = 4711
	column, err := grants.SealToken(aead, "customer 7", version, &oauth2.Token{AccessToken: "at", RefreshToken: "rt"})
	if err != nil {
		fmt.Println(err)
		return
	}
	token, err := grants.OpenToken(aead, "customer 7", version, column)
	fmt.Println(token.RefreshToken, err)
	_, err = grants.OpenToken(aead, "customer 8", version, column) // somebody has copied it into another row
	fmt.Println(err, errors.Unwrap(err) != nil)
	// Output:
	// rt <nil>
	// applebusiness/grants: the AEAD failed to decrypt the token true
}

// keyring is a grants.AEAD of several keys, so that a key can be replaced while the process runs on: it encrypts with the
// newest, and decrypts with the one whose number stands in front of what it was given.
type keyring struct {
	newest byte
	keys   map[byte]gcm
}

func (k keyring) Encrypt(plaintext, associatedData []byte) ([]byte, error) {
	ciphertext, err := k.keys[k.newest].Encrypt(plaintext, associatedData)
	return append([]byte{k.newest}, ciphertext...), err
}

func (k keyring) Decrypt(ciphertext, associatedData []byte) ([]byte, error) {
	if len(ciphertext) == 0 {
		return nil, errors.New("there is nothing to decrypt")
	}
	key, ok := k.keys[ciphertext[0]]
	if !ok {
		return nil, fmt.Errorf("there is no key %d", ciphertext[0])
	}
	return key.Decrypt(ciphertext[1:], associatedData)
}

// A key is replaced: the new one encrypts, the old one decrypts what is not encrypted anew yet. Each refresh of a grant
// encrypts its token anew; when all have been refreshed, the old key can go.
func ExampleAEAD() {
	dir, err := os.MkdirTemp("", "grants")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	old, latest := newGCM([]byte("32 bytes from your key service 1")), newGCM([]byte("32 bytes from your key service 2"))
	ctx := context.Background()
	open := func(keys keyring) *grants.DirStore {
		store, err := grants.NewDirStore(dir, keys)
		if err != nil {
			panic(err)
		}
		return store
	}

	store := open(keyring{1, map[byte]gcm{1: old}})
	_ = store.Put(ctx, "customer 7", &oauth2.Token{AccessToken: "at", RefreshToken: "rt"})
	_ = store.Put(ctx, "customer 8", &oauth2.Token{AccessToken: "at", RefreshToken: "rt"})
	_ = store.Close()

	store = open(keyring{2, map[byte]gcm{1: old, 2: latest}})
	record, err := store.Load(ctx, "customer 7")
	fmt.Println(record.Token.RefreshToken, err)
	err = store.Save(ctx, "customer 7", "", record.Version, &oauth2.Token{AccessToken: "at-2", RefreshToken: "rt-2"}) // as a refresh does
	fmt.Println(err)
	_ = store.Close()

	store = open(keyring{2, map[byte]gcm{2: latest}})
	record, err = store.Load(ctx, "customer 7")
	fmt.Println(record.Token.RefreshToken, err)
	_, err = store.Load(ctx, "customer 8") // has not been refreshed: the old key went too early
	fmt.Println(err, "-", errors.Unwrap(err))
	_ = store.Close()
	// Output:
	// rt <nil>
	// <nil>
	// rt-2 <nil>
	// applebusiness/grants: the AEAD failed to decrypt the token - there is no key 1
}
