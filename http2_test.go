//lint:file-ignore SA1019 http.Transport, which is to replace http2.Transport, refuses the header :protocol

package foyer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/foyerws/foyer/internal/wstest"

	"golang.org/x/net/http2"

	_ "github.com/foyerws/foyer/extendedconnect"
)

// serveHTTP2 serves handler over HTTP/2, with or without TLS, until the test ends, and returns the URL and a client whose
// requests go over one connection.
func serveHTTP2(t testing.TB, secure bool, handler http.Handler) (url string, client *http.Client) {
	t.Helper()
	return serveHTTP2With(t, secure, handler, func(*http.Server) {})
}

// serveHTTP2With is serveHTTP2 with a server that configure has changed.
func serveHTTP2With(t testing.TB, secure bool, handler http.Handler, configure func(*http.Server)) (url string, client *http.Client) {
	t.Helper()
	srv := httptest.NewUnstartedServer(handler)
	configure(srv.Config)
	if err := EnableHTTP2(srv.Config); err != nil {
		t.Fatal(err)
	}
	transport := new(http2.Transport) // that of net/http takes no header named :protocol
	if secure {
		srv.EnableHTTP2 = true
		srv.StartTLS()
		transport.TLSClientConfig = srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	} else {
		srv.Config.Protocols = new(http.Protocols)
		srv.Config.Protocols.SetUnencryptedHTTP2(true)
		srv.Start()
		transport.AllowHTTP = true
		transport.DialTLSContext = func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
	}
	t.Cleanup(srv.Close)
	t.Cleanup(transport.CloseIdleConnections)
	return srv.URL, &http.Client{Transport: transport}
}

// A clientStream is the client's end of a stream.
type clientStream struct {
	net.Conn // nil
	body     io.ReadCloser
	out      *io.PipeWriter
}

func (c *clientStream) Read(p []byte) (int, error) { return c.body.Read(p) }

func (c *clientStream) Write(p []byte) (int, error) { return c.out.Write(p) }

func (c *clientStream) CloseWrite() error { return c.out.Close() }

func (c *clientStream) Close() error { return c.body.Close() } // a reset, unless all was read

func (c *clientStream) SetDeadline(t time.Time) error {
	time.AfterFunc(time.Until(t), func() { c.Close() })
	return nil
}

// connectRequest is an extended CONNECT. A header without a value leaves that header out.
func connectRequest(ctx context.Context, url string, body io.Reader, lines ...string) *http.Request {
	r, err := http.NewRequestWithContext(ctx, http.MethodConnect, url+"/chat?room=1", body)
	if err != nil {
		panic(err)
	}
	r.Header = http.Header{":protocol": {"websocket"}, "Sec-Websocket-Version": {"13"}}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		switch {
		case value == "":
			r.Header.Del(name)
		case name == "Protocol":
			r.Header[":protocol"] = []string{value}
		default:
			r.Header.Add(name, value)
		}
	}
	return r
}

// openStream opens a socket over HTTP/2.
func openStream(t testing.TB, client *http.Client, url string, lines ...string) (*clientStream, *http.Response) {
	t.Helper()
	in, out := io.Pipe()
	resp, err := client.Do(connectRequest(context.Background(), url, in, lines...))
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp)
	}
	c := &clientStream{body: resp.Body, out: out}
	t.Cleanup(func() { c.Close() })
	return c, resp
}

// echoed sends a text and expects it back.
func echoed(t testing.TB, c io.ReadWriter, text string) {
	t.Helper()
	if _, err := c.Write(wstest.Masked(0x81, text)); err != nil {
		t.Fatal(err)
	}
	want := append([]byte{0x81, byte(len(text))}, text...)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("echo of %q: %q, %v", text, got, err)
	}
}

func TestHTTP2(t *testing.T) {
	for _, secure := range []bool{true, false} {
		t.Run(fmt.Sprint("TLS ", secure), func(t *testing.T) {
			h := closeHandler(t, &Handler{ServerName: "foyer", Subprotocols: []string{"b", "a"},
				Authorize: func(*http.Request) (http.Header, error) { return http.Header{"X-User": {"alice"}}, nil }})
			returned := make(chan struct{})
			url, client := serveHTTP2(t, secure, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Outer", "middleware")
				w.Header().Set("Content-Length", "5")
				h.ServeHTTP(w, r)
				close(returned)
			}))
			c, resp := openStream(t, client, url, "Sec-WebSocket-Protocol: a, b", "Sec-WebSocket-Key: ignored", "Origin: "+url)
			s := accept(t, h)
			for name, want := range map[string]string{"Server": "foyer", "Sec-Websocket-Protocol": "a", "X-User": "alice", "X-Outer": "middleware",
				"Content-Length": "", "Content-Type": "", "Sec-Websocket-Accept": "", "Upgrade": ""} {
				if got := resp.Header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			if r := s.Request(); r.ProtoMajor != 2 || r.Method != http.MethodConnect || r.URL.Path != "/chat" || (r.TLS != nil) != secure {
				t.Error(r)
			}
			if r := s.Request(); r.URL.RequestURI() != "/chat?room=1" || !strings.HasSuffix(url, "//"+r.Host) || s.Subprotocol() != "a" {
				t.Error(r.URL, r.Host, s.Subprotocol())
			}
			if s.LocalAddr().String() != strings.TrimPrefix(strings.TrimPrefix(url, "https://"), "http://") || s.RemoteAddr().(*net.TCPAddr).Port == 0 {
				t.Error(s.LocalAddr(), s.RemoteAddr())
			}
			go echo(t.Context(), s)
			echoed(t, c, "hello")
			big := bytes.Repeat([]byte("0123456789abcdef"), 40<<10)
			go c.Write(wstest.Masked(0x82, string(big)))
			got := make([]byte, 10+len(big))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got[10:], big) {
				t.Fatal(err)
			}
			select {
			case <-returned:
				t.Error("ServeHTTP has returned too early")
			default:
			}
			c.Write(wstest.Masked(0x88, "\x0f\xa0bye"))
			if end, err := io.ReadAll(c); err != nil || string(end) != "\x88\x02\x0f\xa0" {
				t.Errorf("%q, %v", end, err)
			}
			<-returned
			<-s.Done()
			if closeCode(s) != 4000 || closeReason(s) != "bye" || s.Err() == nil {
				t.Error(s.Err())
			}
			eventually(t, "the socket to be forgotten", func() bool { return h.Stats().Open == 0 })
			if st := h.Stats(); st.Upgraded != 1 || st.Closed[4000] != 1 || st.MessagesIn != 2 || st.BytesOut < uint64(len(big)) {
				t.Error(st)
			}
		})
	}
}

func TestHTTP2Refusals(t *testing.T) {
	t.Parallel()
	var last lastError
	h := closeHandler(t, &Handler{MaxPending: 1, OnError: last.set})
	url, client := serveHTTP2(t, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			io.WriteString(w, r.RemoteAddr)
		} else {
			h.ServeHTTP(w, r)
		}
	}))
	connection := func() string {
		resp, err := client.Get(url + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	first := connection()
	ask := func(r *http.Request) *http.Response {
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp
	}
	open := func() io.Reader {
		in, out := io.Pipe()
		t.Cleanup(func() { out.Close() })
		return in
	}
	for _, test := range []struct {
		name   string
		status int
		r      *http.Request
	}{
		{"another protocol", 501, connectRequest(t.Context(), url, open(), "Protocol: connect-udp")},
		{"no version", 426, connectRequest(t.Context(), url, open(), "Sec-WebSocket-Version: ")},
		{"another version", 426, connectRequest(t.Context(), url, open(), "Sec-WebSocket-Version: ", "Sec-WebSocket-Version: 8")},
		{"a closed stream", 400, connectRequest(t.Context(), url, http.NoBody)},
		{"a length", 400, connectRequest(t.Context(), url, strings.NewReader("12345"))},
		{"another origin", 403, connectRequest(t.Context(), url, open(), "Origin: https://evil.example")},
	} {
		t.Run(test.name, func(t *testing.T) {
			resp := ask(test.r)
			if resp.StatusCode != test.status || test.status == 426 && resp.Header.Get("Sec-Websocket-Version") != "13" {
				t.Error(resp)
			}
			var refusal *HandshakeError
			if !errors.As(last.get(), &refusal) || refusal.Status != test.status {
				t.Error(last.get())
			}
		})
	}
	t.Run("not extended", func(t *testing.T) {
		r, _ := http.NewRequest(http.MethodGet, url+"/chat", nil)
		if resp := ask(r); resp.StatusCode != 426 {
			t.Error(resp)
		}
	})
	t.Run("a full pool", func(t *testing.T) {
		openStream(t, client, url)
		if resp := ask(connectRequest(t.Context(), url, open())); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
			t.Error(resp)
		}
		if st := h.Stats(); st.Pending != 1 || st.Refused[503] != 1 {
			t.Error(st)
		}
	})
	if last := connection(); last != first {
		t.Error("a refusal has ended the connection with everything on it")
	}
}

// A client that opens sockets nobody reads, and does not read others, holds nobody up but itself.
func TestHTTP2SlowSockets(t *testing.T) {
	h := closeHandler(t, &Handler{Origins: AnyOrigin()})
	url, client := serveHTTP2(t, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			io.Copy(w, r.Body)
		} else {
			h.ServeHTTP(w, r)
		}
	}))
	var unread []*Socket
	for range 20 {
		c, _ := openStream(t, client, url)
		unread = append(unread, accept(t, h))
		go func() {
			for p := wstest.Masked(0x82, strings.Repeat("x", 60000)); ; {
				if _, err := c.Write(p); err != nil {
					return
				}
			}
		}()
	}
	var undrained []*Socket
	for range 5 {
		openStream(t, client, url) // and never read
		s := accept(t, h)
		undrained = append(undrained, s)
		go func() {
			for s.Write(context.Background(), Binary, make([]byte, 60000)) == nil {
			}
		}()
	}
	lively, _ := openStream(t, client, url)
	go echo(t.Context(), accept(t, h))
	eventually(t, "all the others stand still", func() bool {
		before := h.Stats()
		time.Sleep(50 * time.Millisecond)
		after := h.Stats()
		return before.BytesIn == after.BytesIn && before.BytesOut == after.BytesOut && undrained[4].BytesToWrite() > 0
	})
	for i := range 50 {
		echoed(t, lively, fmt.Sprint("lively ", i))
		resp, err := client.Post(url+"/", "text/plain", strings.NewReader(strings.Repeat("y", 100000)))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); err != nil || len(b) != 100000 {
			t.Fatal(len(b), err)
		}
		resp.Body.Close()
	}
	begin := time.Now()
	for _, s := range append(unread, undrained...) {
		s.Abort()
	}
	echoed(t, lively, "and still")
	eventually(t, "their ends", func() bool { return h.Stats().Open == 1 })
	if d := time.Since(begin); d > 3*time.Second {
		t.Error("it took", d)
	}
}

func TestHTTP2Compression(t *testing.T) {
	h := closeHandler(t, &Handler{Compression: CompressionContextTakeover, CompressionThreshold: -1})
	url, client := serveHTTP2(t, true, h)
	c, resp := openStream(t, client, url, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
	if got := resp.Header.Get("Sec-Websocket-Extensions"); got != "permessage-deflate; client_max_window_bits=12" {
		t.Fatal(got)
	}
	go echo(t.Context(), accept(t, h))
	c.Write(wstest.Masked(0xc1, deflated("hello")))
	head := make([]byte, 2)
	if _, err := io.ReadFull(c, head); err != nil || head[0] != 0xc1 {
		t.Fatal(head, err)
	}
}

// Upgrade gives the socket to its caller, who must end it before the handler returns.
func TestHTTP2Upgrade(t *testing.T) {
	h := closeHandler(t, &Handler{})
	for name, use := range map[string]func(s *Socket){
		"Close":  func(s *Socket) { echo(background, s); s.Close(CloseNormalClosure, ""); <-s.Done() },
		"Abort":  func(s *Socket) { s.Read(background); s.TryWrite(Text, make([]byte, 10000)); s.Abort(); <-s.Done() },
		"Events": func(s *Socket) { s.Handle(Events{}); s.Close(CloseNormalClosure, ""); <-s.Done() },
	} {
		t.Run(name, func(t *testing.T) {
			var writers sync.WaitGroup
			url, client := serveHTTP2(t, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s, err := h.Upgrade(w, r)
				if err != nil {
					t.Error(err)
					return
				}
				if name != "Close" {
					for range 4 {
						writers.Go(func() {
							for s.Write(background, Text, []byte("late")) == nil {
							}
						})
					}
				}
				use(s)
			}))
			c, _ := openStream(t, client, url)
			if name == "Close" {
				echoed(t, c, "hello")
			}
			c.Write(wstest.Masked(0x88, "\x03\xe8"))
			io.Copy(io.Discard, c)
			writers.Wait()
		})
	}
}

// A handler that returns too early ends its socket, and nobody panics.
func TestHTTP2UpgradeOfAHandlerThatReturns(t *testing.T) {
	h := closeHandler(t, &Handler{})
	sockets := make(chan *Socket, 1)
	url, client := serveHTTP2(t, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := h.Upgrade(w, r)
		if err != nil {
			t.Error(err)
		}
		sockets <- s
	}))
	c, _ := openStream(t, client, url)
	io.Copy(io.Discard, c)
	s := <-sockets
	eventually(t, "a write that tells", func() bool { return s.Write(t.Context(), Text, []byte("late")) != nil })
	<-s.Done()
	if _, _, err := s.Read(t.Context()); err == nil || closeCode(s) != CloseAbnormalClosure {
		t.Error(err)
	}
}

// Middleware that hides the stream is named.
func TestHTTP2HiddenStream(t *testing.T) {
	var last lastError
	h := closeHandler(t, &Handler{OnError: last.set})
	url, client := serveHTTP2(t, true, http.TimeoutHandler(h, time.Second, ""))
	in, out := io.Pipe()
	defer out.Close()
	resp, err := client.Do(connectRequest(t.Context(), url, in))
	if err != nil || resp.StatusCode != 500 {
		t.Fatal(resp, err)
	}
	if err := last.get(); !errors.Is(err, http.ErrNotSupported) || !strings.Contains(fmt.Sprint(errors.Unwrap(err)), "*http.timeoutWriter") {
		t.Error(err)
	}
}

// Net/http announces extended CONNECT where the environment or an import says so, and EnableHTTP2 knows.
func TestHTTP2Announced(t *testing.T) {
	const child = "FOYER_TEST_ANNOUNCED"
	if os.Getenv(child) == "" {
		for setting, want := range map[string]string{
			"": "true", "panicnil=1": "true", "http2xconnect=1": "true", "panicnil=1,http2xconnect=1": "true", "http2xconnect=0": "false",
		} {
			cmd := exec.Command(os.Args[0], "-test.run=^TestHTTP2Announced$")
			cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "GODEBUG=") }), child+"="+want)
			if setting != "" {
				cmd.Env = append(cmd.Env, "GODEBUG="+setting)
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("with GODEBUG=%q: %v\n%s", setting, err, out)
			}
		}
		return
	}

	want := os.Getenv(child) == "true"
	own := &http.HTTP2Config{MaxReceiveBufferPerConnection: 1 << 20, MaxReceiveBufferPerStream: 1 << 18, WriteByteTimeout: time.Hour}
	kept := *own
	if err := EnableHTTP2(&http.Server{HTTP2: own}); want != (err == nil) || !reflect.DeepEqual(*own, kept) {
		t.Error("settings of the program's own:", own, err)
	}
	unset := new(http.Server)
	if EnableHTTP2(unset); unset.HTTP2.MaxReceiveBufferPerStream != 128<<10 || unset.HTTP2.MaxReceiveBufferPerConnection != 4<<20-1 || unset.HTTP2.WriteByteTimeout != 30*time.Second {
		t.Error("settings that nobody has made:", unset.HTTP2)
	}
	if err := EnableHTTP2(new(http.Server)); want != (err == nil) || !want && !errors.Is(err, ErrNoExtendedConnect) {
		t.Error(err)
	}
	h := closeHandler(t, &Handler{})
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	conn, err := tls.Dial("tcp", srv.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	br := bufio.NewReader(conn)
	head := make([]byte, 9)
	if _, err := io.ReadFull(br, head); err != nil || head[3] != 4 {
		t.Fatal(head, err)
	}
	settings := make([]byte, int(head[1])<<8|int(head[2]))
	io.ReadFull(br, settings)
	announced := false
	for ; len(settings) > 0; settings = settings[6:] {
		announced = announced || settings[0] == 0 && settings[1] == 8 && settings[5] == 1 // SETTINGS_ENABLE_CONNECT_PROTOCOL
	}
	if announced != want {
		t.Error("announced:", announced)
	}
}

func TestIsHandshake(t *testing.T) {
	upgrade := http.Header{"Connection": {"keep-alive, Upgrade"}, "Upgrade": {"WebSocket"}}
	websocket := http.Header{":protocol": {"websocket"}}
	for _, test := range []struct {
		name   string
		major  int
		method string
		proto  string
		header http.Header
		want   bool
	}{
		{"an upgrade", 1, "GET", "HTTP/1.1", upgrade, true},
		{"an upgrade with another method", 1, "POST", "HTTP/1.1", upgrade, true}, // a bad one
		{"an upgrade to something else", 1, "GET", "HTTP/1.1", http.Header{"Connection": {"upgrade"}, "Upgrade": {"h2c"}}, false},
		{"an ordinary request", 1, "GET", "HTTP/1.1", nil, false},
		{"a CONNECT of a proxy", 1, "CONNECT", "HTTP/1.1", websocket, false},
		{"an extended CONNECT", 2, "CONNECT", "HTTP/2.0", websocket, true},
		{"one for something else", 2, "CONNECT", "HTTP/2.0", http.Header{":protocol": {"connect-udp"}}, false},
		{"a CONNECT over HTTP/2", 2, "CONNECT", "HTTP/2.0", nil, false},
		{"a GET over HTTP/2", 2, "GET", "HTTP/2.0", websocket, false},
		{"an extended CONNECT of quic-go", 3, "CONNECT", "websocket", nil, true},
		{"a CONNECT over HTTP/3", 3, "CONNECT", "HTTP/3.0", nil, false},
	} {
		r := &http.Request{Method: test.method, Proto: test.proto, ProtoMajor: test.major, Header: test.header}
		if got := IsHandshake(r); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

// The context of a server's requests may end before its sockets are closed in order.
func TestHTTP2BaseContext(t *testing.T) {
	h := closeHandler(t, &Handler{})
	base, cancel := context.WithCancel(context.Background())
	returned := make(chan struct{})
	url, client := serveHTTP2With(t, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r)
		close(returned)
	}), func(srv *http.Server) { srv.BaseContext = func(net.Listener) context.Context { return base } })
	c, _ := openStream(t, client, url)
	s := accept(t, h)
	go echo(background, s)
	echoed(t, c, "before")
	cancel()
	echoed(t, c, "after")
	go h.Shutdown(t.Context())
	end := make([]byte, 4)
	if _, err := io.ReadFull(c, end); err != nil || string(end) != "\x88\x02\x03\xe9" {
		t.Errorf("%q, %v", end, err)
	}
	c.Write(wstest.Masked(0x88, "\x03\xe9"))
	<-returned
	if closeCode(s) != CloseGoingAway {
		t.Error(s.Err())
	}
}
