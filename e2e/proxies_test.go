package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
)

// freePort returns a port that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
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
	for range 200 {
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
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name)
		}
	}
	return program(t, name)
}

// behind serves an echo to a proxy, through net/http and through a Server, and returns the ports.
func behind(t *testing.T, h *foyer.Handler) (web, raw string) {
	t.Helper()
	go h.ForEach(context.Background(), func(ctx context.Context, s *foyer.Socket) {
		for {
			t, p, err := s.Read(ctx)
			if err != nil {
				return
			}
			if string(p) == "who am I?" {
				p = []byte(s.RemoteAddr().String() + " for " + s.Request().Header.Get("X-Forwarded-For") + " by " + s.Request().Header.Get("X-Forwarded-Proto"))
			}
			if s.Write(ctx, t, p) != nil {
				return
			}
		}
	})
	srv := foyertest.NewServer(t, h)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &foyer.Server{Handler: h}
	go s.Serve(&proxyproto.Listener{Listener: l, ReadHeaderTimeout: 5 * time.Second})
	t.Cleanup(func() { s.Close() })
	_, raw, _ = net.SplitHostPort(l.Addr().String())
	return srv.URL[strings.LastIndex(srv.URL, ":")+1:], raw
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

func TestNginx(t *testing.T) {
	nginx := sbin(t, "nginx")
	h := &foyer.Handler{PingInterval: 300 * time.Millisecond, Compression: true}
	t.Cleanup(func() { h.Close() })
	web, _ := behind(t, h)
	certificate, key := selfSigned(t)
	port := freePort(t)
	dir := t.TempDir()
	config := fmt.Sprintf(`
daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events {}
http {
	access_log off; client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	map $http_upgrade $connection_upgrade { default upgrade; '' close; }
	server {
		listen 127.0.0.1:%[2]s ssl;
		ssl_certificate %[3]s; ssl_certificate_key %[4]s;
		location / {
			proxy_pass http://127.0.0.1:%[5]s;
			proxy_http_version 1.1;
			proxy_set_header Host $http_host;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection $connection_upgrade;
			proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
			proxy_set_header X-Forwarded-Proto $scheme;
			proxy_read_timeout 1s; # which keepalive must outlive
		}
	}
}
`, dir, port, certificate, key, web)
	run(t, port, config, func(file string) *exec.Cmd { return exec.Command(nginx, "-p", dir, "-c", file) })
	o := &foyer.DialOptions{TLSConfig: &tls.Config{InsecureSkipVerify: true}, Compression: true}
	if who := converseThrough(t, "wss://127.0.0.1:"+port+"/chat", o, 3*time.Second); !strings.Contains(who, " for 127.0.0.1 by https") {
		t.Error(who)
	}

	// A refusal comes through as it is.
	o.Origin = "https://elsewhere.example.com"
	if _, resp, err := foyer.Dial(t.Context(), "wss://127.0.0.1:"+port+"/", o); resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Error(resp, err)
	}
}

func TestHAProxy(t *testing.T) {
	haproxy := sbin(t, "haproxy")
	h := &foyer.Handler{PingInterval: 300 * time.Millisecond}
	t.Cleanup(func() { h.Close() })
	web, raw := behind(t, h)
	certificate, key := selfSigned(t)
	both := filepath.Join(t.TempDir(), "both.pem")
	var pem []byte
	for _, file := range []string{certificate, key} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pem = append(pem, b...)
	}
	if err := os.WriteFile(both, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	httpPort, tcpPort := freePort(t), freePort(t)
	config := fmt.Sprintf(`
defaults
	timeout connect 5s
	timeout client 1s
	timeout server 1s
	timeout tunnel 1s
frontend web
	mode http
	bind 127.0.0.1:%s ssl crt %s
	option forwardfor
	http-request set-header X-Forwarded-Proto https
	default_backend web
backend web
	mode http
	server web 127.0.0.1:%s
frontend raw
	mode tcp
	bind 127.0.0.1:%s
	default_backend raw
backend raw
	mode tcp
	server raw 127.0.0.1:%s send-proxy-v2
`, httpPort, both, web, tcpPort, raw)
	run(t, httpPort, config, func(file string) *exec.Cmd { return exec.Command(haproxy, "-db", "-f", file) })
	o := &foyer.DialOptions{TLSConfig: &tls.Config{InsecureSkipVerify: true}}
	if who := converseThrough(t, "wss://127.0.0.1:"+httpPort+"/", o, 3*time.Second); !strings.HasSuffix(who, " for 127.0.0.1 by https") {
		t.Error(who)
	}

	// Through the PROXY protocol the Server learns the client's own address.
	var local string
	o.NetDial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			local = conn.LocalAddr().String()
		}
		return conn, err
	}
	if who := converseThrough(t, "ws://127.0.0.1:"+tcpPort+"/", o, 3*time.Second); !strings.HasPrefix(who, local+" for ") {
		t.Errorf("%q instead of %q", who, local)
	}
}

// TestStunnel has TLS with a pre-shared key, which crypto/tls does not know, on the way from the client to the server.
func TestStunnel(t *testing.T) {
	stunnel := program(t, "stunnel4")
	h := &foyer.Handler{}
	t.Cleanup(func() { h.Close() })
	web, raw := behind(t, h)
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
