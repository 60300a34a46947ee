package main

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
)

// readHAR reads an entry of a HAR file, or the failure among a file's entries that tells most: most of them are about
// something else.
func readHAR(p piece) (*finding, error) {
	entries := []any{p.object}
	if log, ok := p.object["log"].(map[string]any); ok {
		entries, _ = log["entries"].([]any)
	}
	var failure *finding
	for _, entry := range entries {
		entry, _ := entry.(map[string]any)
		f, isToken := fromHAR(entry)
		switch {
		case f == nil || f.StatusCode < 400 && f.Code == "" && !isToken && len(entries) > 1:
		case f.Code != "", isToken:
			return f, nil
		case failure == nil:
			failure = f
		}
	}
	return failure, nil
}

// fromHAR returns the failure that an entry of a HAR file holds, and whether it is a token request's.
func fromHAR(entry map[string]any) (f *finding, isToken bool) {
	response, _ := entry["response"].(map[string]any)
	request, _ := entry["request"].(map[string]any)
	status := number(response, "status", "statuscode")
	if request == nil || status == 0 {
		return nil, false
	}
	location, _ := response["redirectURL"].(string)
	requestURL, _ := request["url"].(string)
	header := headerOf(response["headers"])
	for _, callback := range []string{location, header.Get("Location"), requestURL} {
		if isCallback(callback) {
			f, _ = fromQuery(callback)
			return f, false
		}
	}
	content, _ := response["content"].(map[string]any)
	if content == nil {
		content, _ = response["body"].(map[string]any)
	}
	body, _ := content["text"].(string)
	if body == "" {
		body, _ = response["body"].(string)
	}
	if content["encoding"] == "base64" {
		decoded, _ := base64.StdEncoding.DecodeString(body)
		body = string(decoded)
	}
	f, _ = fromExchange(status, header, body)
	form, _ := request["postData"].(map[string]any)
	return f, strings.Contains(fmt.Sprint(form), "grant_type")
}

// headerOf returns the fields of a response: in a HAR file an array of names and values, elsewhere an object.
func headerOf(value any) http.Header {
	header := make(http.Header)
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			field, _ := item.(map[string]any)
			name, _ := field["name"].(string)
			text, _ := field["value"].(string)
			header.Add(name, text)
		}
	case map[string]any:
		for name, value := range value {
			if text, ok := value.(string); ok {
				header.Add(name, text)
			}
		}
	}
	return header
}
