package authserver

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxForm bounds the body of every form and registration.
const maxForm = 64 << 10

// public wraps an endpoint for programs: CORS for browser-based clients (any
// origin, never with credentials, for the answers depend on no cookie), the
// allowed methods, and OAuth-shaped refusals.
func (s *Server) public(methods string, h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Access-Control-Allow-Origin", "*")
		header.Set("X-Content-Type-Options", "nosniff")
		if r.Method == http.MethodOptions {
			header.Set("Access-Control-Allow-Methods", methods+", OPTIONS")
			// The wildcard does not cover Authorization, so the headers are named.
			header.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Accept, MCP-Protocol-Version")
			header.Set("Access-Control-Max-Age", "86400")
			header.Set("Allow", methods+", OPTIONS")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		header.Set("Access-Control-Expose-Headers", "WWW-Authenticate, Retry-After")
		if !slices.Contains(strings.Split(methods, ", "), r.Method) {
			header.Set("Allow", methods+", OPTIONS")
			s.writeError(w, r, &oauthError{Status: http.StatusMethodNotAllowed, Code: codeInvalidRequest, Description: "use " + methods})
			return
		}
		h(w, r)
	})
}

// page wraps an endpoint for people: no CORS, no framing, no caching, and one
// loopback name, because a cookie set under another would not come back.
func (s *Server) page(methods string, h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pageHeaders(w.Header())
		if !slices.Contains(strings.Split(methods, ", "), r.Method) {
			w.Header().Set("Allow", methods)
			s.wrongMethodPage(w, r)
			return
		}
		if r.Method == http.MethodGet && s.site.isAlias(r) {
			target := r.URL.RequestURI()
			if !strings.HasPrefix(target, s.site.prefix+"/") { // a proxy has taken it off
				target = s.site.prefix + target
			}
			redirect(w, http.StatusFound, s.site.origin+target)
			return
		}
		counted := newParty(s.peerAddr(r), "")
		if a := s.readAccount(r); a != nil {
			counted = userParty(s.peerAddr(r), a.Subject)
		}
		if retry, ok := s.limits.pages.allow(counted, s.now()); !ok {
			s.tooManyPage(w, r, retry)
			return
		}
		h(w, r)
	})
}

// redirect sends the browser on. The target may carry a code, so nothing is
// stored and no later page learns it as a referrer.
func redirect(w http.ResponseWriter, status int, target string) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Location", target)
	w.WriteHeader(status)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil { // only maps and structs of strings and numbers come here
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}

func noStore(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache") // RFC 6749 section 5.1
}

// params are the parameters of one request. A parameter without a value counts
// as absent (RFC 6749 section 3.1).
type params struct {
	values   map[string]string
	repeated []string // names that came more than once, sorted
}

func (p params) get(name string) string { return p.values[name] }

var errMalformedParams = errors.New("the parameters are not well-formed form data in UTF-8")

// parseParams parses application/x-www-form-urlencoded texts as one set: the
// query and the body of a request, in which no parameter may come twice (RFC
// 6749 section 3.1 and 3.2).
func parseParams(encoded ...string) (params, error) {
	p := params{values: map[string]string{}}
	seen := map[string]int{}
	for _, text := range encoded {
		values, err := url.ParseQuery(text)
		if err != nil {
			return p, errMalformedParams
		}
		for name, list := range values {
			seen[name] += len(list)
			for _, v := range list {
				if !utf8.ValidString(name) || !utf8.ValidString(v) {
					return p, errMalformedParams
				}
				if v != "" {
					p.values[name] = v
				}
			}
		}
	}
	for name, n := range seen {
		if n > 1 {
			p.repeated = append(p.repeated, name)
		}
	}
	slices.Sort(p.repeated)
	return p, nil
}

var (
	errFormType = errors.New("the body must be application/x-www-form-urlencoded")
	errFormSize = errors.New("the body is too large")
)

// readForm reads a form body.
func readForm(w http.ResponseWriter, r *http.Request) (string, error) {
	if !isMediaType(r, "application/x-www-form-urlencoded") {
		return "", errFormType
	}
	body, err := readBody(w, r)
	return string(body), err
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil, errors.New("the body must not be compressed")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, errFormSize
	}
	if err != nil {
		return nil, errors.New("the body could not be read")
	}
	return body, nil
}

func isMediaType(r *http.Request, want string) bool {
	list := r.Header.Values("Content-Type")
	if len(list) != 1 {
		return false
	}
	got, _, err := mime.ParseMediaType(list[0])
	return err == nil && got == want
}

// endpointParams reads the parameters of the token and revocation endpoints.
// They belong into the body: what stands in a URL ends in logs.
func endpointParams(w http.ResponseWriter, r *http.Request) (params, error) {
	if r.URL.RawQuery != "" {
		return params{}, invalidRequest("parameters belong into the body, not into the URL")
	}
	body, err := readForm(w, r)
	if err != nil {
		return params{}, invalidRequest(err.Error())
	}
	p, err := parseParams(body)
	if err != nil {
		return params{}, invalidRequest(err.Error())
	}
	return p, nil
}
