package foyer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/foyerws/foyer/internal/wstest"
)

// A journal is what several sockets get, each from a page of its own.
type journal struct {
	mu       sync.Mutex
	messages []*Prepared
}

func (j *journal) add(t MessageType, text string) (upto uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.messages = append(j.messages, Prepare(t, []byte(text)))
	return uint64(len(j.messages))
}

// A page is how far a socket has read in a journal.
type page struct {
	*journal
	at int
}

func (p *page) Peek(messages []*Prepared, upto uint64, max int) (_ []*Prepared, more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	end := min(int(upto), p.at+max)
	return append(messages, p.messages[min(p.at, end):end]...), end < int(upto)
}

func (p *page) Advance(n int) { p.at += n }

// everyWay calls f with both ends of a socket over each kind of connection.
func everyWay(t *testing.T, h func() *Handler, o DialOptions, f func(t *testing.T, server, client *Socket)) {
	t.Run("TCP", func(t *testing.T) {
		server, client := dialled(t, h(), &o)
		f(t, server, client)
	})
	t.Run("TLS", func(t *testing.T) {
		h := closeHandler(t, h())
		srv := httptest.NewTLSServer(h)
		t.Cleanup(srv.Close)
		o.TLSConfig = &tls.Config{InsecureSkipVerify: true}
		client, _, err := Dial(t.Context(), srv.URL, &o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Abort() })
		f(t, accept(t, h), client)
	})
}

func TestFeed(t *testing.T) {
	for _, deflate := range []CompressionMode{CompressionDisabled, CompressionNoContextTakeover, CompressionContextTakeover} {
		for _, split := range []int{0, 100} {
			h := func() *Handler {
				return &Handler{Compression: deflate, OutgoingFrameSize: split, MaxMessageSize: -1}
			}
			everyWay(t, h, DialOptions{Compression: deflate, OutgoingFrameSize: split, MaxMessageSize: -1}, func(t *testing.T, server, client *Socket) {
				for _, end := range [][2]*Socket{{server, client}, {client, server}} {
					var j journal
					feed := end[0].NewFeed(&page{journal: &j})
					done := make(chan error, 1)
					go func() {
						for i := range 300 {
							text := fmt.Sprint(i, strings.Repeat(" words", i%50*i%7))
							typ := MessageType(1 + i%2)
							if i%3 == 0 {
								if err := end[0].Write(t.Context(), typ, []byte(text)); err != nil {
									done <- err
									return
								}
								continue
							}
							if err := feed.Pull(j.add(typ, text)); err != nil {
								done <- err
								return
							}
						}
						done <- nil
					}()
					for i := range 300 {
						typ, p, err := end[1].Read(t.Context())
						if want := fmt.Sprint(i, strings.Repeat(" words", i%50*i%7)); err != nil || typ != MessageType(1+i%2) || string(p) != want {
							t.Fatalf("%d: %v %.20q, %v", i, typ, p, err)
						}
					}
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
}

// TestFeedOfShortMessages puts those together for sockets that are at the same place, some of which need something else. Clients read a
// few bytes at a time.
func TestFeedOfShortMessages(t *testing.T) {
	const rounds, each = 50, 40
	var j journal
	var all sync.WaitGroup
	feeds := make(map[*Feed]*Socket)
	for i, h := range []*Handler{{}, {}, {}, {OutgoingFrameSize: 10}, {Compression: CompressionContextTakeover}, {Compression: CompressionNoContextTakeover, CompressionThreshold: -1}} {
		server, client := dialled(t, h, &DialOptions{Compression: CompressionContextTakeover})
		feeds[server.NewFeed(&page{journal: &j})] = server
		all.Go(func() {
			for n := range rounds * each {
				_, r, err := client.Reader(t.Context())
				if err != nil {
					t.Error(i, n, err)
					return
				}
				p, err := io.ReadAll(iotest.OneByteReader(r))
				if want := fmt.Sprint("message ", n); err != nil || string(p) != want {
					t.Errorf("client %d: %q, want %q, %v", i, p, want, err)
					return
				}
			}
		})
	}
	for n := range rounds {
		var upto uint64
		for k := range each {
			upto = j.add(Text, fmt.Sprint("message ", n*each+k))
		}
		for feed := range feeds {
			if err := feed.Pull(upto); err != nil {
				t.Fatal(err)
			}
		}
	}
	all.Wait()
	for _, server := range feeds {
		eventually(t, "all messages are counted", func() bool { return server.wire.MessagesOut() == rounds*each })
	}
}

func TestTogether(t *testing.T) {
	a, b, c, long := Prepare(Text, []byte("a")), Prepare(Text, []byte("b")), Prepare(Binary, []byte("c")), Prepare(Text, make([]byte, maxRun))
	for want, messages := range map[string][]*Prepared{
		"\x81\x01a\x81\x01b":          {a, b},
		"\x81\x01a\x81\x01b\x82\x01c": {a, b, c},
		"\x81\x01a\x82\x01c":          {a, c},
	} {
		var f, g feedSource
		for range 2 {
			if f.together(messages) != nil {
				t.Errorf("%q is put together for one socket", want)
			}
		}
		r := g.together(messages)
		if r == nil || string(r.bytes) != want || f.together(messages) != r {
			t.Fatalf("%+v, want %q", r, want)
		}
		for at := range len(want) { // bytes of it were written
			begun, rest := r.written(r.bytes[at:])
			size := -len(rest)
			for _, m := range messages[:begun] {
				size += len(m.plain)
			}
			if size != at || len(rest) > len(messages[begun-1].plain) || !strings.HasPrefix(want[at:], string(rest)) {
				t.Errorf("%d bytes of %q are written, and %q is the rest of %d messages", at, want, rest, begun)
			}
		}
		if begun, rest := r.written(nil); begun != len(messages) || rest != nil {
			t.Errorf("%d messages are written, and %q is left", begun, rest)
		}
	}
	for range 3 {
		var f feedSource
		if f.together([]*Prepared{a}) != nil || f.together([]*Prepared{a, long}) != nil {
			t.Error("put together")
		}
	}
	for i := range runs {
		if r := runs[i].Load(); r != nil && slices.Contains(r.messages, long) {
			t.Error("a message that is too long for a run is kept")
		}
	}
}

func TestFeedOverHTTP2(t *testing.T) {
	h := closeHandler(t, &Handler{})
	url, client := serveHTTP2(t, false, h)
	c, _ := openStream(t, client, url)
	var j journal
	feed := accept(t, h).NewFeed(&page{journal: &j})
	for i := range 10 {
		feed.Pull(j.add(Text, fmt.Sprint(i)))
	}
	for i := range 10 {
		want := string(wstest.Plain(0x81, fmt.Sprint(i)))
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
			t.Fatalf("%d: %q, %v", i, got, err)
		}
	}
}

// TestFeedOfAClientThatDoesNotRead takes no memory, and ends with the socket.
func TestFeedOfAClientThatDoesNotRead(t *testing.T) {
	server, client := dialled(t, &Handler{MaxWriteBuffer: 10}, nil)
	var j journal
	feed := server.NewFeed(&page{journal: &j})
	long := strings.Repeat("x", 100<<10)
	for range 300 {
		if err := feed.Pull(j.add(Text, long)); err != nil {
			t.Fatal(err)
		}
	}
	if n := server.BytesToWrite(); n != 0 {
		t.Errorf("%d bytes wait", n)
	}
	for range 300 { // and all of it is there when it reads
		if _, p, err := client.Read(t.Context()); err != nil || string(p) != long {
			t.Fatal(len(p), err)
		}
	}
	client.Abort()
	<-server.Done()
	if err := feed.Pull(j.add(Text, "x")); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestFeedAndWriter(t *testing.T) {
	server, client := dialled(t, &Handler{}, nil)
	var j journal
	feed := server.NewFeed(&page{journal: &j})
	w, err := server.Writer(t.Context(), Text)
	if err != nil {
		t.Fatal(err)
	}
	feed.Pull(j.add(Text, "behind it"))
	w.Write([]byte("in "))
	feed.Pull(j.add(Text, "and this"))
	w.Write([]byte("one piece"))
	w.Close()
	for _, want := range []string{"in one piece", "behind it", "and this"} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if _, p, err := client.Read(ctx); err != nil || string(p) != want {
			t.Errorf("%q, %v", p, err)
		}
		cancel()
	}
}

func TestPrepare(t *testing.T) {
	p := []byte("hello")
	m := Prepare(Binary, p)
	p[0] = 'x'
	if m.Type() != Binary || string(m.Payload()) != "hello" {
		t.Errorf("%v %q", m.Type(), m.Payload())
	}
	defer func() {
		if recover() == nil {
			t.Error("a message of no type")
		}
	}()
	Prepare(0, nil)
}

// A bomb panics in one of its methods.
type bomb struct {
	page
	where string
}

func (b *bomb) Peek(messages []*Prepared, upto uint64, max int) (_ []*Prepared, more bool) {
	if b.where == "Peek" {
		panic("no")
	}
	return b.page.Peek(messages, upto, max)
}

func (b *bomb) Advance(n int) {
	b.page.Advance(n)
	if b.where == "Advance" {
		panic("no")
	}
}

// TestPanicOfASource ends its socket.
func TestPanicOfASource(t *testing.T) {
	for _, where := range []string{"Peek", "Advance"} {
		reports := make(chan error, 10)
		h := closeHandler(t, &Handler{OnError: func(err error) { reports <- err }})
		server, client := dialled(t, h, nil)
		var j journal
		f := server.NewFeed(&bomb{page{journal: &j}, where})
		PullAll([]*Feed{f}, j.add(Text, "one"))
		var closed *CloseError
		for {
			if _, _, err := client.Read(t.Context()); err != nil {
				if !errors.As(err, &closed) || closed.Code != CloseInternalServerErr {
					t.Error(where, err)
				}
				break
			}
		}
		var panicked *PanicError
		if err := <-reports; !errors.As(err, &panicked) || panicked.Value != "no" {
			t.Error(where, err)
		}
	}
}
