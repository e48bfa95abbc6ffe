package authserver

import (
	_ "embed"
	"encoding/json"
	"net/url"
	"sync"
)

// knownClients is the register of clients in use: a redirect URI in it proves
// where codes go, a document in it stands in where the client's own host cannot
// be reached, and a private-use redirect URI in it may be registered. It
// admits and trusts nobody by itself.
var knownClients = sync.OnceValue(readKnown)

//go:embed known.json
var knownJSON []byte

// known is one client of the register.
type known struct {
	Name             string            `json:"name"`
	Domain           string            `json:"domain"`
	Redirects        []string          `json:"redirects"`         // https, exact
	PrivateRedirects []string          `json:"private_redirects"` // RFC 8252 section 7.1, exact
	Documents        []json.RawMessage `json:"documents"`         // copies, without keys
}

type knownRegister struct {
	domains   map[string]string // redirect URI -> domain
	documents map[string][]byte // client id -> document
	private   []string
}

func readKnown() knownRegister {
	reg := knownRegister{domains: map[string]string{}, documents: map[string][]byte{}}
	var list []known
	if err := json.Unmarshal(knownJSON, &list); err != nil {
		panic("authserver: known clients: " + err.Error()) // embedded
	}
	for _, k := range list {
		for _, uri := range k.Redirects {
			reg.domains[uri] = k.Domain
		}
		reg.private = append(reg.private, k.PrivateRedirects...)
		for _, body := range k.Documents {
			var id struct {
				ClientID string `json:"client_id"`
			}
			if err := json.Unmarshal(body, &id); err != nil || id.ClientID == "" {
				panic("authserver: a document of " + k.Name + " names no client") // embedded
			}
			reg.documents[id.ClientID] = body
		}
	}
	return reg
}

// knownDocument is the copy of a well-known client's document, or nil.
func knownDocument(id string) []byte { return knownClients().documents[id] }

// domain is the proven domain to show for c when codes go to redirect, or "".
// The document of c proves its host, and an https redirect URI of the register
// proves its own: the code goes nowhere else, whoever registered it.
func (c *client) domain(redirect string) string {
	if c.verified && isDocumentID(c.ID) {
		u, err := url.Parse(c.ID)
		if err != nil {
			return ""
		}
		return u.Host
	}
	return knownClients().domains[redirect]
}
