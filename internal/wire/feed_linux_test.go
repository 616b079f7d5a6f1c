package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/foyerws/foyer/internal/frame"
	"github.com/foyerws/foyer/internal/netpoll"
)

// narrow is a transport that does not wait, and takes as much as the test says.
type narrow struct {
	netpoll.Transport
	mu     sync.Mutex
	room   int
	calls  int
	got    strings.Builder
	during func() // called once while a write is under way
}

func (n *narrow) Waits() bool      { return false }
func (n *narrow) AwaitRoom() error { return nil }
func (n *narrow) FlushLater() bool { return false }
func (n *narrow) Close() error     { return nil }

func (n *narrow) Write(pieces [][]byte) (written int, err error) {
	if during := n.during; during != nil {
		n.during = nil
		during()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls++
	for _, p := range pieces {
		k := min(n.room, len(p))
		n.got.Write(p[:k])
		n.room -= k
		if written += k; k < len(p) {
			return written, ErrNothing
		}
	}
	return written, nil
}

// letters is a Source whose message at position i is one letter, the i-th.
type letters struct {
	pos   int
	end   int // it has none from there on; 0: it has all
	peeks int
}

func (l *letters) Peek(frames [][]byte, upto uint64, limit int) (_ [][]byte, more bool) {
	l.peeks++
	end := int(upto)
	if l.end > 0 {
		end = min(end, l.end)
	}
	i := l.pos
	for ; i < end && limit > 0; i++ {
		frames = append(frames, frame.AppendHeader(nil, 0x81, 1))
		last := len(frames) - 1
		frames[last] = append(frames[last], byte('a'+i))
		limit--
	}
	return frames, i < end
}

func (l *letters) Advance(n int, rest []byte) (int, []byte) {
	l.pos += n
	return n, rest
}

func narrowConn(room int) (*Conn, *narrow) {
	c := framed(&script{}, nil, server, nil)
	n := &narrow{Transport: c.transport, room: room}
	c.transport = n
	return c, n
}

// more gives the network room for n bytes more.
func (n *narrow) more(c *Conn, room int) {
	n.mu.Lock()
	n.room += room
	n.mu.Unlock()
	c.unblock()
}

// payloads returns the letters that were written, in the notation of the test below.
func (n *narrow) payloads() string {
	var s strings.Builder
	for b := n.got.String(); len(b) >= 2; {
		size := int(b[1])
		if b[0] != 0x81 {
			fmt.Fprintf(&s, "<%x>", b[0])
		}
		s.WriteString(b[2:min(2+size, len(b))])
		b = b[min(2+size, len(b)):]
	}
	return s.String()
}

// TestFeedOrder has a feed's messages leave where the program asked for them, on a network that is free, and on one that is not.
func TestFeedOrder(t *testing.T) {
	send := func(first byte, p string) func(*testing.T, *Conn, *Feed) {
		return func(t *testing.T, c *Conn, _ *Feed) {
			if _, err := c.Send(&Frame{First: first, Payload: []byte(p)}); err != nil {
				t.Error(err)
			}
		}
	}
	pull := func(upto uint64) func(*testing.T, *Conn, *Feed) {
		return func(t *testing.T, c *Conn, f *Feed) {
			if err := c.Pull(f, upto, Now); err != nil {
				t.Error(err)
			}
		}
	}
	claim := func(t *testing.T, c *Conn, _ *Feed) { c.Claim(Streaming, 0, Room{}) }
	unclaim := func(t *testing.T, c *Conn, _ *Feed) { c.Unclaim(Now) }
	fragment := func(first byte, p string) func(*testing.T, *Conn, *Feed) {
		return func(t *testing.T, c *Conn, _ *Feed) {
			c.Send(&Frame{First: first, Payload: []byte(p), Claimed: true})
		}
	}
	type steps = []func(*testing.T, *Conn, *Feed)
	for name, test := range map[string]struct {
		steps      steps
		free, full string // what is written
	}{
		"only a feed":                   {steps{pull(1), pull(3)}, "abc", "abc"},
		"asked for what was asked for":  {steps{pull(2), pull(1), pull(2)}, "ab", "ab"},
		"a write behind":                {steps{pull(2), send(0x81, "X")}, "abX", "abX"},
		"a write between":               {steps{pull(1), send(0x81, "X"), pull(3), send(0x81, "Y"), pull(4)}, "aXbcYd", "aXbcYd"},
		"two writes between":            {steps{send(0x81, "W"), send(0x81, "X"), pull(2)}, "WXab", "WXab"},
		"a late call behind a write":    {steps{pull(2), send(0x81, "X"), pull(1)}, "abX", "abX"},
		"a ping does not wait":          {steps{pull(2), send(0x89, "P"), pull(3), send(0x8a, "")}, "ab<89>Pc<8a>", "<89>P<8a>abc"},
		"a ping is no write":            {steps{pull(1), send(0x89, "P"), pull(2), send(0x81, "X")}, "a<89>PbX", "<89>PabX"},
		"a close frame drops the rest":  {steps{pull(1), send(0x81, "X"), pull(2), send(0x88, "C")}, "aXb<88>C", "X<88>C"},
		"not between fragments":         {steps{claim, fragment(1, "X"), pull(2), fragment(0x80, "Y"), unclaim, send(0x81, "Z")}, "<1>X<80>YabZ", "<1>X<80>YabZ"},
		"a claim while a place is held": {steps{pull(1), claim, pull(2), fragment(1, "X"), pull(3), fragment(0x80, "Y"), unclaim}, "a<1>X<80>Ybc", "ab<1>X<80>Yc"},
		"a close frame during a claim":  {steps{claim, fragment(1, "X"), pull(2), send(0x88, "C"), unclaim}, "<1>X<88>C", "<1>X<88>C"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, full := range []bool{false, true} {
				c, n := narrowConn(1 << 20)
				f := &Feed{Source: new(letters)}
				want := test.free
				if full {
					want = test.full
					n.room = 3
					c.Send(&Frame{First: 0x81, Payload: []byte(">>")}) // of which a byte is left
				}
				for _, step := range test.steps {
					step(t, c, f)
				}
				if full {
					for range 64 {
						n.more(c, 1) // byte by byte
					}
					want = ">>" + want
				}
				if got := n.payloads(); got != want {
					t.Errorf("full %v: %q instead of %q", full, got, want)
				}
				if c.OutputWaits() || c.BytesToWrite() != 0 || c.queue != nil {
					t.Errorf("full %v: something is left", full)
				}
				if written := c.Written(); written != uint64(n.got.Len()) {
					t.Errorf("full %v: %d bytes were reported, %d written", full, written, n.got.Len())
				}
			}
		})
	}
}

// TestFeedWhileAWriteIsUnderWay sends things while the kernel has a feed's frames in its hands.
func TestFeedWhileAWriteIsUnderWay(t *testing.T) {
	for name, test := range map[string]struct {
		during func(c *Conn, f *Feed)
		want   string
	}{
		"a message": {func(c *Conn, f *Feed) { c.Send(&Frame{First: 0x81, Payload: []byte("X")}) }, "abcX"},
		"a ping":    {func(c *Conn, f *Feed) { c.Send(&Frame{First: 0x89, Payload: []byte("P")}) }, "ab<89>Pc"},
		"a close":   {func(c *Conn, f *Feed) { c.Send(&Frame{First: 0x88, Payload: []byte("C")}) }, "ab<88>C"},
		"more":      {func(c *Conn, f *Feed) { c.Pull(f, 4, Now) }, "abcd"},
	} {
		t.Run(name, func(t *testing.T) {
			c, n := narrowConn(5) // one frame and two thirds of the next
			f := &Feed{Source: new(letters)}
			n.during = func() { test.during(c, f) }
			c.Pull(f, 3, Now)
			n.more(c, 1<<10)
			if got := n.payloads(); got != test.want {
				t.Errorf("%q instead of %q", got, test.want)
			}
		})
	}
}

// words is a Source of letters that come as one frame, of which no more than a letter is to be kept.
type words struct{ letters }

func (w *words) Peek(frames [][]byte, upto uint64, limit int) (_ [][]byte, more bool) {
	all, more := w.letters.Peek(nil, upto, limit)
	return append(frames, bytes.Join(all, nil)), more
}

func (w *words) Advance(n int, rest []byte) (int, []byte) {
	if n == 0 {
		return 0, nil
	}
	behind := max(len(rest)-1, 0) / 3 // the letter that is begun
	letters := w.end - w.pos - behind
	w.pos += letters
	return letters, rest[:len(rest)-3*behind]
}

// TestPartOfAFrame keeps as much of a frame as its source wants to be kept.
func TestPartOfAFrame(t *testing.T) {
	for room := 1; room < 15; room++ {
		c, n := narrowConn(room)
		source := &words{letters{end: 5}}
		c.Pull(&Feed{Source: source}, 5, Now)
		for c.OutputWaits() && n.got.Len() < 100 {
			if p := c.queue.pieces[0].p; len(p) > 3 {
				t.Fatalf("%q is kept", p)
			}
			n.more(c, room)
		}
		if got := n.payloads(); got != "abcde" || c.MessagesOut() != 5 || source.pos != 5 {
			t.Errorf("%d bytes at a time: %q was written, %d messages, the source is at %d", room, got, c.MessagesOut(), source.pos)
		}
	}
}

// TestSourceIsAskedOnce does not ask a source again that has no more, unless there was a Pull meanwhile.
func TestSourceIsAskedOnce(t *testing.T) {
	c, n := narrowConn(1 << 10)
	source := &letters{end: 2}
	f := &Feed{Source: source}
	c.Pull(f, 3, Now)
	if got := n.payloads(); got != "ab" || source.peeks != 1 || c.queue != nil {
		t.Errorf("%q was written after %d calls of Peek", got, source.peeks)
	}
	source.end = 4
	n.during = func() {
		source.end = 0
		c.Pull(f, 5, Now)
	}
	c.Pull(f, 5, Now)
	if got := n.payloads(); got != "abcde" || source.peeks != 3 || c.queue != nil {
		t.Errorf("%q was written after %d calls of Peek", got, source.peeks)
	}
}

// TestFeedOfASlowPeer keeps one frame in memory, and no more than 64 KiB are written at once.
func TestFeedOfASlowPeer(t *testing.T) {
	c, n := narrowConn(10)
	source := &repeated{frame: make([]byte, 4<<10)}
	f := &Feed{Source: source}
	c.Pull(f, 1000, Now)
	if pieces := c.queue.pieces; len(pieces) != 2 || source.pos != 1 {
		t.Errorf("%d pieces wait, the source is at %d", len(pieces), source.pos)
	}
	if c.BytesToWrite() != 0 || !c.OutputWaits() {
		t.Error(c.BytesToWrite(), "bytes count as buffered")
	}
	n.calls = 0
	n.more(c, 4<<20)
	for deadline := time.Now().Add(10 * time.Second); c.OutputWaits() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // a goroutine carries on
	}
	n.mu.Lock()
	if n.calls != 63 && n.calls != 64 { // 1000 × 4 KiB, by 64 KiB
		t.Error(n.calls, "writes")
	}
	n.mu.Unlock()
	// A source that has nothing although it was said to.
	source.end = true
	c.Pull(f, 2000, Now)
	if c.OutputWaits() || c.queue != nil {
		t.Error("a place is left")
	}
	source.end = false
	c.Pull(f, 1001, Now)
	if source.pos != 1001 {
		t.Error("the source is at", source.pos)
	}
	c.Close()
	if err := c.Pull(f, 2001, Now); err == nil {
		t.Error("a Conn that was closed took a feed")
	}
}

// TestFeedAndLentMemory has a ping leave before a payload that a caller has lent. The caller has it back when all of it is written and not before.
func TestFeedAndLentMemory(t *testing.T) {
	c, n := narrowConn(1)
	c.Pull(&Feed{Source: new(letters)}, 1, Now)
	mark, _ := c.Send(&Frame{First: 0x82, Payload: make([]byte, 100), Lent: true})
	c.Send(&Frame{First: 0x89, Payload: make([]byte, 100)})
	written := func() bool {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		return c.WaitWritten(ctx, mark) == nil
	}
	for left := 3 - 1 + 102 + 102; left > 0; left-- {
		if written() {
			t.Fatal(left, "bytes before the end")
		}
		n.more(c, 1)
	}
	if !written() || c.OutputWaits() {
		t.Error("it is not given back")
	}
}

// TestWriteBehindAControlFrameThatWasPutAhead has the place go that the control frame was put before. What is sent then is counted as what it is.
func TestWriteBehindAControlFrameThatWasPutAhead(t *testing.T) {
	for name, first := range map[string]byte{"a message": 0x81, "a close frame": 0x88} {
		t.Run(name, func(t *testing.T) {
			c, n := narrowConn(1)
			c.Send(&Frame{First: 0x81, Payload: []byte(">>")})
			c.Pull(&Feed{Source: &repeated{end: true}}, 1, Now) // which will turn out to have nothing
			c.Send(&Frame{First: 0x89, Payload: []byte("P")})
			n.during = func() { c.Send(&Frame{First: first, Payload: []byte("X")}) }
			n.more(c, 1)
			n.more(c, 2+3+2) // all but the X
			if left, waiting := c.left(), c.BytesToWrite(); left != 1 || waiting != 1 {
				t.Errorf("%d and %d bytes are said to be left of 1", left, waiting)
			}
			n.more(c, 1)
			if c.BytesToWrite() != 0 || c.OutputWaits() {
				t.Error("something is left")
			}
		})
	}
}

// repeated is a Source of the same frame over and over.
type repeated struct {
	frame []byte
	pos   int
	end   bool
}

func (r *repeated) Peek(frames [][]byte, upto uint64, limit int) (_ [][]byte, more bool) {
	i := r.pos
	for ; i < int(upto) && limit > 0 && !r.end; i++ {
		frames = append(frames, r.frame)
		limit--
	}
	return frames, i < int(upto) && !r.end
}

func (r *repeated) Advance(n int, rest []byte) (int, []byte) {
	r.pos += n
	return n, rest
}

// ring is a Source of numbers, for one Conn.
type ring struct {
	log *numbers
	pos uint64
}

type numbers struct {
	mu     sync.Mutex
	frames [][]byte
}

// size is the length of a payload, enough of which fill what the kernel has room for.
const size = 1 << 10

func numbered(by byte, i int) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{by}, uint32(i)), make([]byte, size-5)...)
}

func (l *numbers) append(publisher, i int) (pos uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frames = append(l.frames, append(frame.AppendHeader(nil, 0x82, size), numbered(byte(publisher), i)...))
	return uint64(len(l.frames))
}

func (r *ring) Peek(frames [][]byte, upto uint64, limit int) (_ [][]byte, more bool) {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	end := min(upto, uint64(len(r.log.frames)), r.pos+uint64(limit))
	return append(frames, r.log.frames[min(r.pos, end):end]...), end < upto
}

func (r *ring) Advance(n int, rest []byte) (int, []byte) {
	r.pos += uint64(n)
	return n, rest
}

// TestFeedsUnderLoad has several goroutines publish to two logs and write to the same connections. Each peer sees every message of a log once and
// in the log's order, and what a goroutine wrote after it had published behind that.
func TestFeedsUnderLoad(t *testing.T) {
	const publishers, messages = 4, 300
	logs := []*numbers{new(numbers), new(numbers)}
	type member struct {
		c      *Conn
		theirs io.Reader
		feeds  []*Feed
	}
	var members []member
	for range 5 {
		ours, theirs := pair(t, "tcp", "127.0.0.1:0")
		ours.(*net.TCPConn).SetWriteBuffer(32 << 10)
		theirs.(*net.TCPConn).SetReadBuffer(32 << 10)
		m := member{c: framed(ours, nil, server, nil), theirs: theirs}
		defer m.c.Close()
		theirs.SetReadDeadline(time.Now().Add(30 * time.Second))
		for _, log := range logs {
			m.feeds = append(m.feeds, &Feed{Source: &ring{log: log}})
		}
		members = append(members, m)
	}
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range messages {
				log := p % len(logs)
				pos := logs[log].append(p, i)
				for _, m := range members {
					if err := m.c.Pull(m.feeds[log], pos, Batched); err != nil {
						t.Error(err)
					}
					if _, err := m.c.Send(&Frame{First: 0x82, Payload: numbered(byte(p)|0x80, i)}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for _, m := range members {
		wg.Go(func() {
			var published, written [publishers]uint32
			var got [2][][]byte
			for range 2 * publishers * messages {
				b := make([]byte, 4+size)
				if _, err := io.ReadFull(m.theirs, b); err != nil {
					t.Error(err)
					return
				}
				p, i := b[4]&0x7f, binary.BigEndian.Uint32(b[5:])
				if b[4]&0x80 == 0 {
					got[p%2] = append(got[p%2], b)
					published[p]++
					continue
				}
				if written[p]++; i+1 != written[p] || i >= published[p] {
					t.Errorf("%d wrote %d when %d of its messages were published", p, i, published[p])
				}
			}
			for i, log := range logs {
				log.mu.Lock()
				defer log.mu.Unlock()
				if !slices.EqualFunc(got[i], log.frames, bytes.Equal) {
					t.Error("another order than that of the log", i)
				}
			}
		})
	}
	wg.Wait()
}
