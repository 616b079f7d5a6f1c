//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/foyerws/foyer/internal/wstest"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"
)

const (
	stormAtOnce   = 256
	stormSessions = 32 // connections with HTTP/2
	stormPatience = 10 * time.Second
)

// A storm is many clients that come at the same time. Each says one thing and leaves; one that is refused does not come
// back.
type storm struct {
	*load
	clients    int64
	came       atomic.Int64
	served     atomic.Int64
	send, want []byte
	complaint  sync.Once
}

// storm has no warm-up: what a server does with the first clients counts.
func (l *load) storm() (result, error) {
	s := &storm{load: l, clients: 10000}
	if l.duration < time.Second {
		s.clients = 1000
	}
	s.send, s.want = l.frames(1, 128)
	workers, work := stormAtOnce, s.visitors
	if l.http2 {
		workers, work = stormSessions, s.visitorsHTTP2
	}
	m, err := l.newMeter()
	if err != nil {
		return result{}, err
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(work)
	}
	wg.Wait()
	r, err := m.stop(s.served.Load())
	r.Refused = float64(s.clients - s.served.Load())
	return r, err
}

// next returns the number of the next client, and false when all have come.
func (s *storm) next() (int, bool) {
	i := s.came.Add(1) - 1
	return int(i), i < s.clients
}

// leave counts a client that was served. The first of the others is reported.
func (s *storm) leave(err error) {
	if err == nil {
		s.served.Add(1)
		return
	}
	s.complaint.Do(func() { fmt.Fprintln(os.Stderr, "a client was refused:", err) })
}

// visitors are clients one after the other, each with a connection of its own.
func (s *storm) visitors() {
	for i, ok := s.next(); ok; i, ok = s.next() {
		s.leave(s.visit(i))
	}
}

func (s *storm) visit(i int) error {
	conn, err := s.dial(i)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(stormPatience))
	_, r, err := upgradeOn(conn, "")
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	if _, err := conn.Write(s.send); err != nil {
		return err
	}
	echo := make([]byte, len(s.want))
	if _, err := io.ReadFull(r, echo); err != nil {
		return fmt.Errorf("echo: %w", err)
	}
	if !bytes.Equal(echo, s.want) {
		return errEcho
	}
	if _, err := conn.Write(closeFrame); err != nil {
		return err
	}
	rest, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("end: %w", err)
	}
	return checkEnd(rest)
}

var errEcho = errors.New("the echo differs")

// closeFrame is a client's, with code 1000.
var closeFrame = wstest.Masked(0x88, "\x03\xe8")

// checkEnd looks at what a server sends after it got a close frame: one of its own, or nothing, as some do.
func checkEnd(rest []byte) error {
	if len(rest) > 0 && (len(rest) < 2 || rest[0] != 0x88 || len(rest) != 2+int(rest[1])) {
		return fmt.Errorf("the server ends with %x", rest)
	}
	return nil
}

// dial connects from one of sixteen addresses, so that there are ports enough.
func (s *storm) dial(i int) (net.Conn, error) {
	d := net.Dialer{
		Timeout:   stormPatience,
		KeepAlive: -1,
		LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+i%16))},
		Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
			})
		},
	}
	return d.Dial("tcp4", s.addr())
}

// visitorsHTTP2 are clients on one HTTP/2 connection, a few at the same time, each with a stream of its own.
func (s *storm) visitorsHTTP2() {
	conn, err := newSession(s.addr())
	if err != nil {
		s.leave(err)
		return
	}
	defer conn.Close()
	open := make(map[uint32]*visitor)
	for {
		for len(open) < stormAtOnce/stormSessions {
			if _, ok := s.next(); !ok {
				break
			}
			open[conn.open()] = &visitor{}
		}
		if len(open) == 0 {
			return
		}
		conn.SetDeadline(time.Now().Add(stormPatience))
		f, err := conn.next()
		if err != nil {
			s.leave(err) // none of those that are open is served
			return
		}
		id := f.Header().StreamID
		v := open[id]
		if v == nil {
			continue // net/http resets a stream that it has ended and we have not
		}
		if done, err := v.answer(conn, f, s.send, s.want); done || err != nil {
			s.leave(err)
			delete(open, id)
		}
	}
}

// A visitor is a client on a stream.
type visitor struct {
	echoed bool
	came   []byte // of the echo, and then of the server's close frame
}

// answer answers a frame, and reports whether it was the last.
func (v *visitor) answer(conn *session, f http2.Frame, send, want []byte) (last bool, err error) {
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		if status := f.PseudoValue("status"); status != "200" || f.StreamEnded() {
			return true, fmt.Errorf("handshake: %s", status)
		}
		return false, conn.framer.WriteData(f.StreamID, false, send)
	case *http2.DataFrame:
		conn.giveBack(uint32(len(f.Data())))
		v.came = append(v.came, f.Data()...)
		switch {
		case v.echoed && f.StreamEnded():
			return true, checkEnd(v.came)
		case f.StreamEnded():
			return true, fmt.Errorf("echo: %w", io.ErrUnexpectedEOF)
		case v.echoed || len(v.came) < len(want):
			return false, nil
		case !bytes.Equal(v.came, want):
			return true, errEcho
		}
		v.echoed, v.came = true, nil
		return false, conn.framer.WriteData(f.StreamID, false, closeFrame)
	}
	return true, fmt.Errorf("the server says %v", f)
}
