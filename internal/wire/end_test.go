package wire

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/foyerws/foyer/internal/netpoll"
)

func TestHungUp(t *testing.T) {
	for network, addr := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "s")} {
		t.Run(network, func(t *testing.T) {
			ours, theirs := pair(t, network, addr)
			c := framed(ours, nil, server, nil)
			if c.HungUp() {
				t.Error("while all is well")
			}
			theirs.Write(text("hello"))
			time.Sleep(10 * time.Millisecond)
			theirs.Close()
			time.Sleep(10 * time.Millisecond)
			if c.HungUp() {
				t.Error("while something is left to read")
			}
			if err := c.Wait(t.Context()); err != nil || c.HungUp() {
				t.Error("while something is left to take", err)
			}
			c.Skip()
			if !c.HungUp() {
				t.Error("not at the end")
			}
			c.Close()
			if !c.HungUp() {
				t.Error("not when closed")
			}
		})
	}
	t.Run("buffering connection", func(t *testing.T) {
		// A connection that has bytes in a buffer of its own gives them past any deadline: they must not be lost.
		c := framed(&script{reads: []any{text("hello"), os.ErrDeadlineExceeded}}, nil, server, nil)
		for range 2 {
			if c.LookCloser() != netpoll.Arrived {
				t.Error("while something is left to read")
			}
		}
		if err := c.Wait(t.Context()); err != nil || c.Left() != 5 {
			t.Error(err)
		}
	})
	t.Run("end of a buffering connection", func(t *testing.T) {
		if c := framed(&script{reads: []any{syscall.ECONNRESET}}, nil, server, nil); c.Look() != netpoll.Unknown || c.LookCloser() != netpoll.Ended {
			t.Error("not at the end")
		}
	})
}

func TestFinishWaitsNoLongerThanItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		c := framed(ours, nil, server, nil)
		c.Write([]byte("nobody reads this"))
		begin := time.Now()
		c.Finish(time.Second, true)
		if time.Since(begin) != time.Second {
			t.Error(time.Since(begin))
		}
		theirs.Close()
	})
}

// slowWriter reads what it is given late.
type slowWriter struct {
	script
	begun, proceed chan struct{}
}

func (s *slowWriter) Write(p []byte) (int, error) {
	close(s.begun)
	<-s.proceed
	return s.script.Write(p)
}

func (s *slowWriter) Close() error {
	time.AfterFunc(10*time.Millisecond, func() { close(s.proceed) })
	return nil
}

func TestBreakWaitsForWhoWrites(t *testing.T) {
	s := &slowWriter{begun: make(chan struct{}), proceed: make(chan struct{})}
	c := New(s, nil)
	c.Frame(&server, callbacks{})
	c.Open()
	lent := make([]byte, LendSize)
	mark, _ := c.Send(&Frame{Payload: lent, Lent: true})
	<-s.begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.WaitWritten(ctx, mark); err != context.Canceled {
		t.Error(err)
	}
	c.Break()
	clear(lent) // the race detector tells if somebody still reads it
}
