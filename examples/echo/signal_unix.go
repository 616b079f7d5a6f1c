//go:build unix

package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
)

// collectOnSignal gives unused memory back to the system on each SIGUSR1, so that what the sockets cost can be seen from
// outside.
func collectOnSignal(w io.Writer) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	for range signals {
		debug.FreeOSMemory()
		fmt.Fprintf(w, "gc goroutines=%d\n", runtime.NumGoroutine())
	}
}
