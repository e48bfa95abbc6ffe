package oauthclient

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
)

// page is what the browser shows at the end of a sign-in.
type page struct {
	OK     bool
	Status int    // 0: 200
	Next   string // where the browser goes instead
	Title  string
	Text   string
}

const pageStyle = `
:root{color-scheme:light dark;--fg:#1c1d21;--bg:#f5f5f7;--card:#fff;--dim:#5d6068;--good:#1a7f4b;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--fg:#eceef2;--bg:#131418;--card:#1d1f25;--dim:#a3a7b0;--good:#5fd39a;--bad:#ff8a80}}
body{margin:0;min-height:100vh;display:grid;place-items:center;background:var(--bg);color:var(--fg);font:17px/1.5 system-ui,sans-serif}
main{background:var(--card);border-radius:16px;padding:40px 48px;max-width:26rem;text-align:center;box-shadow:0 1px 3px #0002}
.mark{font-size:44px;line-height:1}
.ok{color:var(--good)}
.no{color:var(--bad)}
h1{font-size:22px;margin:12px 0 8px}
p{margin:0;color:var(--dim)}
`

// The style is named by its hash, so that the policy needs no exception.
var contentSecurityPolicy = func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

var pageTemplate = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}}</title>
<style>{{.Style}}</style>
</head>
<body>
<main>
{{if .OK}}<div class="mark ok" aria-hidden="true">&#10003;</div>{{else}}<div class="mark no" aria-hidden="true">&#8211;</div>{{end}}
<h1>{{.Title}}</h1>
<p>{{.Text}}</p>
</main>
</body>
</html>
`))

func (cb *callback) show(w http.ResponseWriter, status int, p page) {
	if p.Next != "" {
		w.Header().Set("Location", p.Next)
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	var b bytes.Buffer
	err := pageTemplate.Execute(&b, struct {
		page
		Style template.CSS
	}{p, template.CSS(pageStyle)}) //nolint:gosec // our own style sheet
	if err != nil {
		http.Error(w, p.Title, status)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}
