package main

import (
	"cmp"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
)

//go:embed pages.html style.css
var files embed.FS

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"advice": applebusiness.Troubleshoot, "customerText": customerText, "about": about, "until": time.Until, "escape": url.PathEscape,
}).ParseFS(files, "pages.html"))

// customerTexts are all that a customer reads about an error: one for each action, and that of fix_request for what is not
// known. They are the partner's to write, in the partner's languages.
var customerTexts = map[applebusiness.Action]string{
	applebusiness.ActionRetry:           "Apple Business is not available at the moment. This usually passes within minutes, and nothing that you have set up is lost.",
	applebusiness.ActionStartOver:       "The connection was not made, and nothing was changed. You can start again at any time.",
	applebusiness.ActionReauthorize:     "The connection to Apple Business has ended. Please connect again.",
	applebusiness.ActionFixRequest:      "Something went wrong on our side. We are looking into it, and you need not do anything.",
	applebusiness.ActionFixRegistration: "We have to renew our own access to Apple Business. We are on it, and you need not do anything.",
	applebusiness.ActionCheckNetwork:    "We cannot reach Apple Business. We are looking into it, and you need not do anything.",
}

func customerText(action applebusiness.Action) string {
	return cmp.Or(customerTexts[action], customerTexts[applebusiness.ActionFixRequest])
}

// about returns a duration in words, rounded up.
func about(d time.Duration) string {
	amount, unit := (d+time.Second-1)/time.Second, "second"
	if d > time.Minute {
		amount, unit = (d+time.Minute-1)/time.Minute, "minute"
	}
	if amount != 1 {
		unit += "s"
	}
	return fmt.Sprintf("%d %s", amount, unit)
}

func write(w http.ResponseWriter, status int, page string, content any) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_ = pages.ExecuteTemplate(w, page, content) // fails only if the browser is gone
}
