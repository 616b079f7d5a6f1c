package stream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/foyerws/foyer/internal/netpoll"
)

// An answerer is an Answer whose writes block while it is held.
type answerer struct {
	held    chan struct{} // closed to let writes go on
	broken  chan struct{} // closed at the deadline
	body    *io.PipeReader
	written bytes.Buffer
	status  int
	flushed int
	panics  bool
	header  http.Header
}

func newAnswerer(body *io.PipeReader) *answerer {
	held := make(chan struct{})
	close(held)
	return &answerer{held: held, broken: make(chan struct{}), body: body, header: http.Header{"X-Old": {"1"}}}
}

func (a *answerer) Header() http.Header    { return a.header }
func (a *answerer) WriteHeader(status int) { a.status = status }

// wait waits as long as flow control would.
func (a *answerer) wait() error {
	if a.panics {
		panic("Write called after Handler finished")
	}
	select {
	case <-a.held:
		return nil
	case <-a.broken:
		return errors.New("stream reset")
	}
}

func (a *answerer) FlushError() error {
	a.flushed++
	return a.wait()
}

func (a *answerer) Write(p []byte) (int, error) {
	if err := a.wait(); err != nil {
		return 0, err
	}
	return a.written.Write(p)
}

func (a *answerer) SetReadDeadline(t time.Time) error {
	if !t.IsZero() && t.Before(time.Now()) {
		a.body.CloseWithError(os.ErrDeadlineExceeded)
	}
	return nil
}

func (a *answerer) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() {
		time.AfterFunc(time.Until(t), func() { close(a.broken) })
	}
	return nil
}

// newTestStream returns a Stream that is being pumped, what writes to its body, and a channel that is closed when the
// handler may return. The head of its answer is out unless it is held.
func newTestStream(t *testing.T, ctx context.Context, held bool) (*Stream, *io.PipeWriter, *answerer, chan struct{}) {
	t.Helper()
	in, out := io.Pipe()
	a := newAnswerer(in)
	if held {
		a.held = make(chan struct{})
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodConnect, "/", in)
	if err != nil {
		t.Fatal(err)
	}
	s := New(r, a, time.Time{})
	returned := make(chan struct{})
	go func() {
		s.Send()
		s.Pump()
		close(returned)
	}()
	t.Cleanup(func() { s.Close() })
	synctest.Wait()
	return s, out, a, returned
}

func TestStreamReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, out, _, returned := newTestStream(t, t.Context(), false)
		long := strings.Repeat("0123456789abcdef", 5000)
		go func() {
			io.WriteString(out, "hello")
			io.WriteString(out, long)
			io.WriteString(out, "!")
			out.Close()
		}()
		if got, err := io.ReadAll(s); err != nil || string(got) != "hello"+long+"!" {
			t.Error(len(got), err)
		}
		if _, err := s.Read(make([]byte, 1)); err != io.EOF {
			t.Error(err)
		}
		synctest.Wait()
		select {
		case <-returned:
			t.Error("the handler may return though answers can still be written")
		default:
		}
		s.Close()
		<-returned
		if _, err := s.Read(make([]byte, 1)); err != net.ErrClosed {
			t.Error(err)
		}
	})
}

// A deadline that has passed ends a read, and nothing is lost.
func TestStreamDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, out, _, _ := newTestStream(t, t.Context(), false)
		begin := time.Now()
		s.SetReadDeadline(begin.Add(time.Second))
		if _, err := s.Read(make([]byte, 10)); err != os.ErrDeadlineExceeded || time.Since(begin) != time.Second {
			t.Error(err, time.Since(begin))
		}
		io.WriteString(out, "late")
		synctest.Wait() // until it was read ahead
		if n, err := s.Read(make([]byte, 10)); n != 4 || err != nil {
			t.Error("what has come can be read all the same:", n, err)
		}
		waiting := make(chan error)
		s.SetReadDeadline(time.Time{})
		go func() {
			_, err := s.Read(make([]byte, 10))
			waiting <- err
		}()
		synctest.Wait()
		s.SetReadDeadline(time.Unix(1, 0))
		if err := <-waiting; err != os.ErrDeadlineExceeded {
			t.Error(err)
		}
		s.Close()
		if err := s.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}

// Close has whoever reads, writes or pumps return, whatever they wait for, and nobody uses the answer afterwards.
func TestStreamClose(t *testing.T) {
	for _, unread := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s, out, a, returned := newTestStream(t, t.Context(), false)
			a.held = make(chan struct{}) // from now on
			results := make(chan error, 2)
			if unread {
				go io.WriteString(out, "what nobody reads")
			} else {
				go func() {
					_, err := s.Read(make([]byte, 1))
					results <- err
				}()
			}
			go func() {
				_, err := s.Write([]byte("never taken"))
				results <- err
			}()
			synctest.Wait()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			<-returned
			if !unread {
				if err := <-results; err == nil {
					t.Error("the read is still there")
				}
			}
			if err := <-results; err == nil {
				t.Error("the write was not broken off")
			}
			a.panics = true
			if _, err := s.Write([]byte("x")); err != net.ErrClosed {
				t.Error(err)
			}
			if err := s.Close(); err != net.ErrClosed {
				t.Error(err)
			}
		})
	}
}

// What was written is not broken off by Close.
func TestStreamWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, a, returned := newTestStream(t, t.Context(), false)
		if n, err := s.Write([]byte("hello")); n != 5 || err != nil || a.flushed != 2 {
			t.Error(n, err, a.flushed)
		}
		s.Close()
		<-returned
		select {
		case <-a.broken:
			t.Error("the stream was reset")
		default:
		}
		if a.written.String() != "hello" {
			t.Error(a.written.String())
		}
	})
}

// A head that the connection does not take holds up nobody but the handler, and that until Close.
func TestStreamWhoseHeadIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _, returned := newTestStream(t, t.Context(), true)
		go s.Write([]byte("waits behind it"))
		s.Close()
		<-s.Released()
		<-returned
	})
}

// A handler that returned too early is an error, and no panic.
func TestStreamOfAHandlerThatHasReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s, _, a, _ := newTestStream(t, ctx, false)
		a.panics = true
		if _, err := s.Write([]byte("x")); err == nil || !strings.Contains(err.Error(), "has returned") {
			t.Error(err)
		}
		cancel()
		if s.Look() != netpoll.Quiet {
			t.Error("only the context has ended, and Pump would notice more")
		}
		a.body.CloseWithError(errors.New("body closed by handler")) // as net/http does
		synctest.Wait()
		if _, err := s.Write([]byte("x")); err != net.ErrClosed || s.Look() != netpoll.Broken {
			t.Error(err)
		}
		s.Close()
		<-s.Released()

		lent, _, a, returned := newTestStream(t, ctx, false)
		lent.Lend()
		if _, err := lent.Write([]byte("x")); err != net.ErrClosed {
			t.Error(err)
		}
		lent.Close()
		<-lent.Released() // whatever Pump waits for
		a.body.Close()
		<-returned
	})
}

// The deadline of a context, which middleware sets, is not the end of the stream.
func TestStreamOutlivesTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), -1)
		defer cancel()
		s, _, _, _ := newTestStream(t, ctx, false)
		if _, err := s.Write([]byte("x")); err != nil || s.Look() != netpoll.Quiet {
			t.Error(err)
		}
	})
}

func TestStreamBegins(t *testing.T) {
	a := newAnswerer(nil)
	r, _ := http.NewRequest(http.MethodConnect, "/", nil)
	New(r, a, time.Time{}).Begin(http.Header{"X-New": {"2"}})
	if a.status != 200 || len(a.header) != 1 || a.header.Get("X-New") != "2" {
		t.Error(a.status, a.header)
	}
}

func TestStreamAddresses(t *testing.T) {
	local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}
	for _, test := range []struct {
		remote  string
		version int
		network string
	}{{"192.0.2.1:4711", 2, "tcp"}, {"[2001:db8::1]:4711", 3, "udp"}, {"203.0.113.7", 2, ""}, {"", 2, ""}} {
		r, _ := http.NewRequestWithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, local), http.MethodConnect, "/", nil)
		r.RemoteAddr, r.ProtoMajor = test.remote, test.version
		s := New(r, newAnswerer(nil), time.Time{})
		if s.LocalAddr() != local || s.RemoteAddr().String() != test.remote || s.RemoteAddr().Network() != test.network {
			t.Error(s.LocalAddr(), s.RemoteAddr())
		}
	}
}
