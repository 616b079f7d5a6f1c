package foyer_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/internal/crowd"
	"github.com/foyerws/foyer/internal/syncbuf"
)

// A visit is what the clients of a program that a document shows do.
type visit struct {
	document string
	marks    string // only this program of the document has it
	path     string
	secure   bool
	options  func(addr string) *foyer.DialOptions // nil: none
	talk     func(ctx context.Context, s *foyer.Socket) error
}

var visits = []visit{
	{document: "README.md", marks: "var h foyer.Handler", path: "/ws", talk: crowd.Echo("")},
	{document: "README.md", marks: "signal.NotifyContext", path: "/ws", talk: crowd.Echo("")},
	{document: "README.md", marks: "middleware.BearerToken", path: "/rooms/attic", talk: crowd.Echo("hello, alice, in room attic"),
		options: func(string) *foyer.DialOptions {
			return &foyer.DialOptions{Origin: "https://example.com", Subprotocols: []string{"chat.v1", "bearer.czNjcmV0"}}
		}},
	{document: "README.md", marks: "foyer.EnableHTTP2", path: "/ws", secure: true, talk: crowd.Echo("")},
	{document: "README.md", marks: "foyer.Server{", path: "/", talk: func(ctx context.Context, s *foyer.Socket) error {
		return crowd.Hear(ctx, s, "hello, and that was all")
	}},
	{document: "README.md", marks: "foyer.Events{", path: "/ws", talk: crowd.Echo("")},
	{document: "docs/tutorial.md", marks: "h.ForEach(context.Background(), echo)", path: "/chat", talk: crowd.Echo("")},
	{document: "docs/tutorial.md", marks: "const page =", path: "/chat", talk: crowd.Echo("")},
	{document: "docs/tutorial.md", marks: "http://localhost:3000", path: "/chat", talk: crowd.Echo(""),
		options: func(string) *foyer.DialOptions { return &foyer.DialOptions{Origin: "http://localhost:3000"} }},
	{document: "docs/tutorial.md", marks: "func authorize(", path: "/chat",
		options: func(string) *foyer.DialOptions {
			return &foyer.DialOptions{Header: http.Header{"Cookie": {"user=alice"}}}
		},
		talk: func(ctx context.Context, s *foyer.Socket) error {
			if err := s.SendText(ctx, "hi"); err != nil {
				return err
			}
			return crowd.Hear(ctx, s, "alice: hi")
		}},
	{document: "docs/tutorial.md", marks: "signal.NotifyContext", path: "/chat", talk: crowd.Echo("")},
	{document: "docs/migrate.md", marks: "websocket.Accept(", path: "/ws", talk: crowd.Echo("")},
	{document: "docs/migrate.md", marks: "h.Upgrade(", path: "/ws", talk: crowd.Echo("")},
	{document: "docs/migrate.md", marks: "gws.NewUpgrader", path: "/ws", talk: crowd.Echo("")},
	{document: "docs/migrate.md", marks: "foyer.Events{", path: "/ws", talk: crowd.Echo("")},
	{document: "docs/migrate.md", marks: "melody.New", path: "/ws", talk: crowd.Echo("")},
	{document: "docs/migrate.md", marks: "foyer.Broadcast(", path: "/ws", talk: crowd.Echo("")},
	{document: "docs/migrate.md", marks: "gorillaconn.Upgrade", path: "/ws", talk: crowd.Echo("")},
	{document: "docs/deploy.md", marks: "ClientIPFromXFF", path: "/ws", talk: crowd.Echo("you are 127.0.0.1")},
	{document: "docs/deploy.md", marks: "foyer.EnableHTTP2", path: "/ws", secure: true, talk: crowd.Echo("")},
	{document: "docs/identity.md", marks: "hmac.New", path: "/ws", options: logIn, talk: func(ctx context.Context, s *foyer.Socket) error {
		if err := s.SendText(ctx, "alice: hi"); err != nil {
			return err
		}
		return crowd.Hear(ctx, s, "alice: hi")
	}},
	{document: "docs/rooms.md", marks: "var hub rooms.Hub\n\tvar h", path: "/rooms/attic", talk: hearsItself},
	{document: "docs/rooms.md", marks: "hub.OnJoin", path: "/rooms/attic?user=alice", talk: hearsItself},
	{document: "docs/identity.md", marks: "func except(", path: "/ws", talk: func(context.Context, *foyer.Socket) error { return nil }},
}

// hearsItself says something in a room, and waits until it hears that among what others say.
func hearsItself(ctx context.Context, s *foyer.Socket) error {
	word := fmt.Sprint("hello from ", s.LocalAddr())
	if err := s.SendText(ctx, word); err != nil {
		return err
	}
	for {
		_, p, err := s.Read(ctx)
		if err != nil || strings.Contains(string(p), word) {
			return err
		}
	}
}

// logIn returns the cookie of alice.
func logIn(addr string) *foyer.DialOptions {
	resp, err := http.Get("http://" + addr + "/login?name=alice")
	if err != nil {
		return nil
	}
	resp.Body.Close()
	return &foyer.DialOptions{Header: http.Header{"Cookie": {resp.Cookies()[0].String()}}}
}

// others are programs that serve nothing: they only have to compile, or are run by a test of their own.
var others = []string{"foyer.Dial(", `"testing"`, "hub.Events("}

// TestProgramsInTheDocumentsServeACrowd runs each server that a document shows, and has a hundred clients come at once.
func TestProgramsInTheDocumentsServeACrowd(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs programs")
	}
	shown := make(map[string]int)
	for _, document := range []string{"README.md", "docs/deploy.md", "docs/identity.md", "docs/qt.md", "docs/rooms.md", "docs/architecture.md", "docs/trouble.md", "docs/migrate.md", "docs/tutorial.md"} {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range strings.Split(string(text), "```go\n")[1:] {
			source, _, _ := strings.Cut(block, "```")
			shown[document]++
			found := 0
			for _, v := range visits {
				if v.document == document && strings.Contains(source, v.marks) {
					found++
					t.Run(document+", "+v.marks, func(t *testing.T) {
						t.Parallel()
						v.run(t, source)
					})
				}
			}
			if slices.ContainsFunc(others, func(mark string) bool { return strings.Contains(source, mark) }) {
				found++
			}
			if found != 1 {
				t.Errorf("%d visits to this program of %s:\n%s", found, document, source)
			}
		}
	}
}

// listens is how the documents write the address that a program listens on.
var listens = regexp.MustCompile(`"(localhost)?:8\d{3}"`)

func (v visit) run(t *testing.T, source string) {
	addr := freeAddress(t)
	source = listens.ReplaceAllString(source, `"`+addr+`"`)
	if !strings.Contains(source, addr) {
		t.Fatal("no address in the program")
	}
	dir := t.TempDir()
	binary := build(t, dir, source)
	var o foyer.DialOptions
	scheme := "ws"
	if v.secure {
		scheme = "wss"
		o.TLSConfig = &tls.Config{RootCAs: writeCertificate(t, dir), ServerName: "example.com"}
	}
	cmd := exec.Command(binary)
	cmd.Dir = dir
	var out syncbuf.Buffer
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 500 {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if v.options != nil {
		o = *v.options(addr)
	}
	if o.Header == nil {
		o.Header = http.Header{}
	}
	crowd.Come(t, scheme+"://"+addr+v.path, &o, v.talk)
	if log := out.String(); strings.Contains(log, "refused") || strings.Contains(log, "panic") {
		t.Errorf("the program says:\n%s", log)
	}
	if strings.Contains(source, "signal.NotifyContext") {
		cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil || out.String() != "" {
			t.Errorf("after Ctrl-C: %v, %q", err, out.String())
		}
	}
}

// freeAddress returns an address that nobody listens on.
func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func build(t *testing.T, dir, source string) (binary string) {
	file := filepath.Join(dir, "main.go")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	binary = filepath.Join(dir, "program")
	if out, err := exec.Command("go", "build", "-o", binary, file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// writeCertificate writes cert.pem and key.pem, and returns what trusts them.
func writeCertificate(t *testing.T, dir string) *x509.CertPool {
	srv := httptest.NewTLSServer(nil)
	defer srv.Close()
	certificate := srv.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}, "key.pem": {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	return pool
}

// TestClientInTheREADME runs the client that the README shows, against a server of ours.
func TestClientInTheREADME(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs a program")
	}
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	h := &foyer.Handler{}
	go h.ForEach(t.Context(), func(ctx context.Context, s *foyer.Socket) {
		for {
			typ, p, err := s.Read(ctx)
			if err != nil || s.Write(ctx, typ, p) != nil {
				return
			}
		}
	})
	srv := httptest.NewServer(h)
	defer srv.Close()
	defer h.Close()
	for _, block := range strings.Split(string(text), "```go\n")[1:] {
		source, _, _ := strings.Cut(block, "```")
		if !strings.Contains(source, "foyer.Dial(") {
			continue
		}
		source = strings.ReplaceAll(source, "127.0.0.1:8080", strings.TrimPrefix(srv.URL, "http://"))
		out, err := exec.Command(build(t, t.TempDir(), source)).CombinedOutput()
		if err != nil || string(out) != "hello\n" {
			t.Errorf("%q, %v", out, err)
		}
		for range 500 { // the program may end before the server has read its close frame
			if h.Stats().Closed[foyer.CloseNormalClosure] == 1 {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("how it closed: %v", h.Stats().Closed)
		return
	}
	t.Error("no client")
}

// TestTestInTheREADME runs the test that the README shows.
func TestTestInTheREADME(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs a program")
	}
	text, err := os.Open("README.md")
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	var source strings.Builder
	inside := false
	for lines := bufio.NewScanner(text); lines.Scan(); {
		switch line := lines.Text(); {
		case line == "package chat_test":
			inside = true
			fallthrough
		case inside && line != "```":
			fmt.Fprintln(&source, line)
		case inside:
			inside = false
		}
	}
	file := filepath.Join(t.TempDir(), "chat_test.go")
	if err := os.WriteFile(file, []byte(source.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "test", "-count=1", file).CombinedOutput(); err != nil || !strings.Contains(string(out), "ok") {
		t.Errorf("%v\n%s", err, out)
	}
}
