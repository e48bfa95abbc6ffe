package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// compactPatience bounds a compaction, during which the server says nothing.
const compactPatience = time.Hour

type compactOptions struct {
	ownServer
	term terminal
}

func newCompactCmd(term terminal) *cobra.Command {
	opts := compactOptions{term: term}
	cmd := &cobra.Command{
		Use:   "compact",
		Short: "Give back the space that the embedded store of a running server no longer uses",
		Long: `Rewrites the file of the embedded store without the space that deleted and expired
records have left. Reads go on meanwhile, writes wait. It needs as much room on the
disk as the store then takes. The server must run with --internal-addr.`,
		Example: "  mcp-clerk compact\n  mcp-clerk compact --data-dir /var/lib/mcp-clerk",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runCompact(cmd.Context(), opts)
		},
	}
	opts.bind(cmd.Flags())
	return cmd
}

func runCompact(ctx context.Context, opts compactOptions) error {
	client, err := opts.find(newEnvironment(), map[string]string{
		"redis":    "Redis gives back memory by itself",
		"valkey":   "Valkey gives back memory by itself",
		"postgres": "PostgreSQL does this by itself (autovacuum)",
		"memory":   "there is no file to compact",
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, compactPatience)
	defer cancel()
	resp, err := client.post(ctx, "/compact")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var sizes struct{ Before, After int64 }
	if err := json.NewDecoder(io.LimitReader(resp.Body, 4<<10)).Decode(&sizes); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	_, err = fmt.Fprintf(opts.term.out, "compacted %q: %s before, %s after\n", client.store, byteSize(sizes.Before), byteSize(sizes.After))
	return err
}

// byteSize is a number of bytes for a person.
func byteSize(n int64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	if n < 1024 {
		return fmt.Sprintf("%d %s", n, units[0])
	}
	f, unit := float64(n), 0
	for f >= 1024 && unit < len(units)-1 {
		f, unit = f/1024, unit+1
	}
	return fmt.Sprintf("%.1f %s", f, units[unit])
}
