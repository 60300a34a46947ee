package main

import (
	"errors"
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"github.com/seed-a5f25c57/applebusiness"
)

var callbackQuery = regexp.MustCompile(`(?:^|&)(?:error|code)=`)

// isCallback reports whether location is a URL with the query of a callback, or that query.
func isCallback(location string) bool {
	return strings.ContainsAny(location, "?&=") && callbackQuery.MatchString(query(location))
}

// query returns the raw query of a URL, and text itself if it is none.
func query(text string) string {
	text, _, _ = strings.Cut(text, "#")
	if _, query, found := strings.Cut(text, "?"); found {
		return query
	}
	return text
}

// words returns the words of text that may be a URL or a query.
func words(text string) []string {
	text = strings.ReplaceAll(text, "&amp;", "&")
	words := strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("\"`<>'|", r) })
	for i, word := range words {
		words[i] = strings.Trim(word, ",;()[]{}")
	}
	return words
}

// readRedirect reads the URL of a callback, or its query.
func readRedirect(p piece) (*finding, error) {
	if !strings.Contains(p.outside, "error=") && !strings.Contains(p.outside, "code=") {
		return nil, nil
	}
	if strings.Contains(p.outside, `\`) {
		return nil, nil // a URL holds no backslash: one in it stands for what it escapes
	}
	words := words(p.outside)
	var failure error
	for _, word := range words {
		if !isCallback(word) || isForm(word) || !strings.ContainsAny(word, "?&") && len(words) > 1 { // a log has error=x of its own
			continue
		}
		f, err := fromQuery(word)
		if f == nil {
			failure = errors.Join(failure, err)
			continue
		}
		if len(words) == 1 || isCallbackError(word) {
			return f, nil
		}
	}
	if failure != nil {
		return nil, errCode
	}
	return nil, nil
}

// isCallbackError tells a callback from any other URL with an error in its query.
func isCallbackError(location string) bool {
	values, _ := url.ParseQuery(query(location))
	return values.Has("state") || values.Has("error_description") || isConstant(applebusiness.Code(values.Get("error")))
}

func fromQuery(location string) (*finding, error) {
	_, err := applebusiness.ParseRedirect(query(location))
	if e, ok := errors.AsType[*applebusiness.Error](err); ok {
		return found(e), nil
	}
	return nil, errCode
}

// isForm reports whether word is a form rather than a query: it belongs to no URL, and a callback brings a state.
func isForm(word string) bool {
	if strings.ContainsAny(word, "?/") {
		return false
	}
	word, _, _ = strings.Cut(word, "#")
	values, err := url.ParseQuery(word)
	return err == nil && !values.Has("state") && values.Get("error") != "" && len(values["error"]) == 1
}

// readForm reads the error of a token endpoint that answers in the form of its request.
func readForm(p piece) (*finding, error) {
	if !strings.Contains(p.outside, "error=") || strings.Contains(p.outside, `\`) {
		return nil, nil
	}
	words := words(p.outside)
	for _, word := range words {
		_, form, named := strings.Cut(word, "=error=") // as in body=error=x
		if named {
			word = "error=" + form
		}
		if !isForm(word) || !strings.Contains(word, "&") && len(words) > 1 {
			continue
		}
		values, _ := url.ParseQuery(word)
		code, description := values.Get("error"), values.Get("error_description")
		e := fromText(p.status, code, description)
		if !isConstant(e.Code) && !isDocumented(e.Reason) && !(codeWord.MatchString(code) && (len(words) == 1 || description != "")) {
			continue
		}
		locate(e)
		return found(e), nil
	}
	return nil, nil
}
