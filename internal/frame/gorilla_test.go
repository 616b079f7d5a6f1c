package frame

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// A memoryConn is a net.Conn in memory. It is the http.ResponseWriter, too, that gorilla takes it from.
type memoryConn struct {
	net.Conn
	http.ResponseWriter
	in, out bytes.Buffer
}

func (c *memoryConn) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (c *memoryConn) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *memoryConn) Close() error                     { return nil }
func (c *memoryConn) SetDeadline(time.Time) error      { return nil }
func (c *memoryConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }
func (c *memoryConn) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return c, bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c)), nil
}

// gorillaServer returns the server's end of a connection in memory, whose handshake is over.
func gorillaServer(t *testing.T, compression bool) (*websocket.Conn, *memoryConn) {
	c := new(memoryConn)
	r := &http.Request{Method: http.MethodGet, Header: http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="}, "Sec-Websocket-Extensions": {Offer(false)},
	}}
	g, err := (&websocket.Upgrader{EnableCompression: compression}).Upgrade(c, r, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.out.Reset()
	return g, c
}

// FuzzAgainstGorilla has gorilla read what we write, and the other way round: frames, masks and compression.
func FuzzAgainstGorilla(f *testing.F) {
	f.Add([]byte("hello"), uint32(1), 2, false, 3)
	f.Add(bytes.Repeat([]byte("abc"), 1000), uint32(0xfedcba98), 100, true, 1)
	f.Add([]byte{}, uint32(0), 0, true, 9)
	f.Fuzz(func(t *testing.T, message []byte, key uint32, cut int, compression bool, level int) {
		if level < 1 || level > 9 {
			return
		}
		g, c := gorillaServer(t, compression)

		// We send the message as a client does, in two frames.
		sent, first := bytes.Clone(message), Binary
		if compression {
			d := NewDeflater(Direction{Bits: maxBits}, level)
			sent, first = d.Deflate(sent), Binary|RSV1
		}
		cut = max(0, min(cut, len(sent)))
		for i, piece := range [][]byte{sent[:cut], sent[cut:]} {
			head := first
			if i == 1 {
				head = Final | Continuation
			}
			p := AppendMaskedHeader(nil, head, len(piece), key)
			at := len(p)
			p = append(p, piece...)
			Mask(p[at:], key)
			c.in.Write(p)
		}
		if kind, got, err := g.ReadMessage(); err != nil || kind != websocket.BinaryMessage || !bytes.Equal(got, message) {
			t.Fatalf("gorilla has read %q, %v instead of %q", got, err, message)
		}

		// And the other way.
		if err := g.WriteMessage(websocket.BinaryMessage, message); err != nil {
			t.Fatal(err)
		}
		var q Sequence
		limits := &Limits{Compression: compression}
		var got []byte
		for {
			h, ok, err := q.Parse(limits, c.out.Bytes())
			if !ok || err != nil {
				t.Fatal(ok, err)
			}
			q.Accept(&h)
			c.out.Next(h.Size)
			payload := c.out.Next(int(h.Payload))
			got = append(got, payload...)
			if h.Final {
				break
			}
		}
		if q.Compressed {
			var err error
			if got, err = Inflate(nil, got, nil, 0); err != nil {
				t.Fatal(err)
			}
		}
		if c.out.Len() > 0 || !bytes.Equal(got, message) {
			t.Fatalf("we have read %q instead of %q", got, message)
		}
	})
}
