package foyer

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

const (
	either  extension = iota
	without           // permessage-deflate
	with
	withTakeover // of contexts
	withoutTakeover
)

// A way is one in which a socket can come to be.
type way struct {
	server, events bool
	deflate        CompressionMode
	http           int // its version, on a server; 0: a Server of our own
}

func (w way) String() string {
	return fmt.Sprintf("server %v, HTTP/%d, events %v, compression %v", w.server, w.http, w.events, w.deflate)
}

// addresses are where sockets come to be: those of servers, and a listener that clients dial.
type addresses struct {
	servers  map[way]string
	client   *http.Client // for HTTP/2
	listener net.Listener
}

// open connects a peer to a program that echoes. It returns the peer's end.
func (w way) open(t *testing.T, at *addresses) (net.Conn, *bufio.Reader) {
	if w.http == 2 {
		c, _ := openStream(t, at.client, at.servers[w], "Sec-WebSocket-Extensions: permessage-deflate")
		return c, bufio.NewReader(c)
	}
	if w.server {
		conn, err := net.Dial("tcp", at.servers[w])
		if err != nil {
			t.Fatal(err)
		}
		header := "X: y"
		if w.deflate != CompressionDisabled {
			header = "Sec-WebSocket-Extensions: permessage-deflate"
		}
		resp, br := ask(t, conn, handshakeRequest(header))
		if got := resp.Header.Get("Sec-Websocket-Extensions") != ""; resp.StatusCode != 101 || got != (w.deflate != CompressionDisabled) {
			t.Fatal(resp)
		}
		return conn, br
	}
	dialled := make(chan error, 1)
	go func() {
		s, _, err := Dial(t.Context(), "ws://"+at.listener.Addr().String(), &DialOptions{Compression: w.deflate})
		dialled <- err
		if err == nil {
			echoUntilClosed(s, w.events)
		}
	}()
	conn, err := at.listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	var key string
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if k, ok := strings.CutPrefix(line, "Sec-WebSocket-Key: "); ok {
			key = strings.TrimSpace(k)
		}
		if line == "\r\n" {
			break
		}
	}
	header := "X: y"
	switch w.deflate {
	case CompressionContextTakeover:
		header = "Sec-WebSocket-Extensions: permessage-deflate"
	case CompressionNoContextTakeover:
		header = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	}
	io.WriteString(conn, strings.Replace(welcome(header), "%s", acceptKey(key), 1))
	if err := <-dialled; err != nil {
		t.Fatal(err)
	}
	return conn, br
}

// echoUntilClosed is the program: it echoes, and closes when it is told to.
func echoUntilClosed(s *Socket, events bool) {
	answer := func(s *Socket, t MessageType, p []byte) {
		if string(p) == "close!" {
			if s.events.Load() == nil {
				go s.Close(4001, "")
				for s.State() == StateOpen {
					time.Sleep(time.Millisecond)
				}
				return
			}
			s.Close(4001, "")
			return
		}
		s.Write(background, t, p)
	}
	if events {
		s.Handle(Events{Message: answer})
		return
	}
	for {
		t, p, err := s.Read(background)
		if err != nil {
			return
		}
		answer(s, t, p)
	}
}

// hear reads what comes until the connection ends or count things were said.
func hear(r io.Reader, masked bool, count int) (heard []string, err error) {
	var message []byte
	kind, compressed := "", false
	for len(heard) < count {
		var h [2]byte
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return heard, err
		}
		n := int(h[1] & 0x7f)
		extended := make([]byte, map[int]int{126: 2, 127: 8}[n])
		if _, err := io.ReadFull(r, extended); err != nil {
			return heard, err
		}
		if len(extended) > 0 {
			n = 0
			for _, b := range extended {
				n = n<<8 | int(b)
			}
			if n < 126 || len(extended) == 8 && n < 1<<16 {
				return heard, fmt.Errorf("length %d in %d bytes", n, len(extended))
			}
		}
		if h[1]&0x80 != 0 != masked {
			return heard, errors.New("wrong mask")
		}
		var mask [4]byte
		if masked {
			if _, err := io.ReadFull(r, mask[:]); err != nil {
				return heard, err
			}
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(r, payload); err != nil {
			return heard, err
		}
		for i := range payload {
			payload[i] ^= mask[i&3]
		}
		opcode := h[0] & 0x0f
		switch {
		case h[0]&0x30 != 0 || h[0]&0x40 != 0 && (opcode == 0 || opcode > 2), opcode > 2 && (h[0]&0x80 == 0 || n > 125), opcode < 3 && (opcode == 0) != (kind != ""):
			return heard, fmt.Errorf("frame %x", h)
		case opcode == 8 && n == 0:
			heard = append(heard, "close")
		case opcode == 8:
			if !utf8.Valid(payload[2:]) {
				return heard, fmt.Errorf("reason %q", payload[2:])
			}
			heard = append(heard, fmt.Sprint("close ", binary.BigEndian.Uint16(payload)))
		case opcode == 10:
			heard = append(heard, said("pong", string(payload)))
		case opcode < 3:
			if opcode != 0 {
				kind, compressed, message = MessageType(opcode).String(), h[0]&0x40 != 0, nil
			}
			message = append(message, payload...)
			if h[0]&0x80 == 0 {
				continue
			}
			if compressed {
				message, err = io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(message), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))))
				if err != nil {
					return heard, err
				}
			}
			heard = append(heard, said(kind, string(message)))
			kind = ""
		default:
			return heard, fmt.Errorf("frame %x", h)
		}
	}
	return heard, nil
}

// caseTimeout is how long a case may take.
func caseTimeout() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("FOYER_CONFORMANCE_PATIENCE")); err == nil {
		return d
	}
	return 10 * time.Second
}

func TestConformance(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := &addresses{servers: make(map[way]string), listener: l}
	var ways []way
	for _, events := range []bool{false, true} {
		for _, deflate := range []CompressionMode{CompressionDisabled, CompressionNoContextTakeover, CompressionContextTakeover} {
			for version := range 3 {
				h := closeHandler(t, &Handler{Compression: deflate, MaxPending: -1})
				go func() {
					for s := range h.Incoming(background) {
						go echoUntilClosed(s, events)
					}
				}()
				w := way{server: true, http: version, events: events, deflate: deflate}
				switch version {
				case 0:
					at.servers[w] = serveRaw(t, h)
				case 1:
					at.servers[w] = serveHTTP(t, h)
				case 2:
					at.servers[w], at.client = serveHTTP2(t, false, h)
				}
				ways = append(ways, w)
			}
			ways = append(ways, way{events: events, deflate: deflate})
		}
	}
	cases, runs := conformanceCases(), 0
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			late := false // something comes behind a close frame, and then a reset is what one gets
			for _, f := range c.frames[:len(c.frames)-1] {
				late = late || f.first == 0x88
			}
			for _, w := range ways {
				if !c.deflate.fits(w.deflate) || (raceDetector || testing.Short()) && w.http == 1 {
					continue
				}
				c.check(t, w, at, 1<<20)
				runs++
				size := 0
				for _, f := range c.frames {
					size += len(f.payload) + 14
				}
				if size < 200 && w.events && !late && !raceDetector {
					c.check(t, w, at, 1)
					runs++
				}
			}
		})
	}
	t.Logf("%d cases, %d runs", len(cases), runs)
}
