package grants_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"

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
