//go:build unix

package qt

import (
	"testing"

	"golang.org/x/sys/unix"
)

func duplicate(t *testing.T, fd int) int {
	t.Helper()
	copied, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	return copied
}
