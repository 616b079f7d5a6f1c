package foyer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A fault is what a connection does instead of what it should.
type fault int

const (
	noFault   fault = iota
	fails           // returns an error
	ends            // returns io.EOF, from Write, too
	resets          // is closed from the other side
	stalls          // does not return before its deadline, or Close
	trickles        // reads or writes a single byte, once; a short write comes without an error
	temporary       // returns an error that says it is a temporary one
	lies            // returns zero and no error
	faults          // how many there are
)

func (f fault) String() string {
	return [...]string{"no fault", "fails", "ends", "resets", "stalls", "trickles", "temporary", "lies"}[f]
}

// A faultyConn has a fault at one of its calls: Read, Write, Close and the setting of deadlines, counted from zero.
type faultyConn struct {
	net.Conn
	at    int
	fault fault
	bytes bool // each read hands out a single byte

	calls atomic.Int32
	stall net.Conn // one end of a pipe whose other end is silent
}

func newFaultyConn(conn net.Conn, f fault, at int) *faultyConn {
	stall, _ := net.Pipe()
	return &faultyConn{Conn: conn, at: at, fault: f, stall: stall}
}

// next returns what this call is to do.
func (c *faultyConn) next() fault {
	if int(c.calls.Add(1))-1 == c.at {
		return c.fault
	}
	return noFault
}

var errFault = errors.New("a fault on purpose")

type temporaryError struct{ error }

func (temporaryError) Timeout() bool   { return false }
func (temporaryError) Temporary() bool { return true }

// move is Read and Write.
func (c *faultyConn) move(p []byte, move func([]byte) (int, error), stalled func([]byte) (int, error)) (int, error) {
	switch c.next() {
	case fails:
		return 0, errFault
	case ends:
		return 0, io.EOF
	case resets:
		c.Conn.Close()
		return 0, syscall.ECONNRESET
	case stalls:
		return stalled(p)
	case trickles:
		return move(p[:min(len(p), 1)])
	case temporary:
		return 0, temporaryError{errFault}
	case lies:
		return 0, nil
	}
	return move(p)
}

func (c *faultyConn) Read(p []byte) (int, error) {
	if c.bytes {
		p = p[:min(len(p), 1)]
	}
	return c.move(p, c.Conn.Read, c.stall.Read)
}

func (c *faultyConn) Write(p []byte) (int, error) { return c.move(p, c.Conn.Write, c.stall.Write) }

func (c *faultyConn) Close() error {
	f := c.next()
	c.stall.Close()
	err := c.Conn.Close()
	if f != noFault {
		return errFault
	}
	return err
}

func (c *faultyConn) set(t time.Time, set func(net.Conn, time.Time) error) error {
	if c.next() != noFault {
		return errFault
	}
	return errors.Join(set(c.Conn, t), set(c.stall, t))
}

func (c *faultyConn) SetDeadline(t time.Time) error      { return c.set(t, net.Conn.SetDeadline) }
func (c *faultyConn) SetReadDeadline(t time.Time) error  { return c.set(t, net.Conn.SetReadDeadline) }
func (c *faultyConn) SetWriteDeadline(t time.Time) error { return c.set(t, net.Conn.SetWriteDeadline) }

// converseOver opens a socket between two connections, and has messages of all kinds echoed, pings, and a close handshake.
// It returns how far it came. What it leaves behind would keep its synctest bubble from ending.
func converseOver(t *testing.T, events bool, server, client net.Conn) error {
	var closed atomic.Int32
	h := &Handler{}
	e := Events{Message: echoBack, Closed: func(*Socket, CloseCode, string) { closed.Add(1) }}
	taken := 0
	served := make(chan struct{})
	var loops sync.WaitGroup
	go func() {
		defer close(served)
		for s := range h.Incoming(background) {
			taken++
			if events {
				s.Handle(e)
				continue
			}
			loops.Go(func() {
				echo(background, s)
				<-s.Done()
				closed.Add(1)
			})
		}
	}()
	go h.HandleConnection(server)
	begin := time.Now()
	err := exchange(t, client)
	if took := time.Since(begin); took > 3*time.Minute { // of fake time
		t.Errorf("it took %v", took)
	}
	client.Close()
	ctx, cancel := context.WithTimeout(background, 5*time.Minute)
	defer cancel()
	if shutErr := h.Shutdown(ctx); shutErr != nil {
		t.Errorf("shutdown: %v", shutErr)
	}
	<-served
	loops.Wait()
	synctest.Wait() // a socket that ended before it handled events tells of that on a goroutine
	if int(closed.Load()) != taken {
		t.Errorf("%d sockets, %d ends", taken, closed.Load())
	}
	return err
}

// exchange is the client's part of it.
func exchange(t *testing.T, conn net.Conn) error {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, _, err := Dial(ctx, "ws://localhost/", &DialOptions{
		NetDial: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		Proxy:   func(*http.Request) (*url.URL, error) { return nil, nil },
	})
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	defer s.Abort()
	long := bytes.Repeat([]byte("0123456789"), 4000)
	if err := s.SendText(ctx, "hello"); err != nil {
		return err
	}
	w, err := s.Writer(ctx, Binary)
	if err != nil {
		return err
	}
	w.Write([]byte("in "))
	w.Write([]byte("fragments"))
	if err := w.Close(); err != nil {
		return err
	}
	go s.Write(ctx, Binary, long)
	for _, want := range []string{"hello", "in fragments", string(long)} {
		_, p, err := s.Read(ctx)
		if err != nil {
			return err
		}
		if string(p) != want {
			t.Errorf("%.50q instead of %.50q", p, want)
		}
	}
	go s.Read(ctx)
	if _, err := s.Ping(ctx, nil); err != nil {
		return err
	}
	return s.Close(CloseNormalClosure, "")
}

// TestFaults has each call on a connection go wrong in each way, on either side.
func TestFaults(t *testing.T) {
	runs, broken := 0, make(map[fault]int)
	for _, onServer := range []bool{true, false} {
		for _, events := range []bool{false, true} {
			calls := 0
			run := func(f fault, at int) (err error) {
				synctest.Test(t, func(t *testing.T) {
					ours, theirs := net.Pipe()
					faulty := newFaultyConn(ours, f, at)
					if onServer {
						err = converseOver(t, events, faulty, theirs)
					} else {
						err = converseOver(t, events, theirs, faulty)
					}
					faulty.Close()
					theirs.Close()
					calls = int(faulty.calls.Load())
				})
				runs++
				return err
			}
			if err := run(noFault, -1); err != nil {
				t.Fatal(err)
			}
			for f := fails; f < faults; f++ {
				calls = 1
				for at := 0; at <= calls && at < 200; at++ {
					before := t.Failed()
					err := run(f, at)
					if err != nil {
						broken[f]++
					}
					if t.Failed() && !before {
						t.Fatalf("server %v, events %v: %v at call %d, %v", onServer, events, f, at, err)
					}
				}
			}
		}
	}
	t.Logf("%d runs; the conversation was broken off by %v", runs, broken)
	for f := fails; f < faults; f++ {
		if broken[f] < 10 && f != trickles {
			t.Errorf("%v has broken %d conversations only", f, broken[f])
		}
	}
}

// TestSingleBytes hands out and takes all that goes over the wire byte by byte.
func TestSingleBytes(t *testing.T) {
	for _, events := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ours, theirs := net.Pipe()
			a, b := newFaultyConn(ours, noFault, -1), newFaultyConn(theirs, noFault, -1)
			a.bytes, b.bytes = true, true
			if err := converseOver(t, events, a, b); err != nil {
				t.Error(err)
			}
			a.Close()
			b.Close()
		})
	}
}
