package foyer

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

// A testProxy is an HTTP proxy that knows CONNECT.
type testProxy struct {
	user   string
	asked  atomic.Pointer[string]
	tunnel atomic.Int32
}

func (p *testProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.asked.Store(&r.Host)
	if r.Method != http.MethodConnect || r.Header.Get("Proxy-Authorization") != p.user {
		w.Header().Set("Proxy-Authenticate", "Basic")
		http.Error(w, strings.Repeat("who are you?", 200), http.StatusProxyAuthRequired)
		return
	}
	there, err := net.Dial("tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	here, rw, _ := http.NewResponseController(w).Hijack()
	io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
	p.tunnel.Add(1)
	join(here, rw, there)
}

// join copies between two connections until both have ended.
func join(here net.Conn, fromHere io.Reader, there net.Conn) {
	go func() {
		io.Copy(there, fromHere)
		there.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(here, there)
	here.Close()
	there.Close()
}

func TestDialThroughProxies(t *testing.T) {
	h := closeHandler(t, &Handler{})
	listenAll(h, Events{Message: echoBack})
	plain := serveRaw(t, h)
	certificate := httptest.NewTLSServer(nil)
	defer certificate.Close()
	secure := &Server{Handler: h, TLSConfig: &tls.Config{Certificates: certificate.TLS.Certificates}}
	if err := secure.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer secure.Close()

	p := &testProxy{user: "Basic " + base64.StdEncoding.EncodeToString([]byte("me:secret"))}
	httpProxy, httpsProxy := httptest.NewServer(p), httptest.NewTLSServer(p)
	defer httpProxy.Close()
	defer httpsProxy.Close()
	socks := serveSOCKS5(t, "me", "secret", &p.tunnel)
	user := url.UserPassword("me", "secret")
	for _, proxy := range []*url.URL{
		{Scheme: "http", Host: strings.TrimPrefix(httpProxy.URL, "http://"), User: user},
		{Scheme: "https", Host: strings.TrimPrefix(httpsProxy.URL, "https://"), User: user},
		{Scheme: "socks5", Host: socks, User: user},
	} {
		for _, target := range []string{"ws://" + plain, secure.URL().String()} {
			t.Run(proxy.Scheme+" to "+target, func(t *testing.T) {
				before := p.tunnel.Load()
				var asked *url.URL
				o := &DialOptions{TLSConfig: &tls.Config{InsecureSkipVerify: true}, Proxy: func(r *http.Request) (*url.URL, error) {
					asked = r.URL
					return proxy, nil
				}}
				s, _, err := Dial(t.Context(), target, o)
				if err != nil {
					t.Fatal(err)
				}
				s.SendText(t.Context(), "hello")
				if _, m, err := s.Read(t.Context()); err != nil || string(m) != "hello" || p.tunnel.Load() != before+1 {
					t.Error(string(m), err)
				}
				if want := strings.Replace(target, "ws", "http", 1); asked.String() != want {
					t.Error(asked, want)
				}
				if err := s.Close(1000, ""); err != nil {
					t.Error(err)
				}
			})
		}
	}

	t.Run("refused", func(t *testing.T) {
		_, resp, err := Dial(t.Context(), "ws://"+plain, &DialOptions{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: strings.TrimPrefix(httpProxy.URL, "http://")})})
		var refusal *HandshakeError
		if !errors.As(err, &refusal) || refusal.Status != 407 || !strings.HasPrefix(refusal.Reason, "who are you?") || len(refusal.Request.Header["Proxy-Authorization"]) > 0 || resp.Header.Get("Proxy-Authenticate") != "Basic" {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(resp.Body); len(body) != 1024 {
			t.Errorf("%d bytes of body", len(body))
		}
		if _, _, err := Dial(t.Context(), "ws://"+plain, &DialOptions{Proxy: http.ProxyURL(&url.URL{Scheme: "socks5", Host: socks})}); err == nil {
			t.Error("the SOCKS proxy let us through without a password")
		}
	})
	t.Run("talkative", func(t *testing.T) {
		l, _ := net.Listen("tcp", "127.0.0.1:0")
		defer l.Close()
		go func() {
			for _, answer := range []string{"HTTP/1.1 200 OK\r\n\r\nand more", "garbage\r\n\r\n", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 20000)} {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				http.ReadRequest(bufio.NewReader(conn))
				io.WriteString(conn, answer)
				defer conn.Close()
			}
		}()
		for range 3 {
			if _, _, err := Dial(t.Context(), "ws://"+plain, &DialOptions{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: l.Addr().String()})}); err == nil || !strings.Contains(err.Error(), "proxy: ") {
				t.Error(err)
			}
		}
	})
}

// serveSOCKS5 serves RFC 1928 with a password, RFC 1929.
func serveSOCKS5(t *testing.T, user, password string, tunnels *atomic.Int32) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	serve := func(conn net.Conn) {
		r := bufio.NewReader(conn)
		next := func(n int) []byte {
			b := make([]byte, n)
			io.ReadFull(r, b)
			return b
		}
		methods := next(int(next(2)[1]))
		if !bytes.Contains(methods, []byte{2}) {
			conn.Write([]byte{5, 0xff})
			conn.Close()
			return
		}
		conn.Write([]byte{5, 2})
		next(1)
		name := next(int(next(1)[0]))
		word := next(int(next(1)[0]))
		if string(name) != user || string(word) != password {
			conn.Write([]byte{1, 1})
			conn.Close()
			return
		}
		conn.Write([]byte{1, 0})
		var host string
		switch next(4)[3] {
		case 1:
			host = net.IP(next(4)).String()
		case 3:
			host = string(next(int(next(1)[0])))
		}
		there, err := net.Dial("tcp", net.JoinHostPort(host, fmt.Sprint(binary.BigEndian.Uint16(next(2)))))
		if err != nil {
			conn.Close()
			return
		}
		conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		tunnels.Add(1)
		join(conn, r, there)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return l.Addr().String()
}
