package main

import (
	"bufio"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// forgetStart gives back the pages of the program's file that its start has
// read: most belong to packages that only other commands need. What is needed
// after all comes back from the file.
func forgetStart() {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer func() { _ = maps.Close() }()
	program := ""
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		// From-to, permissions, offset, device, inode, and the file.
		fields := strings.Fields(lines.Text())
		if len(fields) != 6 {
			continue
		}
		if program == "" {
			program = fields[5] // stands first
		}
		if fields[5] != program || !strings.HasPrefix(fields[1], "r-") || !strings.HasSuffix(fields[1], "p") {
			continue // not the program's, or pages that differ from the file
		}
		from, to, _ := strings.Cut(fields[0], "-")
		start, errStart := strconv.ParseUint(from, 16, 64)
		end, errEnd := strconv.ParseUint(to, 16, 64)
		if errStart == nil && errEnd == nil && start < end {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(start), uintptr(end-start), unix.MADV_DONTNEED)
		}
	}
}
