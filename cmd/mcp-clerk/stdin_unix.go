//go:build unix

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// pollable returns f, if it is a pipe or a socket, as a file whose reads wait
// in the runtime's poller instead of in a thread of their own, and can be ended.
// That is a property of the pipe, which others may hold too: restore takes it
// back.
func pollable(f *os.File) (in *os.File, restore func()) {
	fd, ok := blockingPipe(f)
	if !ok {
		return f, func() {}
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return f, func() {}
	}
	if err := unix.SetNonblock(own, true); err != nil {
		_ = unix.Close(own)
		return f, func() {}
	}
	in = os.NewFile(uintptr(own), f.Name())
	return in, func() {
		_ = unix.SetNonblock(fd, false)
		_ = in.Close()
	}
}

// blockingPipe returns the descriptor of f if it is a pipe or a socket whose
// reads block. Terminals and files stay as they are.
func blockingPipe(f *os.File) (fd int, ok bool) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, false
	}
	failed := conn.Control(func(p uintptr) {
		fd = int(p)
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil {
			return
		}
		flags, err := unix.FcntlInt(p, unix.F_GETFL, 0)
		kind := st.Mode & unix.S_IFMT
		ok = err == nil && flags&unix.O_NONBLOCK == 0 && (kind == unix.S_IFIFO || kind == unix.S_IFSOCK)
	})
	return fd, ok && failed == nil
}
