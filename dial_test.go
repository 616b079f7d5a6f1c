package foyer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// acceptKey returns the Sec-WebSocket-Accept for a key, RFC 6455 section 1.3.
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// welcome is an answer that lets a client in, with more header lines. %s stands for the accept key.
func welcome(lines ...string) string {
	return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n" +
		strings.Join(append(lines, ""), "\r\n") + "\r\n"
}

// answering serves one connection with an answer to its handshake, and after it with serve. It returns the address.
func answering(t *testing.T, answer string, serve func(conn net.Conn, r *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		br := bufio.NewReader(conn)
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		io.WriteString(conn, strings.ReplaceAll(answer, "%s", acceptKey(r.Header.Get("Sec-Websocket-Key"))))
		if serve != nil {
			serve(conn, br)
		}
	}()
	return l.Addr().String()
}

func TestDialEchoesEverySize(t *testing.T) {
	t.Parallel()
	sizes := []int{0, 1, 125, 126, 127, 1000, 16383, 16384, 16385, 65535, 65536, 300000}
	certificate := httptest.NewTLSServer(nil)
	defer certificate.Close()
	roots := x509.NewCertPool()
	roots.AddCert(certificate.Certificate())
	for name, way := range map[string]func(*testing.T, *Handler) (string, DialOptions){
		"raw":      func(t *testing.T, h *Handler) (string, DialOptions) { return "ws://" + serveRaw(t, h), DialOptions{} },
		"net/http": func(t *testing.T, h *Handler) (string, DialOptions) { return "ws://" + serveHTTP(t, h), DialOptions{} },
		"TLS": func(t *testing.T, h *Handler) (string, DialOptions) {
			s := &Server{Handler: h, TLSConfig: &tls.Config{Certificates: certificate.TLS.Certificates}}
			if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return s.URL().String(), DialOptions{TLSConfig: &tls.Config{RootCAs: roots}}
		},
		"Unix socket": func(t *testing.T, h *Handler) (string, DialOptions) {
			path := filepath.Join(t.TempDir(), "s")
			s := &Server{Handler: h}
			if err := s.Listen("unix", path); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return "ws://localhost", DialOptions{NetDial: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}
		},
		"net.Pipe": func(t *testing.T, h *Handler) (string, DialOptions) {
			return "ws://localhost", DialOptions{NetDial: func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := net.Pipe()
				go h.HandleConnection(theirs)
				return ours, nil
			}}
		},
	} {
		for _, compression := range []bool{false, true} {
			for _, events := range []bool{false, true} {
				t.Run(fmt.Sprint(name, ", compression ", compression, ", events ", events), func(t *testing.T) {
					h := closeHandler(t, &Handler{Compression: compressing(compression)})
					listenAll(h, Events{Message: echoBack})
					addr, o := way(t, h)
					o.Compression = CompressionContextTakeover
					s, resp, err := Dial(t.Context(), addr, &o)
					if err != nil {
						t.Fatal(err)
					}
					defer s.Abort()
					if got := resp.Header.Get("Sec-Websocket-Extensions") != ""; got != compression {
						t.Errorf("compression %v", got)
					}
					read := func() (MessageType, []byte, error) { return s.Read(t.Context()) }
					if events {
						type message struct {
							t MessageType
							p []byte
						}
						messages := make(chan message, len(sizes))
						s.Handle(Events{Message: func(_ *Socket, t MessageType, p []byte) { messages <- message{t, bytes.Clone(p)} }})
						read = func() (MessageType, []byte, error) {
							select {
							case m := <-messages:
								return m.t, m.p, nil
							case <-s.Done():
								return 0, nil, s.Err()
							}
						}
					}
					go func() {
						for i, size := range sizes {
							s.Write(t.Context(), MessageType(1+i%2), bytes.Repeat([]byte{byte('a' + i)}, size))
						}
					}()
					for i, size := range sizes {
						typ, p, err := read()
						if err != nil || typ != MessageType(1+i%2) || !bytes.Equal(p, bytes.Repeat([]byte{byte('a' + i)}, size)) {
							t.Fatalf("%v message of %d bytes instead of %d: %v", typ, len(p), size, err)
						}
					}
					if err := s.Close(4000, "bye"); err != nil {
						t.Error(err)
					}
					<-s.Done()
					if closeCode(s) != 4000 {
						t.Error(s.Err())
					}
				})
			}
		}
	}
}

func TestDialRefusals(t *testing.T) {
	long := strings.Repeat("x", 2000)
	for _, test := range []struct {
		name, answer string
		o            DialOptions
		status       int    // of the error and the answer; 0: neither
		says         string // the error
		body         string
	}{
		{"forbidden", "HTTP/1.1 403 Forbidden\r\nContent-Length: 2000\r\n\r\n" + long, DialOptions{}, 403, "status 403", long[:1024]},
		{"unauthorized", "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwho?\r\n0\r\n\r\n", DialOptions{}, 401, "status 401", "who?"},
		{"redirect", "HTTP/1.1 307 Temporary Redirect\r\nLocation: ws://elsewhere/\r\nContent-Length: 0\r\n\r\n", DialOptions{}, 307, `not followed, and this one leads to "ws://elsewhere/"`, ""},
		{"200", "HTTP/1.1 200 OK\r\n\r\nhello", DialOptions{}, 200, "status 200", "hello"},
		{"wrong accept", strings.Replace(welcome(), "%s", "AAAA", 1), DialOptions{}, 101, "not that of a WebSocket server", ""},
		{"no upgrade", strings.Replace(welcome(), "Upgrade: websocket\r\n", "", 1), DialOptions{}, 101, "not that of a WebSocket server", ""},
		{"no connection", strings.Replace(welcome(), "Connection: Upgrade\r\n", "", 1), DialOptions{}, 101, "not that of a WebSocket server", ""},
		{"subprotocol not offered", welcome("Sec-WebSocket-Protocol: b"), DialOptions{Subprotocols: []string{"a"}}, 101, `["b"] was not offered`, ""},
		{"two subprotocols", welcome("Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: b"), DialOptions{Subprotocols: []string{"a", "b"}}, 101, "was not offered", ""},
		{"extension not offered", welcome("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover"), DialOptions{}, 101, "was not offered", ""},
		{"another extension", welcome("Sec-WebSocket-Extensions: x-webkit-deflate-frame"), DialOptions{Compression: CompressionContextTakeover}, 101, "was not offered", ""},
		{"window of the client", welcome("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"), DialOptions{Compression: CompressionContextTakeover}, 101, "was not offered", ""},
		{"malformed parameter", welcome("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover=1; client_no_context_takeover"), DialOptions{Compression: CompressionContextTakeover}, 101, "was not offered", ""},
		{"two extensions", welcome("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover, permessage-deflate; server_no_context_takeover; client_no_context_takeover"), DialOptions{Compression: CompressionContextTakeover}, 101, "was not offered", ""},
		{"said by the server", "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 26\r\n\r\nNot \x1b[1mhere\x1b[m.\nSecond.\n", DialOptions{}, 403, `refused with status 403: Not \x1b[1mhere\x1b[m.`, "Not \x1b[1mhere\x1b[m.\nSecond.\n"},
		{"list of upgrades", strings.Replace(welcome(), "Upgrade: websocket", "Upgrade: h2c, websocket", 1), DialOptions{}, 101, "and not websocket", ""},
		{"two accepts", welcome("Sec-WebSocket-Accept: %s"), DialOptions{}, 101, "several Sec-WebSocket-Accept", ""},
		{"HTTP/1.0", strings.Replace(welcome(), "HTTP/1.1", "HTTP/1.0", 1), DialOptions{}, 101, "is not HTTP/1.1", ""},
		{"HTTP/9.9", strings.Replace(welcome(), "HTTP/1.1", "HTTP/9.9", 1), DialOptions{}, 101, "is not HTTP/1.1", ""},
		{"length on a 101", welcome("Content-Length: 0"), DialOptions{}, 101, "Content-Length on an answer that has no body", ""},
		{"encoding on a 101", welcome("Transfer-Encoding: chunked"), DialOptions{}, 101, "Transfer-Encoding on an answer", ""},
		{"bare line feed", strings.Replace(welcome(), "Upgrade: websocket\r\n", "Upgrade: websocket\n", 1), DialOptions{}, 101, "does not end in CRLF", ""},
		{"garbage", "SSH-2.0-OpenSSH\r\n\r\n", DialOptions{}, 0, "malformed", ""},
		{"nothing", "", DialOptions{}, 0, "EOF", ""},
		{"half", "HTTP/1.1 101 Swi", DialOptions{}, 0, "EOF", ""},
		{"endless header", "HTTP/1.1 101 Switching Protocols\r\n" + strings.Repeat("A: "+long+"\r\n", 40), DialOptions{}, 0, "longer than 65536 bytes", ""},
		{"endless line", "HTTP/1.1 101 " + strings.Repeat("x", 1<<17), DialOptions{}, 0, "longer than 65536 bytes", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			addr := answering(t, test.answer, nil)
			s, resp, err := Dial(t.Context(), "ws://"+addr+"/", &test.o)
			if s != nil || err == nil || !strings.Contains(err.Error(), test.says) || !strings.HasPrefix(err.Error(), "foyer: ") {
				t.Fatal(s, err)
			}
			var refusal *HandshakeError
			if errors.As(err, &refusal) != (test.status != 0) || refusal != nil && refusal.Status != test.status {
				t.Error(err)
			}
			if test.status == 0 {
				if resp != nil {
					t.Error(resp)
				}
				return
			}
			if resp == nil || resp.StatusCode != test.status {
				t.Fatal(resp)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || string(body) != test.body {
				t.Errorf("%q, %v", body, err)
			}
		})
	}
}

func TestDialTakesWhatItOffered(t *testing.T) {
	for _, lines := range [][]string{
		{"Sec-WebSocket-Protocol: b"},
		{"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=10"},
		{"Set-Cookie: a=b", "X-Long: " + strings.Repeat("x", 4000)},
	} {
		addr := answering(t, welcome(lines...)+"\x81\x02hi\x89\x01!", func(conn net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) })
		s, resp, err := Dial(t.Context(), "ws://"+addr, &DialOptions{Compression: CompressionContextTakeover, Subprotocols: []string{"a", "b"}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Abort()
		if s.Subprotocol() != resp.Header.Get("Sec-Websocket-Protocol") {
			t.Error(s.Subprotocol())
		}
		if typ, p, err := s.Read(t.Context()); err != nil || typ != Text || string(p) != "hi" { // came with the answer
			t.Error(typ, string(p), err)
		}
	}
}

func TestDialSaysWhatIsWrongWithItsArguments(t *testing.T) {
	for _, test := range []struct {
		target string
		o      DialOptions
		says   string
	}{
		{"ftp://localhost/", DialOptions{}, `"ftp" is not ws, wss, http or https`},
		{"localhost", DialOptions{}, "has no scheme"},
		{"ws://localhost/?token=secret#a", DialOptions{}, "fragment"},
		{"ws:///?token=secret", DialOptions{}, "no host"},
		{"ws:u:secret@example.com/", DialOptions{}, "malformed URL: no //"},
		{"ws://localhost/", DialOptions{Origin: "http://a\r\nX: y"}, "malformed Origin"},
		{"ws://localhost/", DialOptions{Origin: "http://a\x00"}, "malformed Origin"},
		{"ws:///path", DialOptions{}, "no host"},
		{"ws://localhost/#a", DialOptions{}, "fragment"},
		{"ws://localhost/#", DialOptions{}, "fragment"},
		{"ws://local\nhost/", DialOptions{}, "invalid"},
		{"ws://localhost/", DialOptions{Header: http.Header{"sec-websocket-key": {"x"}}}, "belongs to the handshake"},
		{"ws://localhost/", DialOptions{Header: http.Header{"X": {"a\r\nB: c"}}}, `malformed header "X"`},
		{"ws://localhost/", DialOptions{Header: http.Header{"X Y": {"a"}}}, `malformed header "X Y"`},
		{"ws://localhost/", DialOptions{Subprotocols: []string{"a, b"}}, `malformed subprotocol "a, b"`},
		{"ws://localhost/", DialOptions{Proxy: func(*http.Request) (*url.URL, error) { return nil, errors.New("no idea") }}, "no idea"},
		{"ws://localhost/", DialOptions{Proxy: http.ProxyURL(&url.URL{Scheme: "ftp", Host: "x"})}, "not http, https or socks5"},
	} {
		if _, _, err := Dial(t.Context(), test.target, &test.o); err == nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", test.target, err)
		}
	}
	for _, target := range []string{"ftp://user:secret@localhost/", "ws://user:secret@local host/", "ws://user:secret@localhost:port/", "ws://user:secret@/"} {
		if _, _, err := Dial(t.Context(), target, nil); err == nil || strings.Contains(err.Error(), "secret") {
			t.Error(err)
		}
	}
}

func TestDialSendsWhatItWasGiven(t *testing.T) {
	h := closeHandler(t, &Handler{Origins: AllowOrigins("https://example.com"), Subprotocols: []string{"b"},
		Authorize: func(r *http.Request) (http.Header, error) {
			return http.Header{"Set-Cookie": {"session=new; Path=/"}}, nil
		}})
	addr := serveHTTP(t, h)
	jar, _ := cookiejar.New(nil)
	site := &url.URL{Scheme: "http", Host: addr, Path: "/"}
	jar.SetCookies(site, []*http.Cookie{{Name: "session", Value: "old"}})
	header := http.Header{"x-user": {"alice"}, "Host": {"example.com"}}
	s, _, err := Dial(t.Context(), "ws://me:pass%20word@"+addr+"/chat?room=1", &DialOptions{
		Header: header, Origin: "https://example.com", Subprotocols: []string{"a", "b"}, Jar: jar,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Abort()
	r := accept(t, h).Request()
	user, password, _ := r.BasicAuth()
	cookie, _ := r.Cookie("session")
	if r.Host != "example.com" || r.URL.String() != "/chat?room=1" || r.Header.Get("X-User") != "alice" || user != "me" || password != "pass word" ||
		cookie == nil || cookie.Value != "old" || s.Subprotocol() != "b" || r.Header.Get("Origin") != "https://example.com" {
		t.Errorf("%+v", r)
	}
	if c := jar.Cookies(site); len(c) != 1 || c[0].Value != "new" {
		t.Error(c)
	}
	if len(header) != 2 {
		t.Error(header)
	}
	sent := s.Request()
	if sent.Header.Get("Sec-Websocket-Protocol") != "a, b" || sent.RemoteAddr != addr || sent.Method != "GET" {
		t.Errorf("%+v", sent)
	}
	if sent.Host != "example.com" || sent.URL.RequestURI() != "/chat?room=1" {
		t.Error(sent.URL)
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	conns := make(chan net.Conn, 100)
	go func() {
		for {
			conn, err := silent.Accept()
			if err != nil {
				return
			}
			conns <- conn
			go io.Copy(io.Discard, conn)
		}
	}()
	addr := silent.Addr().String()
	stuck := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	deaf := func(context.Context, string, string) (net.Conn, error) {
		conn, other := net.Pipe() // which takes nothing
		t.Cleanup(func() { other.Close() })
		return conn, nil
	}
	for name, test := range map[string]struct {
		target string
		o      DialOptions
	}{
		"connecting":  {"ws://" + addr, DialOptions{NetDial: stuck}},
		"TLS":         {"wss://" + addr, DialOptions{}},
		"answer":      {"ws://" + addr, DialOptions{}},
		"request":     {"ws://localhost", DialOptions{NetDial: deaf}},
		"http proxy":  {"ws://localhost", DialOptions{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: addr})}},
		"https proxy": {"ws://localhost", DialOptions{Proxy: http.ProxyURL(&url.URL{Scheme: "https", Host: addr})}},
		"socks proxy": {"ws://localhost", DialOptions{Proxy: http.ProxyURL(&url.URL{Scheme: "socks5", Host: addr})}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, how := range []error{ErrHandshakeTimeout, context.DeadlineExceeded, context.Canceled} {
				ctx, cancel := context.WithCancel(t.Context())
				test.o.HandshakeTimeout = -1
				switch how {
				case ErrHandshakeTimeout:
					test.o.HandshakeTimeout = 30 * time.Millisecond
				case context.DeadlineExceeded:
					ctx, cancel = context.WithTimeout(ctx, 30*time.Millisecond)
				default:
					time.AfterFunc(30*time.Millisecond, cancel)
				}
				begin := time.Now()
				_, _, err := Dial(ctx, test.target, &test.o)
				if took := time.Since(begin); !errors.Is(err, how) || took > 5*time.Second {
					t.Errorf("%v after %v", err, took)
				}
				cancel()
			}
		})
	}
	for len(conns) > 0 {
		conn := <-conns
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("a connection was left open")
		}
		conn.Close()
	}
}

func TestDialTLSErrors(t *testing.T) {
	h := closeHandler(t, &Handler{})
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	_, _, err := Dial(t.Context(), strings.Replace(srv.URL, "https", "wss", 1), nil)
	var insecure *TLSError
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &insecure) || !errors.As(err, &unknown) || insecure.RemoteAddr == nil {
		t.Error(err)
	}
	s, _, err := Dial(t.Context(), strings.Replace(srv.URL, "https", "wss", 1), &DialOptions{TLSConfig: &tls.Config{InsecureSkipVerify: true}})
	if err != nil {
		t.Fatal(err)
	}
	if s.Request().TLS == nil {
		t.Error(s.Request())
	}
	s.Abort()
}

// TestRefusalsThatDoNotEnd keep the connection open behind the beginning of their body.
func TestRefusalsThatDoNotEnd(t *testing.T) {
	t.Parallel()
	for _, through := range []string{"server", "proxy"} {
		addr := answering(t, "HTTP/1.1 403 Forbidden\r\nContent-Type: text/event-stream\r\n\r\nand so on", func(conn net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) })
		o, target := &DialOptions{HandshakeTimeout: -1}, "ws://"+addr
		if through == "proxy" {
			o.Proxy, target = http.ProxyURL(&url.URL{Scheme: "http", Host: addr}), "ws://localhost"
		}
		begin := time.Now()
		_, resp, err := Dial(t.Context(), target, o)
		var refusal *HandshakeError
		if !errors.As(err, &refusal) || refusal.Status != 403 || time.Since(begin) > 5*time.Second {
			t.Fatal(through, err, time.Since(begin))
		}
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "and so on" {
			t.Errorf("%s: %q, %v", through, body, err)
		}
	}
}

func TestInterimAnswersAreLeftOut(t *testing.T) {
	addr := answering(t, "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"+welcome()+"\x81\x02hi", func(conn net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) })
	s, resp, err := Dial(t.Context(), "ws://"+addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Abort()
	if _, p, err := s.Read(t.Context()); err != nil || string(p) != "hi" || resp.StatusCode != 101 {
		t.Error(string(p), err, resp.Status)
	}
	endless := answering(t, strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 10000), nil)
	if _, _, err := Dial(t.Context(), "ws://"+endless, nil); err == nil || !strings.Contains(err.Error(), "longer than 65536 bytes") {
		t.Error(err)
	}
}

// A timeless connection knows no deadlines.
type timeless struct{ net.Conn }

func (timeless) SetDeadline(time.Time) error { return errors.ErrUnsupported }

func (timeless) SetReadDeadline(time.Time) error { return errors.ErrUnsupported }

func (timeless) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// Names that are not ASCII are asked for as DNS knows them.
func TestDialOfInternationalNames(t *testing.T) {
	var asked string
	Dial(t.Context(), "ws://bücher.example/", &DialOptions{
		Proxy:   func(*http.Request) (*url.URL, error) { return nil, nil },
		NetDial: func(_ context.Context, _, addr string) (net.Conn, error) { asked = addr; return nil, io.EOF },
	})
	if asked != "xn--bcher-kva.example:80" {
		t.Error(asked)
	}
	_, _, err := Dial(t.Context(), "ws://localhost", &DialOptions{Header: http.Header{"Host": {"a b"}}})
	if err == nil || !strings.Contains(err.Error(), "Host") {
		t.Error(err)
	}
}

func TestDialWithoutDeadlinesEndsWithItsContext(t *testing.T) {
	for name, proxy := range map[string]*url.URL{"server": nil, "proxy": {Scheme: "http", Host: "localhost"}} {
		ours, theirs := net.Pipe()
		go io.Copy(io.Discard, theirs)
		begin := time.Now()
		_, _, err := Dial(t.Context(), "ws://localhost", &DialOptions{
			HandshakeTimeout: 50 * time.Millisecond, Proxy: http.ProxyURL(proxy),
			NetDial: func(context.Context, string, string) (net.Conn, error) { return timeless{ours}, nil },
		})
		if !errors.Is(err, ErrHandshakeTimeout) || time.Since(begin) > 5*time.Second {
			t.Error(name, err)
		}
		theirs.Close()
	}
}
