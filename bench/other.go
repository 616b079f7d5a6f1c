//go:build !linux

// Bench works on Linux only: it pins processes to cores and reads /proc.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench works on Linux only")
	os.Exit(1)
}
