package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"
)

// gorillaExample builds one of gorilla's own examples, with the one change that docs/migrate.md names: the connection comes through
// foyer's door. It runs it, and returns its address.
func gorillaExample(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/gorilla/websocket").Output()
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(strings.TrimSpace(string(out)), "examples", name)
	dir := t.TempDir()
	files, err := os.ReadDir(source)
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	binary := filepath.Join(dir, "example")
	build := exec.Command("go", "build", "-o", binary)
	for _, f := range files {
		p, err := os.ReadFile(filepath.Join(source, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		text := string(p)
		if strings.Contains(text, "upgrader.Upgrade(w, r, nil)") {
			changed++
			text = strings.Replace(text, "upgrader.Upgrade(w, r, nil)", "gorillaconn.Upgrade(door, w, r)", 1)
			text = strings.Replace(text, `"github.com/gorilla/websocket"`,
				`"github.com/gorilla/websocket"`+"\n\t"+`"github.com/foyerws/foyer"`+"\n\t"+`"github.com/foyerws/foyer/gorillaconn"`, 1)
			text += "\nvar door = new(foyer.Handler)\n"
		}
		copied := filepath.Join(dir, f.Name())
		if err := os.WriteFile(copied, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if filepath.Ext(copied) == ".go" {
			build.Args = append(build.Args, copied)
		}
	}
	if changed != 1 {
		t.Fatalf("%d files of %s have the line that changes", changed, name)
	}
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	addr := "127.0.0.1:" + freePort(t)
	cmd := exec.Command(binary, append([]string{"-addr", addr}, args...)...)
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 1500 {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			return addr
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("the example does not listen")
	return ""
}

// TestGorillasChat has gorilla's chat, with its own read and write pumps, serve a hundred clients.
func TestGorillasChat(t *testing.T) {
	addr := gorillaExample(t, "chat")
	var clients []*gorilla.Conn
	// All of them hear a line before the next is said: the chat joins lines that wait.
	say := func(c *gorilla.Conn, line string) {
		c.WriteMessage(gorilla.TextMessage, []byte(line))
		for n, c := range clients {
			if _, p, err := c.ReadMessage(); err != nil || string(p) != line {
				t.Fatalf("client %d: %q, %v", n, p, err)
			}
		}
	}
	for range 100 {
		c, _, err := gorilla.DefaultDialer.Dial("ws://"+addr+"/ws", http.Header{"Origin": {"http://" + addr}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		clients = append(clients, c)
		say(c, "I am here") // which it hears when it is among the others
	}
	for i := range 20 {
		say(clients[i*5], fmt.Sprint("message ", i))
	}
	_, resp, err := gorilla.DefaultDialer.Dial("ws://"+addr+"/ws", http.Header{"Origin": {"https://evil.example"}})
	if err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Error(resp, err)
	}
}

// TestGorillasCommand has gorilla's example command run cat for its clients.
func TestGorillasCommand(t *testing.T) {
	addr := gorillaExample(t, "command", "cat")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 10 {
		c, _, err := gorilla.DefaultDialer.DialContext(ctx, "ws://"+addr+"/ws", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		c.WriteMessage(gorilla.TextMessage, []byte("to cat and back"))
		if _, p, err := c.ReadMessage(); err != nil || string(p) != "to cat and back" {
			t.Errorf("%q, %v", p, err)
		}
	}
}
