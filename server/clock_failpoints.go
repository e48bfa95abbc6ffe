//go:build failpoints

package server

import (
	"fmt"
	"os"
	"time"
)

// clockEnv sets the clock of this process off by a duration such as "-5m", as
// if its machine's were.
const clockEnv = "MCP_CLERK_CLOCK_OFFSET"

var clockOffset = readClockOffset(os.Getenv(clockEnv))

func readClockOffset(offset string) time.Duration {
	if offset == "" {
		return 0
	}
	d, err := time.ParseDuration(offset)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", clockEnv, err))
	}
	return d
}

func wallClock() time.Time { return time.Now().Add(clockOffset) }
