package main

import (
	"debug/elf"
	"os"

	"golang.org/x/sys/unix"
)

// forgetStart gives back the pages of the program's file that its start has
// read: most belong to packages that only other commands need. What is needed
// after all comes back from the file.
func forgetStart() {
	program, err := elf.Open("/proc/self/exe")
	if err != nil {
		return
	}
	defer func() { _ = program.Close() }()
	if program.Type != elf.ET_EXEC {
		return // it lies elsewhere than its headers say
	}
	page := uint64(os.Getpagesize()) //nolint:gosec // never negative
	for _, segment := range program.Progs {
		// What is never written to is as it stands in the file.
		if segment.Type == elf.PT_LOAD && segment.Flags&elf.PF_W == 0 {
			from, to := segment.Vaddr&^(page-1), (segment.Vaddr+segment.Filesz)&^(page-1)
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(from), uintptr(to-from), unix.MADV_DONTNEED)
		}
	}
}
