package grants

import (
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf8"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/internal/redact"
)

// storedVerdict is what a Store keeps of a Mark's Dead.
type storedVerdict struct {
	Endpoint     applebusiness.Endpoint `json:"endpoint,omitempty"`
	StatusCode   int                    `json:"status,omitempty"`
	Code         applebusiness.Code     `json:"code,omitempty"`
	Description  string                 `json:"description,omitempty"`
	Reason       applebusiness.Reason   `json:"reason,omitempty"`
	GrantType    string                 `json:"grant_type,omitempty"`
	RequestID    string                 `json:"request_id,omitempty"`
	ResponseLost bool                   `json:"response_lost,omitempty"`
}

// MarshalVerdict returns, as a JSON object, what a [Store] keeps of a [Mark]'s Dead, and nil for nil. It is not secret: a
// description is kept only if it is one that Apple documents, and a code, a grant_type and a request id only as far as
// [applebusiness.Error.LogValue] shows them.
func MarshalVerdict(e *applebusiness.Error) []byte {
	if e == nil {
		return nil
	}
	kept := storedVerdict{
		Endpoint: e.Endpoint, StatusCode: e.StatusCode, Reason: e.Reason, ResponseLost: e.ResponseLost,
		Code:      applebusiness.Code(plain(string(e.Code), redact.Code)),
		GrantType: plain(e.GrantType, redact.Code),
		RequestID: plain(e.RequestID, redact.RequestID),
	}
	for entry := range applebusiness.Catalog() {
		if entry.Description == e.Description {
			kept.Description = e.Description
		}
	}
	text, _ := json.Marshal(kept) // has no type that fails
	return text
}

// plain returns text if show hides nothing of it, else "".
func plain(text string, show func(string) string) string {
	if show(text) != text {
		return ""
	}
	return text
}

// UnmarshalVerdict returns the error of which [MarshalVerdict] made text, and nil for an empty text and for JSON's null. The
// error quotes nothing of text.
func UnmarshalVerdict(text []byte) (*applebusiness.Error, error) {
	var v *storedVerdict
	if len(text) > 0 && json.Unmarshal(text, &v) != nil {
		return nil, errors.New(prefix + "what is stored as the verdict is not one")
	}
	if v == nil {
		return nil, nil
	}
	return &applebusiness.Error{
		Endpoint: v.Endpoint, StatusCode: v.StatusCode, Code: v.Code, Description: v.Description,
		Reason: v.Reason, GrantType: v.GrantType, RequestID: v.RequestID, ResponseLost: v.ResponseLost,
	}, nil
}

// storedToken is what of a token is secret.
type storedToken struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token,omitempty"`
	TokenType    string `json:"token_type,omitempty"`
}

var errNothingToStore = errors.New(prefix + "there is no token to store")

// SealToken returns what a [Store] keeps of a token: the access token, the refresh token and the type as a JSON object,
// encrypted by aead and bound to the grant's name and the version; in clear if aead is nil. The Expiry is the Store's to
// keep. A token that is not UTF-8 is an error. An error of aead is wrapped, and quotes nothing.
func SealToken(aead AEAD, grant string, version int64, token *oauth2.Token) ([]byte, error) {
	if token == nil {
		return nil, errNothingToStore
	}
	if !utf8.ValidString(token.AccessToken) || !utf8.ValidString(token.RefreshToken) || !utf8.ValidString(token.TokenType) {
		return nil, errors.New(prefix + "the token is not UTF-8") // JSON would change it in silence
	}
	text, _ := json.Marshal(storedToken{token.AccessToken, token.RefreshToken, token.TokenType}) // strings always marshal
	if aead == nil {
		return text, nil
	}
	sealed, err := aead.Encrypt(text, associatedData(grant, version))
	if err != nil {
		return nil, &opaqueError{prefix + "the AEAD failed to encrypt the token", &err} // whose text may hold it
	}
	return sealed, nil
}

// OpenToken returns the token of which [SealToken] made sealed, with the same aead, grant and version; any other is an
// error, which quotes nothing.
func OpenToken(aead AEAD, grant string, version int64, sealed []byte) (*oauth2.Token, error) {
	if aead != nil {
		var err error
		if sealed, err = aead.Decrypt(sealed, associatedData(grant, version)); err != nil {
			return nil, &opaqueError{prefix + "the AEAD failed to decrypt the token", &err}
		}
	}
	var stored storedToken
	if json.Unmarshal(sealed, &stored) != nil {
		return nil, errors.New(prefix + "what is stored as the token is not one; is it encrypted?") // the cause would show a part of it
	}
	return &oauth2.Token{AccessToken: stored.AccessToken, RefreshToken: stored.RefreshToken, TokenType: stored.TokenType}, nil
}

// associatedData is unambiguous, since no digit or minus is part of ":".
func associatedData(grant string, version int64) []byte {
	return []byte(strconv.FormatInt(version, 10) + ":" + grant)
}

// copyToken returns what a Store keeps of token.
func copyToken(token *oauth2.Token) *oauth2.Token {
	return &oauth2.Token{AccessToken: token.AccessToken, TokenType: token.TokenType, RefreshToken: token.RefreshToken, Expiry: token.Expiry}
}
