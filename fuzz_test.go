package foyer

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/foyerws/foyer/internal/wstest"
)

// A verdict is what becomes of a socket that gets certain bytes: the messages that are whole, and the code at the end.
type verdict struct {
	messages []string // each behind its type
	code     CloseCode
}

// judge reads b, which a client has sent before it hung up, with RFC 6455 in hand and nothing else. It knows no
// compression.
func judge(b []byte, limit int) (v verdict) {
	var message []byte
	var kind byte
	for {
		v.code = CloseAbnormalClosure
		if len(b) < 2 {
			return v
		}
		final, opcode, n := b[0]&0x80 != 0, b[0]&0x0f, uint64(b[1]&0x7f)
		control := opcode >= 8
		v.code = CloseProtocolError
		switch {
		case b[0]&0x70 != 0, b[1]&0x80 == 0, opcode > 2 && opcode < 8, opcode > 10, control && (!final || n > 125),
			opcode == 0 && kind == 0, (opcode == 1 || opcode == 2) && kind != 0:
			return v
		}
		head := 2
		if extended := map[uint64]int{126: 2, 127: 8}[n]; extended > 0 {
			if len(b) < 2+extended {
				v.code = CloseAbnormalClosure
				return v
			}
			n = 0
			for _, c := range b[2 : 2+extended] {
				n = n<<8 | uint64(c)
			}
			if n < 126 || extended == 8 && n < 1<<16 || n >= 1<<63 {
				return v
			}
			head += extended
		}
		if !control && uint64(len(message))+n > uint64(limit) {
			v.code = CloseMessageTooBig
			return v
		}
		whole := uint64(len(b)) >= uint64(head)+4+n
		var payload []byte
		if len(b) >= head+4 {
			payload = bytes.Clone(b[head+4 : min(uint64(len(b)), uint64(head)+4+n)])
			for i := range payload {
				payload[i] ^= b[head+i&3]
			}
		}
		if control {
			switch {
			case !whole:
				v.code = CloseAbnormalClosure
				return v
			case opcode == 8:
				return closed(v, payload)
			}
			b = b[uint64(head)+4+n:]
			continue
		}
		if opcode != 0 {
			kind, message = opcode, nil
		}
		message = append(message, payload...)
		if kind == 1 && !begins(message, final && whole) {
			v.code = CloseInvalidFramePayloadData
			return v
		}
		if !whole {
			v.code = CloseAbnormalClosure
			return v
		}
		if final {
			v.messages = append(v.messages, strconv.Itoa(int(kind))+string(message))
			kind, message = 0, nil
		}
		b = b[uint64(head)+4+n:]
	}
}

// closed judges the payload of a close frame.
func closed(v verdict, p []byte) verdict {
	switch {
	case len(p) == 0:
		v.code = CloseNoStatusReceived
	case len(p) == 1 || !CloseCode(binary.BigEndian.Uint16(p)).sendable():
		v.code = CloseProtocolError
	case !utf8.Valid(p[2:]):
		v.code = CloseInvalidFramePayloadData
	default:
		v.code = CloseCode(binary.BigEndian.Uint16(p))
	}
	return v
}

// begins reports whether a text may begin with p, or be p if that is all of it.
func begins(p []byte, all bool) bool {
	for len(p) > 0 {
		r, size := utf8.DecodeRune(p)
		if r == utf8.RuneError && size == 1 {
			return !all && !utf8.FullRune(p)
		}
		p = p[size:]
	}
	return true
}

const fuzzLimit = 1 << 12

// A scriptedConn is a client that has sent its bytes and hung up.
type scriptedConn struct {
	net.Conn // nil: nothing else is called
	in       *bytes.Reader
	mu       sync.Mutex // guards:
	out      bytes.Buffer
	closed   bool
}

func (c *scriptedConn) Read(p []byte) (int, error) { return c.in.Read(p) }

func (c *scriptedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	return c.out.Write(p)
}

func (c *scriptedConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return nil
}

func (c *scriptedConn) SetDeadline(time.Time) error      { return nil }
func (c *scriptedConn) SetReadDeadline(time.Time) error  { return nil }
func (c *scriptedConn) SetWriteDeadline(time.Time) error { return nil }
func (c *scriptedConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *scriptedConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }

// fuzzSocket gives input to a new socket as what its client sends before it hangs up. It returns what became of it, and
// what the client got.
func fuzzSocket(t *testing.T, input []byte, compression, events bool) (v verdict, reason string, got []byte) {
	h := &Handler{Compression: compressing(compression), MaxMessageSize: fuzzLimit}
	conn := &scriptedConn{in: bytes.NewReader(input)}
	header := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {testKey}}
	if compression {
		header.Set("Sec-Websocket-Extensions", "permessage-deflate")
	}
	r := &http.Request{Method: "GET", URL: &url.URL{Path: "/"}, ProtoMajor: 1, ProtoMinor: 1, Host: "a", Header: header}
	if err := h.HandleUpgrade(r, conn, nil); err != nil {
		t.Fatal(err)
	}
	s := h.NextPending()
	if s == nil && len(input) == 0 { // it was seen to have left
		return verdict{code: CloseAbnormalClosure}, "", nil
	}

	note := func(_ *Socket, t MessageType, p []byte) {
		v.messages = append(v.messages, strconv.Itoa(int(t))+string(p))
	}
	ends := 0
	if events {
		over := make(chan struct{})
		s.Handle(Events{Message: note, Closed: func(_ *Socket, code CloseCode, why string) {
			ends++
			v.code, reason = code, why
			close(over)
		}})
		<-over
	} else {
		for {
			t, p, err := s.Read(context.Background())
			if err != nil {
				break
			}
			note(s, t, p)
		}
		<-s.Done()
		ends++
		v.code, reason = closeCode(s), closeReason(s)
	}
	h.Close()
	if ends != 1 || h.Stats().Closed[v.code] != 1 {
		t.Fatalf("%d ends, %v", ends, h.Stats().Closed)
	}
	conn.mu.Lock()
	defer conn.mu.Unlock()
	_, got, _ = bytes.Cut(conn.out.Bytes(), []byte("\r\n\r\n"))
	return v, reason, got
}

// checkOutput holds what a server has sent to the rules.
func checkOutput(t *testing.T, frames []byte) {
	for over := false; len(frames) >= 2; {
		n := int(frames[1] & 0x7f)
		if frames[1]&0x80 != 0 || frames[0]&0x7f != 0x0a && frames[0]&0x7f != 0x08 || frames[0]&0x80 == 0 || n > 125 || over {
			t.Fatalf("frames %x", frames)
		}
		if len(frames) < 2+n {
			return
		}
		if over = frames[0] == 0x88; over && n > 0 && (n == 1 || !CloseCode(binary.BigEndian.Uint16(frames[2:])).sendable() || !utf8.Valid(frames[4:2+n])) {
			t.Fatalf("close frame %x", frames)
		}
		frames = frames[2+n:]
	}
}

// FuzzSocket gives a socket any bytes, and compares what comes of it with what RFC 6455 says should.
func FuzzSocket(f *testing.F) {
	for _, seed := range [][]byte{
		wstest.Masked(0x81, "hello"), wstest.Masked(0x82, "\xff"), append(wstest.Masked(0x01, "h\xc3"), wstest.Masked(0x80, "\xa4")...), wstest.Masked(0x81, "\xc3"),
		append(wstest.Masked(0x89, "ping"), wstest.Masked(0x88, "\x03\xe8bye")...), wstest.Masked(0x88, ""), wstest.Masked(0x88, "\x03"), wstest.Masked(0x88, "\x03\xed"), wstest.Masked(0x88, "\x03\xe8\xff"),
		wstest.Masked(0x83, ""), wstest.Masked(0xc1, ""), wstest.Masked(0x80, "x"), append(wstest.Masked(0x01, "a"), wstest.Masked(0x81, "b")...), {0x81, 0x05, 'h'}, {0x81, 0xfe, 0, 5}, {0x82, 0xff, 0xff},
		wstest.Masked(0x82, strings.Repeat("x", fuzzLimit)), wstest.Masked(0x82, strings.Repeat("x", fuzzLimit+1)), wstest.Masked(0x02, strings.Repeat("x", 200))[:100],
		slices.Concat(wstest.Masked(0x01, ""), wstest.Masked(0x8a, "pong"), wstest.Masked(0x00, ""), wstest.Masked(0x80, "")), {0x09, 0x80}, {0x89, 0xfe, 0, 126},
	} {
		f.Add(seed, false, false)
		f.Add(seed, true, true)
	}
	f.Fuzz(func(t *testing.T, input []byte, compression, events bool) {
		v, reason, got := fuzzSocket(t, input, compression, events)
		checkOutput(t, got)
		if !utf8.ValidString(reason) || !v.code.sendable() && v.code != CloseNoStatusReceived && v.code != CloseAbnormalClosure {
			t.Fatalf("%v %q", v.code, reason)
		}
		for _, m := range v.messages {
			if len(m) > fuzzLimit+1 || m[0] == '1' && !utf8.ValidString(m) {
				t.Fatalf("%.100q", m)
			}
		}
		if compression {
			return
		}
		want := judge(input, fuzzLimit)
		if !slices.Equal(v.messages, want.messages) || v.code != want.code {
			t.Fatalf("%v, %.200q\ninstead of\n%v, %.200q", v.code, v.messages, want.code, want.messages)
		}
	})
}

// FuzzCompression gives a socket a compressed message, and compares what comes of it with compress/flate.
func FuzzCompression(f *testing.F) {
	deflate := func(p string) []byte {
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, flate.BestCompression)
		io.WriteString(w, p)
		w.Flush()
		return bytes.TrimSuffix(b.Bytes(), []byte{0, 0, 0xff, 0xff})
	}
	f.Add(deflate("hello"), true, uint8(0))
	f.Add(deflate(strings.Repeat("x", fuzzLimit)), false, uint8(3))
	f.Add(deflate(strings.Repeat("x", fuzzLimit+1)), false, uint8(1))
	f.Add(deflate("h\xc3"), true, uint8(1))
	f.Add([]byte{}, true, uint8(0))
	f.Add([]byte{0}, true, uint8(0))
	f.Add([]byte{3, 0}, false, uint8(1))
	f.Add([]byte{1, 0, 0, 0xff, 0xff, 'x'}, false, uint8(2))
	f.Fuzz(func(t *testing.T, compressed []byte, text bool, cut uint8) {
		if len(compressed) > fuzzLimit+fuzzLimit/8+1<<10 {
			return // too long, whatever is in it
		}
		kind := 2
		if text {
			kind = 1
		}
		b0 := 0x40 | byte(kind)
		// In up to three fragments.
		var input []byte
		rest := string(compressed)
		for range cut % 3 {
			n := len(rest) * int(cut) / 256
			input = append(input, wstest.Masked(b0, rest[:n])...)
			b0, rest = 0, rest[n:]
		}
		input = append(input, wstest.Masked(b0|0x80, rest)...)
		input = append(input, wstest.Masked(0x88, "\x0f\xa0")...)
		v, _, got := fuzzSocket(t, input, true, cut&0x80 != 0)
		checkOutput(t, got)

		// DEFLATE blocks, the last of a sequence marked as final, and another sequence behind it, until all is used up.
		left := bytes.NewReader(slices.Concat(compressed, []byte("\x00\x00\xff\xff\x01\x00\x00\xff\xff")))
		var p []byte
		var err error
		for err == nil && left.Len() > 0 && len(p) <= fuzzLimit {
			var more []byte
			more, err = io.ReadAll(io.LimitReader(flate.NewReader(left), int64(fuzzLimit+1-len(p))))
			p = append(p, more...)
		}
		var want verdict
		switch {
		case len(p) > fuzzLimit:
			want.code = CloseMessageTooBig
			if text && !begins(p, false) {
				want.code = v.code // whichever was seen first
			}
		case text && !begins(p, err == nil), err != nil:
			want.code = CloseInvalidFramePayloadData
		default:
			want.code, want.messages = 4000, []string{strconv.Itoa(kind) + string(p)}
		}
		if v.code != want.code || !slices.Equal(v.messages, want.messages) {
			t.Fatalf("%v, %.200q\ninstead of\n%v, %.200q\n%v", v.code, v.messages, want.code, want.messages, err)
		}
	})
}

// FuzzOriginPatterns compares what patterns allow with what net/url makes of the same texts.
func FuzzOriginPatterns(f *testing.F) {
	for _, pattern := range []string{"https://example.com", "https://*.example.com", "http://localhost:*", "https://example.com:8443", "http://[::1]:80", "http://10.0.0.1"} {
		for _, origin := range []string{"https://example.com", "https://a.example.com", "https://example.com.evil.org", "http://localhost:1234", "https://evilexample.com",
			"https://example.com:8443", "http://[::1]", "null", "https://user@example.com", "https://example.com/", "https://EXAMPLE.com:443", "http://10.0.0.1:80"} {
			f.Add(pattern, origin)
		}
	}
	f.Fuzz(func(t *testing.T, pattern, origin string) {
		a, ok := allow(pattern)
		if !ok {
			return
		}
		allowed := a.OriginAllowed(&http.Request{Header: http.Header{"Origin": {origin}}, Host: "elsewhere"})
		if !allowed {
			return
		}
		// What is allowed must be the same to net/url, but for the spelling of its host.
		u, err := url.Parse(origin)
		if err != nil || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" || u.Host == "" {
			t.Fatalf("%q allows %q: %v", pattern, origin, err)
		}
		anyPort := strings.HasSuffix(pattern, ":*")
		p, err := url.Parse(strings.Replace(strings.TrimSuffix(pattern, ":*"), "://*.", "://", 1))
		if err != nil {
			t.Fatalf("%q is a pattern: %v", pattern, err)
		}
		if u.Scheme != p.Scheme || !anyPort && portOf(u) != portOf(p) {
			t.Fatalf("%q allows %q", pattern, origin)
		}
		host, ok := normalHost(u.Hostname())
		want, ok2 := normalHost(p.Hostname())
		if !ok || !ok2 {
			return // addresses
		}
		if strings.Contains(pattern, "://*.") {
			host = host[max(len(host)-len(want)-1, 0):]
			want = "." + want
		}
		if host != want {
			t.Fatalf("%q allows %q", pattern, origin)
		}
	})
}

// portOf returns the port of a URL as a number.
func portOf(u *url.URL) int {
	n, err := strconv.Atoi(u.Port())
	if err != nil {
		n, _ = strconv.Atoi(defaultPort(u.Scheme))
	}
	return n
}

// allow returns what AllowOrigins does, unless that panics.
func allow(pattern string) (a OriginAuthenticator, ok bool) {
	defer func() { recover() }()
	a = AllowOrigins(pattern)
	return a, true
}

// FuzzDial gives a client any bytes for an answer, in which %s stands for the right accept key.
func FuzzDial(f *testing.F) {
	f.Add([]byte(welcome()))
	f.Add([]byte(welcome("Sec-WebSocket-Protocol: a") + "\x81\x02hi"))
	f.Add([]byte(welcome("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover") + "\xc1\x00"))
	f.Add([]byte(welcome("Set-Cookie: a=b", "Connection: close")))
	f.Add([]byte("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"))
	f.Add([]byte("HTTP/1.1 302 Found\r\nLocation: /\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\n\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		ours, theirs := net.Pipe()
		go func() {
			request := make([]byte, 4096)
			n, _ := theirs.Read(request)
			_, key, _ := strings.Cut(string(request[:n]), "Sec-WebSocket-Key: ")
			key, _, _ = strings.Cut(key, "\r\n")
			go io.Copy(io.Discard, theirs)
			theirs.Write(bytes.ReplaceAll(answer, []byte("%s"), []byte(acceptKey(key))))
			theirs.Close()
		}()
		s, resp, err := Dial(t.Context(), "ws://localhost/", &DialOptions{
			NetDial:     func(context.Context, string, string) (net.Conn, error) { return ours, nil },
			Proxy:       func(*http.Request) (*url.URL, error) { return nil, nil },
			Compression: CompressionContextTakeover, Subprotocols: []string{"a", "b"},
		})
		if (err == nil) != (s != nil) || err == nil && (resp == nil || resp.StatusCode != 101) {
			t.Fatal(s, resp, err)
		}
		if resp != nil && s == nil {
			if b, err := io.ReadAll(resp.Body); err != nil || len(b) > 1024 {
				t.Fatal(len(b), err)
			}
		}
		if s == nil {
			return
		}
		if p := s.Subprotocol(); p != "" && p != "a" && p != "b" {
			t.Fatalf("subprotocol %q", p)
		}
		for err == nil {
			_, _, err = s.Read(t.Context())
		}
		<-s.Done()
		if code := closeCode(s); !code.sendable() && code != CloseNoStatusReceived && code != CloseAbnormalClosure {
			t.Fatal(s.Err())
		}
	})
}
