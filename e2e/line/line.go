// Package line has TCP connections that can be cut or held up, for tests.
package line

import (
	"io"
	"net"
	"sync"
)

// A Line is a TCP proxy that can be cut, or held up.
type Line struct {
	net.Listener
	to    string
	mu    sync.Mutex
	out   bool
	held  chan struct{} // not nil while nothing gets through; closed when it does again
	conns []net.Conn
}

// New returns a line to an address. Close it, and what it carries ends when it is pulled.
func New(to string) (*Line, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &Line{Listener: l, to: to}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go c.carry(conn)
		}
	}()
	return c, nil
}

// Close cuts the line for good.
func (c *Line) Close() error {
	c.Hold(false)
	c.Pull(true)
	return c.Listener.Close()
}

func (c *Line) carry(conn net.Conn) {
	defer conn.Close()
	far, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer far.Close()
	c.mu.Lock()
	if c.out {
		c.mu.Unlock()
		return
	}
	c.conns = append(c.conns, conn, far)
	c.mu.Unlock()
	go func() {
		io.Copy(far, &end{c, conn})
		far.Close()
	}()
	io.Copy(conn, &end{c, far})
}

// An end is one end of a connection, whose bytes are held back while the line is.
type end struct {
	*Line
	net.Conn
}

func (e *end) Read(p []byte) (int, error) {
	n, err := e.Conn.Read(p)
	e.mu.Lock()
	held := e.held
	e.mu.Unlock()
	if held != nil {
		<-held
	}
	return n, err
}

// Hold lets nothing through, without a sign to either end, until it is called with false.
func (c *Line) Hold(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case on && c.held == nil:
		c.held = make(chan struct{})
	case !on && c.held != nil:
		close(c.held)
		c.held = nil
	}
}

// Pull cuts all connections, and lets none through until it is plugged in again.
func (c *Line) Pull(out bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = out
	if out {
		for _, conn := range c.conns {
			conn.Close()
		}
		c.conns = nil
	}
}
