//go:build !unix

package qt

import (
	"errors"
	"net"
)

// listenerFrom returns a listener on a copy of fd, where Go can make one.
func listenerFrom(int) (net.Listener, error) { return nil, errors.ErrUnsupported }

// descriptorOf returns the socket of a listener, or -1.
func descriptorOf(net.Listener) int { return -1 }
