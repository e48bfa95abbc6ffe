// Package mcphttp serves the Model Context Protocol over Streamable HTTP: the
// revisions with sessions (2025-03-26, 2025-06-18, 2025-11-25, here called
// legacy) and the stateless revision 2026-07-28 (here called modern) on one
// endpoint, in front of one [Handler] that answers messages.
//
// It owns everything between the socket and the message: origins, tokens,
// media types, sizes, the era of a request, session ids, streams, and which
// HTTP status says what. It does not know what a tool is. It declares what it
// needs of others: [Verifier] (tokens), [SessionStore] (what a legacy session
// changed) and [Mailbox] (other instances of the server).
//
// It may import jsonrpc, identity and secret, and no MCP implementation.
//
// Its one invariant: one request has one stream. What a handler sends while it
// answers a request goes to that request's response, in order, none lost, the
// result last; and nothing but a message of the same session under the same
// grant can reach it from outside.
package mcphttp
