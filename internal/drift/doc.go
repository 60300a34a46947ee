// Package drift compares the catalog with Apple's error page, as saved from a browser (HTML) or as copied text:
//
//	go test -page page.html
//
// Each difference is a failure of TestPage, which without -page compares the copies in testdata.
//
// Page: https://business.apple.com/docs/api/v1/oauth_apps/errors
package drift
