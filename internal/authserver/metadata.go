package authserver

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// metadata is the document of RFC 8414 and, with the members that OpenID
// Connect Discovery 1.0 requires, of that too: some clients validate one
// against the schema of the other, so both paths answer with the whole.
type metadata struct {
	Issuer                 string   `json:"issuer"`
	Authorization          string   `json:"authorization_endpoint"`
	Token                  string   `json:"token_endpoint"`
	Registration           string   `json:"registration_endpoint,omitempty"`
	Device                 string   `json:"device_authorization_endpoint,omitempty"` // RFC 8628 section 4
	Revocation             string   `json:"revocation_endpoint"`
	Introspection          string   `json:"introspection_endpoint"`
	ClientDocuments        bool     `json:"client_id_metadata_document_supported"`
	JWKS                   string   `json:"jwks_uri"`
	Scopes                 []string `json:"scopes_supported"`
	ResponseTypes          []string `json:"response_types_supported"`
	ResponseModes          []string `json:"response_modes_supported"`
	GrantTypes             []string `json:"grant_types_supported"`
	TokenAuthMethods       []string `json:"token_endpoint_auth_methods_supported"`
	TokenAuthAlgs          []string `json:"token_endpoint_auth_signing_alg_values_supported"`
	RevocationAuthMethods  []string `json:"revocation_endpoint_auth_methods_supported"`
	RevocationAuthAlgs     []string `json:"revocation_endpoint_auth_signing_alg_values_supported"`
	InspectionAuthMethods  []string `json:"introspection_endpoint_auth_methods_supported"`
	InspectionAuthAlgs     []string `json:"introspection_endpoint_auth_signing_alg_values_supported"`
	ChallengeMethods       []string `json:"code_challenge_methods_supported"`
	IssParameter           bool     `json:"authorization_response_iss_parameter_supported"` // RFC 9207
	ProtectedResources     []string `json:"protected_resources"`                            // RFC 9728 section 4
	Prompts                []string `json:"prompt_values_supported"`
	SubjectTypes           []string `json:"subject_types_supported"`
	IDTokenAlgs            []string `json:"id_token_signing_alg_values_supported"`
	RequestParameter       bool     `json:"request_parameter_supported"`
	RequestURIParameter    bool     `json:"request_uri_parameter_supported"` // its default is true
	ClaimsParameter        bool     `json:"claims_parameter_supported"`
	RequireSignedRequest   bool     `json:"require_signed_request_object"`
	RequirePushedAuthorize bool     `json:"require_pushed_authorization_requests"`
	// ConnectClient is a member beyond the standard's, as RFC 8414 section 2
	// allows: the client id that "mcp-clerk connect" need not register.
	ConnectClient string `json:"mcp_clerk_connect_client"`
}

// resourceMetadata is the document of RFC 9728.
type resourceMetadata struct {
	Resource             string   `json:"resource"`
	AuthorizationServers []string `json:"authorization_servers"`
	Scopes               []string `json:"scopes_supported"`
	BearerMethods        []string `json:"bearer_methods_supported"`
	Name                 string   `json:"resource_name"`
}

// documents are the public documents, encoded once: path -> origin asked for
// -> body. On loopback the resource metadata answers under each name of the
// listener with that name, while the issuer stays one.
type documents map[string]map[string][]byte

// newDocuments makes them for the scopes of the resource and all scopes.
func (s *Server) newDocuments(tools, all []string) documents {
	st := &s.site
	registration := ""
	if s.admission.policy != AdmitConfigured {
		registration = st.issuer + "/register"
	}
	device, grantTypes := st.issuer+"/device_authorization", []string{grantTypeCode, grantTypeRefresh, grantTypeDevice}
	if s.opts.NoDevice {
		device, grantTypes = "", grantTypes[:2]
	}
	md := encode(metadata{
		Issuer:                st.issuer,
		Authorization:         st.issuer + "/authorize",
		Token:                 st.issuer + "/token",
		Registration:          registration,
		Introspection:         st.issuer + "/introspect",
		ClientDocuments:       s.admission.policy != AdmitConfigured,
		Device:                device,
		Revocation:            st.issuer + "/revoke",
		JWKS:                  st.issuer + "/jwks.json",
		Scopes:                all,
		ResponseTypes:         []string{"code"},
		ResponseModes:         []string{"query"},
		GrantTypes:            grantTypes,
		TokenAuthMethods:      authMethods,
		TokenAuthAlgs:         algNames,
		RevocationAuthMethods: authMethods,
		RevocationAuthAlgs:    algNames,
		InspectionAuthMethods: authMethods[1:],
		InspectionAuthAlgs:    algNames,
		ChallengeMethods:      []string{"S256"},
		IssParameter:          true,
		ProtectedResources:    []string{st.resource},
		Prompts:               []string{"none", "login", "consent", "select_account"},
		SubjectTypes:          []string{"public"},
		IDTokenAlgs:           []string{"RS256"},
		ConnectClient:         ConnectClient,
	})
	server := map[string][]byte{st.origin: md}
	issuer := st.issuer
	if s.opts.External != nil {
		issuer = s.opts.External.Issuer
	}
	origins := map[string]bool{st.origin: true}
	for host := range st.aliases {
		origins[st.scheme+"://"+host] = true
	}
	resource := func(path string) map[string][]byte {
		byOrigin := map[string][]byte{}
		for origin := range origins {
			byOrigin[origin] = encode(resourceMetadata{
				Resource:             origin + path,
				AuthorizationServers: []string{issuer},
				Scopes:               tools,
				BearerMethods:        []string{"header"},
				Name:                 s.opts.ServerName,
			})
		}
		return byOrigin
	}
	d := documents{
		resourceMetadataPath:           resource(st.path),
		resourceMetadataPath + st.path: resource(st.path),
	}
	if s.opts.External == nil {
		// RFC 8414 section 3.1 inserts the well-known part before the path,
		// OpenID Connect Discovery section 4 appends it.
		d["/.well-known/oauth-authorization-server"+st.prefix] = server
		d["/.well-known/openid-configuration"+st.prefix] = server
		d[st.prefix+"/.well-known/openid-configuration"] = server
	}
	for _, path := range st.more {
		d[resourceMetadataPath+path] = resource(path)
	}
	return d
}

// resourceMetadataPath is where the path of a resource is appended (RFC 9728
// section 3.1).
const resourceMetadataPath = "/.well-known/oauth-protected-resource"

func encode(v any) []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("authserver: encode metadata: %v", err)) // strings and booleans only
	}
	return append(b, '\n')
}

func (s *Server) document(path string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		byOrigin := s.offer.Load().documents[path]
		body, ok := byOrigin[s.site.originFor(r)]
		if !ok {
			body = byOrigin[s.site.origin]
		}
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", "public, max-age=300")
		h.Add("Vary", "Host")
		w.Write(body)
	}
}

// jwks is the key set that discovery requires. It is empty and true: no
// id_token and no signed access token is issued.
func (s *Server) jwks(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Cache-Control", "public, max-age=300")
	w.Write([]byte("{\"keys\":[]}\n"))
}
