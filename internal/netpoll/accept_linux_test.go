package netpoll

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// Connections that are accepted past the net package send short messages at once, as its own do.
func TestAcceptedConnectionsDoNotDelay(t *testing.T) {
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a := NewAcceptor(l)
	defer a.Close()
	theirs, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	c, err := a.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Own(nobody{}, nil); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if on, err := unix.GetsockoptInt(int(c.(*Socket).fd), unix.IPPROTO_TCP, unix.TCP_NODELAY); on == 0 || err != nil {
		t.Error(on, err)
	}
	if c.RemoteAddr().String() != theirs.LocalAddr().String() || c.LocalAddr().String() != l.Addr().String() {
		t.Error(c.RemoteAddr(), c.LocalAddr())
	}
}

// nobody is an Owner that does nothing.
type nobody struct{}

func (nobody) Readable(bool) {}
func (nobody) Writable()     {}
func (nobody) HungUp()       {}
func (nobody) TakenOver()    {}
func (nobody) Flush()        {}
