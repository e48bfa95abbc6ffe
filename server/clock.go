//go:build !failpoints

package server

import "time"

// wallClock is the time that a server keeps where Options name no other.
func wallClock() time.Time { return time.Now() }
