package e2e

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPageInChromium opens the page of the echo example, whose script opens the WebSocket from the page's own origin.
func TestPageInChromium(t *testing.T) {
	chromium := program(t, "chromium")
	for _, args := range [][]string{{"-v"}, {"-v", "-tls"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			log := startEcho(t, args...)
			_, page, _ := strings.Cut(waitFor(t, log, "page="), "page=")
			page, _, _ = strings.Cut(page, " ")
			profile, err := os.MkdirTemp("", "chromium") // which Chromium may still write to at the end
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(profile)
			browser := exec.Command(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
				"--disable-background-networking", "--disable-component-update", "--disable-sync", "--ignore-certificate-errors",
				"--user-data-dir="+profile, "--remote-debugging-port=0", page)
			if err := browser.Start(); err != nil {
				t.Fatal(err)
			}
			waitFor(t, log, "path=/ws")
			browser.Process.Signal(os.Interrupt)
			browser.Wait()
			waitFor(t, log, "msg=closed")
		})
	}
}

// startEcho builds and runs the echo example for the time of the test and returns the lines of its log.
func startEcho(t *testing.T, args ...string) <-chan string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "echo")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/foyerws/foyer/examples/echo").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(binary, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(log); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		for range lines {
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the example ended with %v", err)
		}
	})
	return lines
}

// waitFor returns the next line with text in it.
func waitFor(t *testing.T, lines <-chan string, text string) string {
	t.Helper()
	patience := time.After(30 * time.Second)
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("the log ended without %q", text)
			}
			if strings.Contains(line, text) {
				return line
			}
		case <-patience:
			t.Fatalf("no %q in the log", text)
		}
	}
}
