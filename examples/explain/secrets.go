package main

import (
	"regexp"
	"strings"
	"unicode"

	"github.com/seed-a5f25c57/applebusiness"
)

// masked stands where a text from outside held something that is not for a terminal or a ticket.
const masked = "***"

// redact takes from f what may be secret. What Apple documents is shown as it is; of any other text, whatever the input
// holds under the name of a secret, and the words that look like one.
func (f *finding) redact(input string) {
	if f.network != "" {
		return
	}
	e := *f.Error
	plain := strings.TrimRight(e.Description, ".")
	isApples := plain == "" || isDocumented(e.Reason) && e.Parameter == "" && strings.EqualFold(plain, strings.TrimRight(e.Reason.Description(), "."))
	isName := e.Code == "" || isConstant(e.Code)
	isOnce := e.RequestID == "" || strings.Count(input, e.RequestID) == 1 // and so nothing else's value
	var secrets []string
	if !isApples || !isName || e.Parameter != "" || !isOnce {
		secrets = secretsOf(input)
	}
	hide := func(text string) string {
		for _, secret := range secrets {
			text = strings.ReplaceAll(text, secret, masked)
		}
		return text
	}
	if !isApples {
		e.Description = maskSentence(hide(e.Description))
	}
	if code := string(e.Code); !isName && (!isErrorName(code) || strings.Contains(code, " ")) {
		e.Code = applebusiness.Code(maskSentence(hide(code)))
	}
	e.Parameter = maskSentence(hide(e.Parameter))
	if !snakeCase.MatchString(e.GrantType) || len(e.GrantType) > 32 {
		e.GrantType = maskSentence(e.GrantType)
	}
	if e.RequestID = hide(e.RequestID); strings.Contains(e.RequestID, " ") {
		e.RequestID = maskSentence(e.RequestID)
	}
	if f.err == f.Error {
		f.err = &e
	}
	f.Error = &e
}

// A secret in an input: after its name in whatever notation, in a header, or in an array of names and values.
var (
	secretMember = regexp.MustCompile(`(?i)\b(access_?token|refresh_?token|id_?token|client_?secret|code_?verifier|client_?assertion|code|state|password|passwd|secret|token|session|cookie|api_?key)\\*["']?\]?\s*(?:=>|[:=])\s*\\*["':]?([^\s"'&,;{}\[\]\\<>]{4,})`)
	secretParam  = regexp.MustCompile(`(?i)"name"\s*:\s*"(access_token|refresh_token|id_token|client_secret|code_verifier|code|state)"\s*,\s*"value"\s*:\s*"([^"]{4,})"`)
	secretHeader = regexp.MustCompile(`(?i)\b(bearer|basic)\s+([^\s"',;\\]{4,})`)
)

func secretsOf(input string) []string {
	var secrets []string
	for _, pattern := range []*regexp.Regexp{secretMember, secretParam, secretHeader} {
		for _, match := range pattern.FindAllStringSubmatch(input, 256) {
			if value := match[2]; !snakeCase.MatchString(value) || !strings.EqualFold(match[1], "code") {
				secrets = append(secrets, value)
			}
		}
	}
	return secrets
}

// tokens are the runs of the characters that tokens, codes, URLs and addresses are made of.
var tokens = regexp.MustCompile(`[A-Za-z0-9_.~+/=%:@?&#$*-]+`)

// maskSentence masks each word of text that could be a secret: anything but a word of a language, a parameter's name or
// a short number. After what a secret is called, only a common word is shown.
func maskSentence(text string) string {
	afterSecret := false
	return tokens.ReplaceAllStringFunc(text, func(run string) string {
		word := strings.Trim(run, ".:?*-")
		lower := strings.ToLower(word)
		show := isPlainWord(word) && (!afterSecret || commonWords[lower])
		switch lower {
		case "token", "code", "secret", "state", "verifier", "password", "cookie", "session", "bearer", "basic", "authorization", "key", "refresh_token", "access_token", "client_secret", "code_verifier":
			afterSecret = true
		case "is", "was": // a secret may still come
		default:
			afterSecret = false
		}
		if show {
			return run
		}
		if name, _, found := strings.Cut(run, "="); found && snakeCase.MatchString(name) {
			return name + "=" + masked
		}
		return masked
	})
}

// isPlainWord reports whether word looks like a word of a language, a short number or a parameter's name.
func isPlainWord(word string) bool {
	switch word {
	case "", "OAuth", "OAuth2", "S256", "2.0", "JavaScript", "GitHub", "PKCE":
		return true
	}
	upper, lower, digits := 0, 0, 0
	run, longest := 0, 0
	for i, r := range word {
		switch {
		case r >= 'A' && r <= 'Z' && i > 0:
			upper++
		case unicode.IsLetter(r):
			lower++
		case r >= '0' && r <= '9':
			digits++
		case strings.ContainsRune("_-./", r):
			run = -1
		default:
			return false
		}
		run++
		longest = max(longest, run)
	}
	switch {
	case digits > 0:
		return upper+lower == 0 && digits <= 4 && len(word) == digits
	case upper > 0:
		return len(word) <= 5 && upper == len(word)-1 && strings.ToUpper(word) == word // an abbreviation
	}
	return longest <= 20 && len(word) <= 40
}

// commonWords may follow the word token, code, secret or state in a sentence.
var commonWords = func() map[string]bool {
	words := make(map[string]bool)
	for word := range strings.FieldsSeq(`a an and another are as at be been before belongs but by can cannot challenge could did does endpoint error exchange expired
		failed flow for from grant had has have id in invalid is it issued length malformed may mismatch missing must name not of on or parameter
		provided redeemed refresh rejected request required response revoked sent should supplied that the this to too type unknown used value verifier was were when which
		while will with without you`) {
		words[word] = true
	}
	return words
}()
