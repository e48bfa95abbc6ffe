package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// withSuggestion adds the nearest known flag to an unknown-flag error.
func withSuggestion(cmd *cobra.Command, err error) error {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok {
		return err
	}
	name := strings.TrimLeft(unknown.GetSpecifiedName(), "-")
	best, bestDistance := "", 4
	consider := func(f *pflag.Flag) {
		if d := distance(name, f.Name); d < bestDistance {
			best, bestDistance = f.Name, d
		}
	}
	cmd.Flags().VisitAll(consider)
	cmd.InheritedFlags().VisitAll(consider)
	if best == "" || bestDistance*2 > len(name)+1 {
		return err
	}
	return fmt.Errorf("%w; did you mean --%s?", err, best)
}

// distance is the Levenshtein distance between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j+1]+1, row[j]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
