package netpoll

import (
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// accepted returns a Socket that nobody owns, and the other end of its connection.
func accepted(t *testing.T) (*Socket, net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := NewAcceptor(l)
	defer a.Close()
	theirs, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	s, err := a.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return s.(*Socket), theirs
}

// Whatever ends the wait for the first input while Own is under way, arrived is called once, and may close the Socket.
func TestArrivedWhileOwned(t *testing.T) {
	for name, end := range map[string]func(*Socket, net.Conn){
		"interrupted": func(s *Socket, _ net.Conn) { s.Interrupt() },
		"overdue":     func(s *Socket, _ net.Conn) { s.SetDeadline(time.Now()) },
		"input":       func(_ *Socket, theirs net.Conn) { theirs.Write([]byte("x")) },
		"closed":      func(_ *Socket, theirs net.Conn) { theirs.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			for range 300 {
				s, theirs := accepted(t)
				if name == "overdue" { // SetDeadline is for one goroutine at a time
					end(s, theirs)
				} else {
					go end(s, theirs)
				}
				arrived := make(chan bool, 2)
				if err := s.Own(nobody{}, func(bool) { s.Close(); arrived <- true }); err != nil {
					t.Fatal(err)
				}
				select {
				case <-arrived:
				case <-time.After(10 * time.Second):
					t.Fatal("arrived was not called")
				}
			}
		})
	}
}

// Where there is no room in a loop, the descriptor is closed once, and arrived is not called: its number may be another's by then.
func TestNoRoomInALoop(t *testing.T) {
	s, _ := accepted(t)
	s.SetDeadline(time.Now().Add(20 * time.Millisecond))
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	regular, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer regular.Close()
	if err := unix.Dup2(int(regular.Fd()), int(s.fd)); err != nil { // which epoll_ctl does not take
		t.Fatal(err)
	}
	if err := s.Own(nobody{}, func(bool) { t.Error("arrived was called") }); err == nil {
		t.Fatal("a file is waited for")
	} else if temporary, ok := err.(interface{ Temporary() bool }); !ok || !temporary.Temporary() {
		t.Error(err)
	}
	if err := unix.Dup2(int(file.Fd()), int(s.fd)); err != nil { // the number is somebody else's now
		t.Fatal(err)
	}
	defer unix.Close(int(s.fd))
	time.Sleep(50 * time.Millisecond)
	if _, err := unix.FcntlInt(uintptr(s.fd), unix.F_GETFD, 0); err != nil {
		t.Error("another's descriptor was closed:", err)
	}
}
