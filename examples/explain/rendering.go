package main

import (
	"cmp"
	"regexp"
	"strings"

	"github.com/seed-a5f25c57/applebusiness"
)

// A member named error, and one named error_description, in whatever notation: 'error': 'x', "error"=>"x", :error=>"x",
// error: 'x', error:x, error=x, [error] => x, ["error"]=> string(1) "x", "error": String("x").
var (
	renderedCode = regexp.MustCompile(`(?:^|[^\w.-])[:'"\[]*(?i:error_?code|error)['"\]]*\s*(?:=>|[:=])\s*(?:\w+\(\d*\)\s*|\w+\(|:)?(?:[ub]?['"])?(\w+)`)
	renderedText = regexp.MustCompile(`(?:^|[^\w.-])[:'"\[]*(?i:error_?description)['"\]]*\s*(?:=>|[:=])\s*(?:\w+\(\d*\)\s*|\w+\(|:)?(?:[ub]?"([^"]*)"|[ub]?'([^']*)'|([^'"\n]*))`)
	nextMember   = regexp.MustCompile(`[\]})]|,? \w+[:=]|$`)
)

// readRendering reads an OAuth error as a language other than JSON prints an object.
func readRendering(p piece) (*finding, error) {
	text := p.outside
	if !strings.Contains(text, "rror") {
		return nil, nil
	}
	description := ""
	if match := renderedText.FindStringSubmatch(text); match != nil {
		description = cmp.Or(match[1], match[2], match[3])
		if match[3] != "" {
			description = strings.TrimSpace(description[:nextMember.FindStringIndex(description)[0]])
		}
	}
	for _, match := range renderedCode.FindAllStringSubmatch(text, 16) {
		code := match[1]
		e := fromText(p.status, code, description)
		if description == "" && isConstant(e.Code) {
			if known := applesText(text, code); known != nil {
				e = known
			}
		}
		if isConstant(e.Code) || isDocumented(e.Reason) || snakeCase.MatchString(code) && description != "" {
			if e.Code == applebusiness.CodeAccessDenied {
				e.Endpoint = ""
			}
			locate(e)
			return found(e), nil
		}
	}
	if description != "" {
		if e := fromText(p.status, "", description); isDocumented(e.Reason) {
			locate(e)
			return found(e), nil
		}
	}
	return nil, nil
}
