// Command mcp-clerk is both ends of a Clerk-protected MCP connection: "serve"
// is the remote server, "connect" the local stdio bridge to it.
//
// This package owns flags, exit codes, hints and what a terminal shows; one
// file a command. It may import every room. Its invariant: in "connect",
// standard output carries JSON-RPC and nothing else.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], terminal{os.Stdin, os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}
