package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
)

// freePort returns a port that nobody listens on. It is below those that the system gives out on its own, to the connections of tests that
// run at the same time.
func freePort(t *testing.T) string {
	t.Helper()
	for {
		port := strconv.Itoa(10000 + rand.IntN(20000))
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			l.Close()
			return port
		}
	}
}

// run runs a server program for the time of the test, once it has written its configuration, and waits until it listens on
// port.
func run(t *testing.T, port, config string, command func(file string) *exec.Cmd) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := command(file)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})
	for range 1200 { // half a minute: other tests may have the machine
		if conn, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			conn.Close()
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("%s does not listen", cmd.Path)
}

// sbin returns the path of a program that may be where only root looks.
func sbin(t *testing.T, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("real programs take their time")
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name)
		}
	}
	return program(t, name)
}

// behind serves an echo to a proxy, through net/http, where HTTP/2 is spoken as well, and through a Server, and returns
// the ports.
func behind(t *testing.T, h *foyer.Handler) (web, raw string) {
	t.Helper()
	go h.ForEach(context.Background(), func(ctx context.Context, s *foyer.Socket) {
		for {
			t, p, err := s.Read(ctx)
			if err != nil {
				return
			}
			if r := s.Request(); string(p) == "who am I?" {
				p = fmt.Appendf(nil, "%s for %s by %s over %s", s.RemoteAddr(), r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"), r.Proto)
			}
			if s.Write(ctx, t, p) != nil {
				return
			}
		}
	})
	m := http.NewServeMux()
	m.Handle("/", h)
	m.HandleFunc("/ready", func(http.ResponseWriter, *http.Request) {})
	srv := httptest.NewUnstartedServer(m)
	if err := foyer.EnableHTTP2(srv.Config); err != nil {
		t.Fatal(err)
	}
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &foyer.Server{Handler: h}
	go s.Serve(&proxyproto.Listener{Listener: l, ReadHeaderTimeout: 5 * time.Second})
	t.Cleanup(func() {
		s.Close() // and with it the sockets, which srv would wait for
		srv.Close()
	})
	_, web, _ = net.SplitHostPort(srv.Listener.Addr().String())
	_, raw, _ = net.SplitHostPort(l.Addr().String())
	return web, raw
}

// documented returns the n-th block of docs/deploy.md in a language, with other addresses and the like in it: each second
// of replace stands for the one before it.
func documented(t *testing.T, language string, n int, replace ...string) string {
	t.Helper()
	text, err := os.ReadFile("../docs/deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	block, _, _ := strings.Cut(strings.Split(string(text), "```"+language+"\n")[1+n], "```")
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(block, replace[i]) {
			t.Fatalf("no %q in\n%s", replace[i], block)
		}
	}
	return strings.NewReplacer(replace...).Replace(block)
}

// converseThrough echoes messages of all sizes, has the socket be idle for a while, and closes it.
func converseThrough(t *testing.T, url string, o *foyer.DialOptions, idle time.Duration) (whoAmI string) {
	t.Helper()
	s := foyertest.Dial(t, url, o)
	for _, n := range []int{0, 1, 125, 126, 65535, 65536, 300000} {
		if err := s.SendBinary(t.Context(), pattern(n)); err != nil {
			t.Fatal(err)
		}
		if _, p, err := s.Read(shortly(t)); err != nil || len(p) != n || sum(p) != sum(pattern(n)) {
			t.Fatal(n, len(p), err)
		}
	}
	ctx, stop := context.WithTimeout(t.Context(), idle)
	defer stop()
	if _, _, err := s.Read(ctx); ctx.Err() == nil {
		t.Errorf("the idle socket ended: %v", err)
	}
	s.SendText(t.Context(), "who am I?")
	_, p, err := s.Read(shortly(t))
	if err != nil {
		t.Error(err)
	}
	if err := s.Close(4001, "that was all"); err != nil {
		t.Error(err)
	}
	return string(p)
}

// The idle timeouts of the proxies, which keepalive must outlive.
const proxyTimeout, pingInterval, silence = "1s", 300 * time.Millisecond, 2 * time.Second

func TestNginx(t *testing.T) {
	nginx := sbin(t, "nginx")
	h := &foyer.Handler{PingInterval: pingInterval, Compression: foyer.CompressionContextTakeover}
	web, _ := behind(t, h)
	certificate, key := selfSigned(t)
	port, dir := freePort(t), t.TempDir()
	config := fmt.Sprintf(`
daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events {}
http {
access_log off; client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy;
fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
%[2]s}
`, dir, documented(t, "nginx", 0, "listen 443", "listen 127.0.0.1:"+port, "/etc/ssl/site.pem", certificate, "/etc/ssl/site.key", key, "127.0.0.1:8080", "127.0.0.1:"+web, "60s", proxyTimeout))
	run(t, port, config, func(file string) *exec.Cmd { return exec.Command(nginx, "-p", dir, "-c", file) })
	o := &foyer.DialOptions{TLSConfig: insecure, Compression: foyer.CompressionContextTakeover, Header: http.Header{"X-Forwarded-For": {"10.6.6.6"}}}
	if who := converseThrough(t, "wss://127.0.0.1:"+port+"/chat", o, silence); !strings.HasSuffix(who, " for 127.0.0.1 by https over HTTP/1.1") {
		t.Error(who)
	}

	// A refusal comes through as it is.
	o.Origin = "https://elsewhere.example.com"
	if _, resp, err := foyer.Dial(t.Context(), "wss://127.0.0.1:"+port+"/", o); resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Error(resp, err)
	}
}

func TestCaddy(t *testing.T) {
	caddy := program(t, "caddy")
	web, _ := behind(t, &foyer.Handler{PingInterval: pingInterval})
	certificate, key := selfSigned(t)
	port, dir := freePort(t), t.TempDir()
	config := "{\n\tadmin off\n\tauto_https disable_redirects\n}\n" +
		documented(t, "caddyfile", 0, "example.com", "https://127.0.0.1:"+port, "/etc/ssl/site.pem", certificate, "/etc/ssl/site.key", key, "127.0.0.1:8080", "127.0.0.1:"+web)
	run(t, port, config, func(file string) *exec.Cmd {
		cmd := exec.Command(caddy, "run", "--adapter", "caddyfile", "--config", file)
		cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
		return cmd
	})
	o := &foyer.DialOptions{TLSConfig: insecure, Header: http.Header{"X-Forwarded-For": {"10.6.6.6"}}}
	if who := converseThrough(t, "wss://127.0.0.1:"+port+"/chat", o, silence); !strings.HasSuffix(who, " for 127.0.0.1 by https over HTTP/1.1") {
		t.Error(who)
	}
}

// bothIn writes a certificate and its key into one file, as HAProxy wants them.
func bothIn(t *testing.T) string {
	t.Helper()
	certificate, key := selfSigned(t)
	var both []byte
	for _, file := range []string{certificate, key} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, b...)
	}
	path := filepath.Join(t.TempDir(), "both.pem")
	if err := os.WriteFile(path, both, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestHAProxy has WebSockets over HTTP/1.1 and HTTP/2 on either side of HAProxy.
func TestHAProxy(t *testing.T) {
	haproxy := sbin(t, "haproxy")
	web, _ := behind(t, &foyer.Handler{PingInterval: pingInterval})
	for inside, protocol := range map[string]string{"HTTP/1.1": "", "HTTP/2.0": " proto h2 ws h2"} {
		port := freePort(t)
		config := documented(t, "haproxy", 0, "bind :443", "bind 127.0.0.1:"+port, "/etc/ssl/both.pem", bothIn(t), "60s", proxyTimeout,
			"127.0.0.1:8080", "127.0.0.1:"+web+protocol, "\tserver two 127.0.0.1:8081\n", "")
		run(t, port, config, func(file string) *exec.Cmd { return exec.Command(haproxy, "-db", "-f", file) })
		for outside, o := range map[string]*foyer.DialOptions{"wss": {TLSConfig: insecure}, "ws": {NetDial: overHTTP2(t)}} {
			t.Run(inside+" behind, "+outside, func(t *testing.T) {
				o.Header = http.Header{"X-Forwarded-For": {"10.6.6.6"}}
				if who := converseThrough(t, outside+"://127.0.0.1:"+port+"/", o, silence); !strings.HasSuffix(who, " for 127.0.0.1 by https over "+inside) {
					t.Error(who)
				}
			})
		}
	}
}

// TestPROXYProtocol has the Server learn the client's own address.
func TestPROXYProtocol(t *testing.T) {
	haproxy := sbin(t, "haproxy")
	_, raw := behind(t, &foyer.Handler{PingInterval: pingInterval})
	port := freePort(t)
	config := documented(t, "haproxy", 1, "bind :80", "bind 127.0.0.1:"+port, "127.0.0.1:8080", "127.0.0.1:"+raw, "60s", proxyTimeout)
	run(t, port, config, func(file string) *exec.Cmd { return exec.Command(haproxy, "-db", "-f", file) })
	var local string
	o := &foyer.DialOptions{NetDial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			local = conn.LocalAddr().String()
		}
		return conn, err
	}}
	if who := converseThrough(t, "ws://127.0.0.1:"+port+"/", o, silence); !strings.HasPrefix(who, local+" for ") {
		t.Errorf("%q instead of %q", who, local)
	}
}

// TestDrain ends one of two servers behind HAProxy: its sockets come back on the other, and nobody is refused meanwhile.
func TestDrain(t *testing.T) {
	haproxy := sbin(t, "haproxy")
	ports := []string{freePort(t), freePort(t)}
	var first *example
	for i, port := range ports {
		e := startExample(t, "balanced", "-addr", "127.0.0.1:"+port, "-grace", "1500ms", "-spread", "1s")
		e.wait(t, "listening")
		if i == 0 {
			first = e
		}
	}
	port := freePort(t)
	config := documented(t, "haproxy", 0, "bind :443", "bind 127.0.0.1:"+port, "/etc/ssl/both.pem", bothIn(t), "127.0.0.1:8080", "127.0.0.1:"+ports[0], "127.0.0.1:8081", "127.0.0.1:"+ports[1])
	run(t, port, config, func(file string) *exec.Cmd { return exec.Command(haproxy, "-db", "-f", file) })

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var restarted atomic.Int64
	for range 40 {
		wg.Go(func() {
			for ctx.Err() == nil {
				s, _, err := foyer.Dial(ctx, "wss://127.0.0.1:"+port+"/ws", &foyer.DialOptions{TLSConfig: insecure})
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
				for err == nil {
					_, _, err = s.Read(ctx)
				}
				if ctx.Err() == nil {
					if end := foyertest.Ended(t, s); end.Code != foyer.CloseServiceRestart {
						t.Error(end)
					}
					restarted.Add(1)
				}
				s.Abort()
			}
		})
	}
	time.Sleep(500 * time.Millisecond)
	first.stop()
	first.wait(t, "ended: <nil>")
	time.Sleep(200 * time.Millisecond)
	if n := restarted.Load(); n != 20 {
		t.Errorf("%d of 20 sockets were closed", n)
	}
	stop()
	wg.Wait()
}

// TestStunnel has TLS with a pre-shared key, which crypto/tls does not know, on the way from the client to the server.
func TestStunnel(t *testing.T) {
	stunnel := program(t, "stunnel4")
	web, raw := behind(t, &foyer.Handler{})
	dir := t.TempDir()
	secrets := filepath.Join(dir, "secrets")
	if err := os.WriteFile(secrets, []byte("alice:0123456789abcdef0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, port, protocol string }{
		{"HandleConnection", raw, "protocol = proxy\n"},
		{"net/http", web, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			server, client := freePort(t), freePort(t)
			common := "foreground = yes\npid =\nsyslog = no\ndebug = notice\n"
			run(t, server, common+fmt.Sprintf("[psk]\naccept = 127.0.0.1:%s\nconnect = 127.0.0.1:%s\nciphers = PSK\nPSKsecrets = %s\n%s",
				server, test.port, secrets, test.protocol), func(file string) *exec.Cmd { return exec.Command(stunnel, file) })
			run(t, client, common+fmt.Sprintf("[psk]\nclient = yes\naccept = 127.0.0.1:%s\nconnect = 127.0.0.1:%s\nciphers = PSK\nPSKsecrets = %s\nPSKidentity = alice\n",
				client, server, secrets), func(file string) *exec.Cmd { return exec.Command(stunnel, file) })
			converseThrough(t, "ws://127.0.0.1:"+client+"/", nil, 100*time.Millisecond)

			// And a client of another make.
			openssl := exec.Command(program(t, "openssl"), "s_client", "-quiet", "-connect", "127.0.0.1:"+server, "-psk_identity", "alice", "-psk", "0123456789abcdef0123456789abcdef", "-tls1_2", "-cipher", "PSK")
			in, _ := openssl.StdinPipe()
			out, _ := openssl.StdoutPipe()
			if err := openssl.Start(); err != nil {
				t.Fatal(err)
			}
			defer openssl.Wait()
			defer openssl.Process.Kill()
			io.WriteString(in, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
			first := make([]byte, 12)
			if _, err := io.ReadFull(out, first); err != nil || string(first) != "HTTP/1.1 101" {
				t.Errorf("%q, %v", first, err)
			}
		})
	}
}
