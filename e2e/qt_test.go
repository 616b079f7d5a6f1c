package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
)

// buildPeer compiles the Qt program.
var buildPeer = sync.OnceValues(func() (string, error) {
	flags, err := exec.Command("pkg-config", "--cflags", "--libs", "Qt6WebSockets").Output()
	if err != nil {
		return "", fmt.Errorf("Qt6WebSockets: %w", err)
	}
	dir, err := os.MkdirTemp("", "foyer-qt")
	if err != nil {
		return "", err
	}
	peer := filepath.Join(dir, "peer")
	args := append([]string{"-std=c++17", "-fPIC", "-o", peer, "qt/peer.cpp"}, strings.Fields(string(flags))...)
	if out, err := exec.Command("g++", args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return peer, nil
})

// A conversation is with a program that reads commands and says what happens, a line each.
type conversation struct {
	t     *testing.T
	in    io.WriteCloser
	lines chan string
}

// talk starts a program for the time of the test.
func talk(t *testing.T, name string, args ...string) *conversation {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &conversation{t, in, make(chan string, 1000)}
	go func() {
		defer close(c.lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			c.lines <- scanner.Text()
		}
	}()
	t.Cleanup(func() {
		in.Close()
		time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
		for range c.lines {
		}
		cmd.Wait()
	})
	return c
}

func (c *conversation) say(line string) { io.WriteString(c.in, line+"\n") }

// expect reads the next line, which must match.
func (c *conversation) expect(pattern string) string {
	c.t.Helper()
	select {
	case line, ok := <-c.lines:
		if !ok || !regexp.MustCompile("^(?:"+pattern+")$").MatchString(line) {
			c.t.Fatalf("%q instead of %q", line, pattern)
		}
		return line
	case <-time.After(20 * time.Second):
		c.t.Fatalf("nothing instead of %q", pattern)
	}
	return ""
}

// qtPeer starts the Qt program.
func qtPeer(t *testing.T, args ...string) *conversation {
	t.Helper()
	program(t, "g++")
	program(t, "pkg-config")
	peer, err := buildPeer()
	if err != nil {
		if os.Getenv("FOYER_E2E") == "all" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return talk(t, peer, args...)
}

// pattern and sum are as in peer.cpp.
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i * 7)
	}
	return p
}

func sum(p []byte) (s uint32) {
	for _, b := range p {
		s = s*31 + uint32(b)
	}
	return s
}

// shortly returns a context for what should happen soon.
func shortly(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// qtHandler echoes, and speaks what the Qt program does.
func qtHandler(t *testing.T) *foyer.Handler {
	h := &foyer.Handler{
		Subprotocols:   []string{"chat.v2", "chat.v1"},
		Origins:        foyer.AllowOrigins("https://example.com"),
		MaxMessageSize: 4 << 20,
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// TestQtClient has a QWebSocket talk to foyer.
func TestQtClient(t *testing.T) {
	h := qtHandler(t)
	srv := foyertest.NewServer(t, h)
	raw := &foyer.Server{Handler: h}
	if err := raw.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })

	for _, url := range []string{srv.URL, srv.SecureURL, raw.URL().String()} {
		t.Run(url[:3], func(t *testing.T) {
			qt := qtPeer(t, "client", url+"/chat", "https://example.com", "chat.v1,chat.v2")
			s, err := h.Accept(shortly(t))
			if err != nil {
				t.Fatal(err)
			}
			pongs := make(chan string, 10)
			s.Handle(foyer.Events{
				Message: func(s *foyer.Socket, typ foyer.MessageType, p []byte) { s.Write(context.Background(), typ, p) },
				Pong:    func(_ *foyer.Socket, _ time.Duration, p []byte) { pongs <- string(p) },
			})
			if strings.HasPrefix(url, "wss") {
				qt.expect("ssl .*")
			}
			qt.expect("connected chat.v1")
			qt.say("text hällo")
			qt.expect("frame 5 1")
			qt.expect("text hällo")
			for _, n := range []int{0, 125, 126, 65536, 1 << 20} {
				qt.say(fmt.Sprint("binary ", n))
				qt.expect(fmt.Sprintf("binary %d %d", n, sum(pattern(n))))
			}
			qt.say("ping are you there")
			qt.expect("pong are you there")
			if _, err := s.Ping(t.Context(), []byte("and you")); err != nil || <-pongs != "and you" {
				t.Error(err)
			}
			qt.say("close 4001 that was all")
			if end := foyertest.Ended(t, s); end.Code != 4001 || end.Reason != "that was all" {
				t.Error(end)
			}
			qt.expect("closed 4001 that was all")
		})
	}

	t.Run("closed by us", func(t *testing.T) {
		qt := qtPeer(t, "client", srv.URL, "https://example.com", "")
		s, err := h.Accept(shortly(t))
		if err != nil {
			t.Fatal(err)
		}
		qt.expect("connected ")
		if err := s.Close(foyer.CloseGoingAway, "maintenance"); err != nil {
			t.Error(err)
		}
		qt.expect("closed 1001 maintenance")
	})
	t.Run("in frames", func(t *testing.T) {
		split := &foyer.Handler{OutgoingFrameSize: 10, Origins: foyer.AnyOrigin()}
		srv := foyertest.NewServer(t, split)
		qt := qtPeer(t, "client", srv.URL, "", "")
		s, err := split.Accept(shortly(t))
		if err != nil {
			t.Fatal(err)
		}
		qt.expect("connected ")
		s.SendText(t.Context(), "0123456789abcdefghijxyz")
		qt.expect("frame 10 0")
		qt.expect("frame 10 0")
		qt.expect("frame 3 1")
		qt.expect("text 0123456789abcdefghijxyz")
		s.Abort()
		qt.expect("error .*")
	})
	t.Run("refused origin", func(t *testing.T) {
		qt := qtPeer(t, "client", srv.URL, "https://refused.example.com", "")
		qt.expect("error .*403.*")
	})
	t.Run("aborted", func(t *testing.T) {
		qt := qtPeer(t, "client", srv.URL, "https://example.com", "")
		s, err := h.Accept(shortly(t))
		if err != nil {
			t.Fatal(err)
		}
		qt.expect("connected ")
		qt.say("abort")
		if _, _, err := s.Read(t.Context()); foyertest.Ended(t, s).Code != foyer.CloseAbnormalClosure {
			t.Error(err)
		}
	})
}

// TestQtServer has foyer's client talk to a QWebSocketServer.
func TestQtServer(t *testing.T) {
	certificate, key := selfSigned(t)
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "ws", true: "wss"}[secure], func(t *testing.T) {
			args := []string{"server"}
			scheme := "ws"
			if secure {
				args = append(args, certificate, key)
				scheme = "wss"
			}
			qt := qtPeer(t, args...)
			port := strings.TrimPrefix(qt.expect(`port \d+`), "port ")
			url := scheme + "://127.0.0.1:" + port + "/chat"
			o := &foyer.DialOptions{Origin: "https://example.com", Subprotocols: []string{"chat.v1"}, TLSConfig: &tls.Config{InsecureSkipVerify: true}, MaxMessageSize: 4 << 20, Compression: foyer.CompressionContextTakeover}
			s := foyertest.Dial(t, url, o)
			qt.expect("connected chat.v1 /chat https://example.com")
			if s.Subprotocol() != "chat.v1" {
				t.Error(s.Subprotocol())
			}
			if err := s.SendText(t.Context(), "hällo"); err != nil {
				t.Fatal(err)
			}
			if typ, p, err := s.Read(t.Context()); err != nil || typ != foyer.Text || string(p) != "hällo" {
				t.Fatal(typ, string(p), err)
			}
			qt.expect("frame 5 1")
			qt.expect("text hällo")
			for _, n := range []int{0, 125, 126, 65536, 1 << 20} {
				s.SendBinary(t.Context(), pattern(n))
				if typ, p, err := s.Read(t.Context()); err != nil || typ != foyer.Binary || !bytes.Equal(p, pattern(n)) {
					t.Fatal(n, typ, len(p), err)
				}
				qt.expect(fmt.Sprintf("binary %d %d", n, sum(pattern(n))))
			}
			ctx, stop := context.WithCancel(t.Context())
			reading := make(chan struct{})
			go func() {
				defer close(reading)
				s.Read(ctx)
			}()
			if elapsed, err := s.Ping(t.Context(), []byte("are you there")); err != nil || elapsed <= 0 {
				t.Error(err)
			}
			qt.say("ping and you")
			qt.expect("pong and you")
			stop()
			<-reading
			if err := s.Close(4001, "that was all"); err != nil {
				t.Error(err)
			}
			qt.expect("closed 4001 that was all")

			s = foyertest.Dial(t, url, o)
			qt.expect("connected .*")
			qt.say("close 4002 go away")
			if _, _, err := s.Read(t.Context()); foyertest.Ended(t, s).Code != 4002 || foyertest.Ended(t, s).Reason != "go away" {
				t.Error(err)
			}
			qt.expect("closed 4002 go away")

			o.Origin = "https://refused.example.com"
			_, resp, err := foyer.Dial(t.Context(), url, o)
			var refusal *foyer.HandshakeError
			if !errors.As(err, &refusal) || refusal.Status != 403 || resp == nil {
				t.Error(err)
			}
		})
	}
}

// selfSigned returns files with a certificate for this machine, and its key.
func selfSigned(t *testing.T) (certificate, key string) {
	t.Helper()
	dir := t.TempDir()
	certificate, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	out, err := exec.Command(program(t, "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
		"-keyout", key, "-out", certificate, "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return certificate, key
}

// TestQtDocumentIsComplete looks for every public member in Qt's headers in docs/qt.md.
func TestQtDocumentIsComplete(t *testing.T) {
	headers, err := exec.Command(program(t, "pkg-config"), "--variable=includedir", "Qt6WebSockets").Output()
	if err != nil {
		if os.Getenv("FOYER_E2E") == "all" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	document, err := os.ReadFile("../docs/qt.md")
	if err != nil {
		t.Fatal(err)
	}
	member := regexp.MustCompile(`(?m)^ {4}(?:[^/*#\n]*[ &*])?(~?[A-Za-z]+)\(`)
	value := regexp.MustCompile(`(?m)^ {4}(Version\w+|CloseCode\w+|\w*Mode) *=`)
	found := 0
	for _, class := range []string{"QWebSocketServer", "QWebSocket", "QWebSocketCorsAuthenticator", "QMaskGenerator", "QWebSocketProtocol", "QWebSocketHandshakeOptions"} {
		path := filepath.Join(strings.TrimSpace(string(headers)), "QtWebSockets", strings.ToLower(class)+".h")
		header, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		public, _, _ := strings.Cut(string(header), "\nprivate:")
		for _, m := range append(member.FindAllStringSubmatch(public, -1), value.FindAllStringSubmatch(public, -1)...) {
			name := m[1]
			if strings.ToUpper(name) == name || name == "operator" || strings.HasPrefix(name, "~") || name == "QString" || name == "QByteArray" {
				continue // macros, destructors, and default arguments
			}
			found++
			if !regexp.MustCompile(`(?m)^\|[^|]*\b` + name + `\b`).Match(document) {
				t.Errorf("%s::%s is not in docs/qt.md", class, name)
			}
		}
	}
	if found < 150 {
		t.Errorf("found %d members only", found)
	}
}
