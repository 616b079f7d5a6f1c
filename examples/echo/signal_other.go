//go:build !unix

package main

import "io"

// collectOnSignal does nothing: there is no SIGUSR1 here.
func collectOnSignal(io.Writer) {}
