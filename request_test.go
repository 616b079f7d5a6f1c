package foyer

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/foyerws/foyer/internal/wstest"
)

// parseAll feeds s to a parser in pieces of size bytes.
func parseAll(s string, size int) (*http.Request, string, *HandshakeError) {
	var p requestParser
	var have []byte
	for len(s) > 0 {
		n := min(size, len(s))
		have, s = append(have, s[:n]...), s[n:]
		n, done, refusal := p.parse(have)
		have = have[n:]
		if refusal != nil || done {
			return p.req, string(have) + s, refusal
		}
	}
	return nil, string(have), nil
}

func TestRequestParser(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	tests := []struct {
		name, input string
		status      int // 0: fine
	}{
		{"handshake", handshakeRequest(), 0},
		{"no header", "GET / HTTP/1.1\r\n\r\n", 0},
		{"HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", 0},
		{"bare line feed", "GET / HTTP/1.1\n\r\n", 400},
		{"bare line feed in the header", "GET / HTTP/1.1\r\nHost: x\n\r\n", 400},
		{"two words", "GET /\r\n\r\n", 400},
		{"not HTTP", "\x16\x03\x01\x02\x00\x01\r\n", 400},
		{"empty line first", "\r\nGET / HTTP/1.1\r\n\r\n", 400},
		{"relative target", "GET chat HTTP/1.1\r\n\r\n", 400},
		{"control character in the target", "GET /\x01 HTTP/1.1\r\n\r\n", 400},
		{"method with a colon", "G:T / HTTP/1.1\r\n\r\n", 400},
		{"no version", "GET / HTTP\r\n\r\n", 400},
		{"no colon", "GET / HTTP/1.1\r\nHost\r\n\r\n", 400},
		{"space before the colon", "GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400},
		{"folded line", "GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n", 400},
		{"empty name", "GET / HTTP/1.1\r\n: x\r\n\r\n", 400},
		{"carriage return in a value", "GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", 400},
		{"zero byte in a value", "GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n", 400},
		{"two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
		{"malformed host", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
		{"longest request line", "GET /" + long[:maxLine-14] + " HTTP/1.1\r\n\r\n", 0},
		{"request line too long", "GET /" + long[:maxLine-13] + " HTTP/1.1\r\n\r\n", 414},
		{"request line without end", "GET /" + long, 414},
		{"longest header line", "GET / HTTP/1.1\r\nX: " + long[:maxLine-3] + "\r\n\r\n", 0},
		{"header line too long", "GET / HTTP/1.1\r\nX: " + long[:maxLine-2] + "\r\n\r\n", 431},
		{"header line without end", "GET / HTTP/1.1\r\nX: " + long, 431},
		{"most header lines", "GET / HTTP/1.1\r\n" + strings.Repeat("X: 1\r\n", 100) + "\r\n", 0},
		{"too many header lines", "GET / HTTP/1.1\r\n" + strings.Repeat("X: 1\r\n", 101) + "\r\n", 431},
		{"too much header", "GET / HTTP/1.1\r\n" + strings.Repeat("X: "+long[:4000]+"\r\n", 17) + "\r\n", 431},
	}
	for _, tt := range tests {
		for _, size := range []int{1, 7, 1 << 20} {
			t.Run(fmt.Sprintf("%s/%d", tt.name, size), func(t *testing.T) {
				r, rest, refusal := parseAll(tt.input+"rest", size)
				switch {
				case tt.status == 0 && (refusal != nil || r == nil || rest != "rest"):
					t.Fatalf("refused: %v, rest %q", refusal, rest)
				case tt.status != 0 && (refusal == nil || refusal.Status != tt.status):
					t.Fatalf("got %v, want status %d", refusal, tt.status)
				}
			})
		}
	}
}

func TestRequestParserFields(t *testing.T) {
	r, _, refusal := parseAll("GET http://other.example/a%20b?q=1 HTTP/1.1\r\nhost: example.com\r\nx-two:  1 \r\n"+
		"X-Two: 2\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 1<<20)
	if refusal != nil {
		t.Fatal(refusal)
	}
	if r.Host != "other.example" || r.URL.Path != "/a b" || r.URL.RawQuery != "q=1" || r.RequestURI != "http://other.example/a%20b?q=1" {
		t.Errorf("host %q, URL %v", r.Host, r.URL)
	}
	if got := r.Header["X-Two"]; !reflect.DeepEqual(got, []string{"1", "2"}) {
		t.Errorf("X-Two: %q", got)
	}
	if _, ok := r.Header["Host"]; ok || r.ContentLength != -1 || len(r.TransferEncoding) != 1 {
		t.Errorf("header %v, length %d", r.Header, r.ContentLength)
	}
}

// FuzzRequestParser holds the parser against net/http's: whatever it takes, net/http takes too, with the same meaning.
func FuzzRequestParser(f *testing.F) {
	f.Add(handshakeRequest())
	f.Add("GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n")
	f.Add("GET http://a/b?c HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n")
	f.Add("OPTIONS * HTTP/1.0\r\n\r\n")
	f.Add("GET A://0 HTTP/1.0\r\n\r\n")
	f.Fuzz(func(t *testing.T, input string) {
		ours, rest, refusal := parseAll(input, len(input)+1)
		bytewise, restBytewise, refusalBytewise := parseAll(input, 1)
		if (refusal == nil) != (refusalBytewise == nil) || (ours == nil) != (bytewise == nil) && refusal == nil {
			t.Fatalf("at once: %v, byte by byte: %v", refusal, refusalBytewise)
		}
		if refusal != nil || ours == nil || !strings.HasSuffix(input, rest) {
			return
		}
		if rest != restBytewise {
			t.Fatalf("rest %q, byte by byte %q", rest, restBytewise)
		}
		theirs, err := http.ReadRequest(bufio.NewReader(strings.NewReader(input)))
		if err != nil {
			// net/http also judges the framing of a body, which a handshake may not have.
			if ours.ContentLength == 0 {
				t.Fatalf("net/http refuses %q: %v", input, err)
			}
			return
		}
		if ours.Method != theirs.Method || ours.RequestURI != theirs.RequestURI ||
			ours.Host != theirs.Host && ours.Host != "" || // which net/http takes from the target, too
			ours.URL.String() != theirs.URL.String() || ours.ProtoMajor != theirs.ProtoMajor || ours.ProtoMinor != theirs.ProtoMinor {
			t.Fatalf("ours %+v\ntheirs %+v", ours, theirs)
		}
		if ours.ContentLength == 0 && theirs.ContentLength != 0 {
			t.Fatalf("a body was overlooked in %q", input)
		}
		for name, values := range ours.Header {
			if name == "Content-Length" || name == "Connection" || name == "Pragma" || name == "Cache-Control" || name == "Trailer" {
				continue // net/http tidies these up
			}
			if !reflect.DeepEqual(values, theirs.Header[name]) {
				t.Fatalf("%s: ours %q, theirs %q", name, values, theirs.Header[name])
			}
		}
	})
}

type recycledValue struct{}

func (*recycledValue) Reset() {}

func TestDetachedContextKeepsValuesButNotRecycledOnes(t *testing.T) {
	type key int
	ctx, cancel := context.WithCancel(context.WithValue(context.WithValue(context.Background(), key(1), "user"), key(2), &recycledValue{}))
	r := &http.Request{Header: http.Header{"A": {"b"}}, URL: &url.URL{Path: "/"}}
	record := keepBase(r.WithContext(ctx))
	cancel()
	kept := record.unpack()
	ctx = kept.Context()
	if ctx.Err() != nil || ctx.Done() != nil {
		t.Error("the context has ended")
	}
	if _, ok := ctx.Deadline(); ok {
		t.Error("the context has a deadline")
	}
	if ctx.Value(key(1)) != "user" || ctx.Value(key(2)) != nil {
		t.Errorf("values %v, %v", ctx.Value(key(1)), ctx.Value(key(2)))
	}
	r.Header.Set("A", "changed")
	if kept.Header.Get("A") != "b" {
		t.Error("the header is shared")
	}
}

// FuzzHandleConnection sends arbitrary bytes to a Handler: whatever comes, the handshake ends, with a socket or an error,
// and the answer is HTTP.
func FuzzHandleConnection(f *testing.F) {
	f.Add([]byte(handshakeRequest()))
	f.Add([]byte(handshakeRequest() + string(wstest.Masked(0x81, "hello"))))
	f.Add([]byte(strings.Replace(handshakeRequest(), "GET", "POST", 1)))
	f.Add([]byte(strings.Replace(handshakeRequest(), "1.1", "1.0", 1)))
	for _, line := range []string{"Host: a\r\nHost: b", "Host:", "Content-Length: 1", "Connection: close", "Upgrade: h2c", "Sec-WebSocket-Version: 8",
		"Sec-WebSocket-Key: x", "Origin: http://evil.example", "X: a\rb", "X : a", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
		"Sec-WebSocket-Protocol: a, b", "X: " + strings.Repeat("x", maxLine)} {
		f.Add([]byte(handshakeRequest(line)))
	}
	f.Add([]byte("GET /" + strings.Repeat("x", maxLine) + " HTTP/1.1\r\n\r\n"))
	f.Add([]byte("GET / HTTP/1.1\r\n" + strings.Repeat("X: 1\r\n", 101) + "\r\n"))
	f.Fuzz(func(t *testing.T, input []byte) {
		h := &Handler{Compression: CompressionContextTakeover, Subprotocols: []string{"b"}, HandshakeTimeout: time.Second, CloseTimeout: time.Second}
		ours, theirs := net.Pipe()
		answer := make(chan []byte, 1)
		go func() {
			b, _ := io.ReadAll(ours)
			answer <- b
		}()
		handled := make(chan error, 1)
		go func() { handled <- h.HandleConnection(theirs) }()
		ours.Write(input)
		ours.SetWriteDeadline(time.Unix(1, 0))
		if !strings.Contains(string(input), "\r\n\r\n") {
			ours.Close() // or it would wait for the rest
		}
		err := <-handled
		if s := h.NextPending(); s != nil {
			for s.Err() == nil {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				_, _, err := s.Read(ctx)
				cancel()
				if err != nil {
					s.Abort()
				}
			}
		} else if err == nil && h.Stats().Upgraded != 1 {
			t.Fatal("neither a socket nor an error")
		}
		ours.Close()
		h.Close()
		if b := <-answer; len(b) > 0 && !strings.HasPrefix(string(b), "HTTP/1.1 ") {
			t.Fatalf("answer %q", b)
		}
	})
}

func TestAbsoluteTargetNeedsAHostToo(t *testing.T) {
	h := closeHandler(t, &Handler{})
	request := strings.Replace(handshakeRequest("Host:"), "/chat", "ws://example.com/chat", 1)
	if resp, _ := ask(t, dialTCP(t, serveRaw(t, h)), request); resp.StatusCode != 400 {
		t.Error(resp.Status)
	}
}

func TestRequestsAreCopies(t *testing.T) {
	h := closeHandler(t, &Handler{Authorize: func(r *http.Request) (http.Header, error) {
		r.URL.Path = "/elsewhere"
		r.Header.Set("X-User", "alice")
		return nil, nil
	}})
	for _, addr := range []string{serveRaw(t, h), serveHTTP(t, h)} {
		dial(t, addr, http.Header{"X-Two": {"a", "b"}})
		s := accept(t, h)
		if u := s.Request().URL; u.Path != "/elsewhere" {
			t.Error(u)
		}
		r := s.Request()
		r.URL.Path, r.Header["X-Two"] = "/changed", nil
		if again := s.Request(); again.URL.String() != "/elsewhere" || again.Header.Get("X-User") != "alice" ||
			!slices.Equal(again.Header["X-Two"], []string{"a", "b"}) || again.RequestURI != "/chat" || again.RemoteAddr == "" {
			t.Errorf("%+v", again)
		}
	}
}
