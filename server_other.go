//go:build !unix

package foyer

import (
	"errors"
	"net"
	"os"
)

// listenerFile returns a copy of a listener's file.
func listenerFile(l net.Listener) (*os.File, error) {
	if f, ok := l.(interface{ File() (*os.File, error) }); ok {
		return f.File()
	}
	return nil, errors.ErrUnsupported
}
