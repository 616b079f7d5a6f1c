package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
)

// browse opens a page in Chromium for the time of the test. The context is for chromedp's actions.
func browse(t *testing.T, page string, more ...chromedp.ContextOption) context.Context {
	t.Helper()
	profile, err := os.MkdirTemp("", "chromium") // which Chromium may still write to at the end
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(profile) })
	timed, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(stop)
	ctx, quit := chromedp.NewContext(timed, append(more, chromedp.WithAllocatorOptions(
		chromedp.ExecPath(program(t, "chromium")), chromedp.NoSandbox, chromedp.UserDataDir(profile), chromedp.IgnoreCertErrors,
		chromedp.WindowSize(800, 500), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
	))...)
	t.Cleanup(quit)
	do(t, ctx, chromedp.Navigate(page))
	return ctx
}

func do(t *testing.T, ctx context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

// until waits until a JavaScript expression is true.
func until(t *testing.T, ctx context.Context, expression string) {
	t.Helper()
	if _, err := chromedp.Run(ctx, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(20*time.Second))); err != nil {
		text, _ := chromedp.Run(ctx, chromedp.Evaluate[string]("document.body.innerText"))
		t.Fatalf("%s: %v\n%s", expression, err, text)
	}
}

// TestEchoPage types into the page of the echo example, sees the echo, and the close code when the server shuts down.
// FOYER_SCREENSHOT is a file for a picture of the page.
func TestEchoPage(t *testing.T) {
	for _, args := range [][]string{{"-v"}, {"-v", "-tls", "-compression"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			echo := startEcho(t, args...)
			_, page, _ := strings.Cut(echo.wait(t, "page="), "page=")
			page, _, _ = strings.Cut(page, " ")
			ctx := browse(t, page)
			until(t, ctx, `document.getElementById("state").textContent === "open"`)
			do(t, ctx, chromedp.SendKeys("#text", "hello, foyer\n"))
			until(t, ctx, `document.querySelectorAll("#log li").length === 1`)
			do(t, ctx, chromedp.SendKeys("#text", "grüße"), chromedp.Click("#binary"))
			until(t, ctx, `document.querySelectorAll("#log li").length === 2`)
			text, err := chromedp.Run(ctx, chromedp.Text("#log"))
			if err != nil || !strings.Contains(text, "hello, foyer") || !strings.Contains(text, "text, ") || !strings.Contains(text, "grüße") || !strings.Contains(text, "binary, 7 bytes, ") {
				t.Errorf("%q, %v", text, err)
			}
			deflate, err := chromedp.Run(ctx, chromedp.Evaluate[string]("socket.extensions"))
			if want := len(args) > 2; strings.HasPrefix(deflate, "permessage-deflate") != want || err != nil {
				t.Errorf("extensions %q, %v", deflate, err)
			}
			picture, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
			if err != nil {
				t.Fatal(err)
			}
			if image, err := png.Decode(bytes.NewReader(picture)); err != nil || image.Bounds().Dx() < 700 {
				t.Error("no picture of the page:", err)
			}
			if file := os.Getenv("FOYER_SCREENSHOT"); file != "" && len(args) == 1 {
				if err := os.WriteFile(file, picture, 0o644); err != nil {
					t.Error(err)
				}
			}
			echo.stop()
			until(t, ctx, `document.getElementById("end").textContent.startsWith("Close code 1001")`)
			echo.wait(t, "msg=closed")
		})
	}
}

// TestPagesOfOtherOrigins opens a WebSocket from a page that does not belong to its server.
func TestPagesOfOtherOrigins(t *testing.T) {
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<p id="state">connecting</p><script>
			const state = document.getElementById("state"), socket = new WebSocket(%q)
			socket.onopen = () => socket.send("hello")
			socket.onmessage = e => { state.textContent = "got " + e.data; socket.close(4000, "bye") }
			socket.onclose = e => state.textContent += ", closed with " + e.code
		</script>`, r.URL.Query().Get("socket"))
	}))
	t.Cleanup(page.Close)
	for _, test := range []struct {
		name    string
		origins foyer.OriginAuthenticator
		want    string
	}{
		{"same origin", nil, "connecting, closed with 1006"},
		{"another origin", foyer.AllowOrigins("https://example.com"), "connecting, closed with 1006"},
		{"this origin", foyer.AllowOrigins("http://127.0.0.1:*"), "got hello, closed with 4000"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := &foyer.Handler{Origins: test.origins}
			go h.ForEach(context.Background(), func(ctx context.Context, s *foyer.Socket) {
				t, p, err := s.Read(ctx)
				if err == nil {
					s.Write(ctx, t, p)
					s.Read(ctx)
				}
			})
			srv := foyertest.NewServer(t, h)
			for _, url := range []string{srv.URL, srv.SecureURL} {
				ctx := browse(t, page.URL+"/?socket="+url+"/")
				until(t, ctx, `document.getElementById("state").textContent.includes("closed")`)
				if text, err := chromedp.Run(ctx, chromedp.Text("#state")); err != nil || text != test.want {
					t.Errorf("%s: %q instead of %q, %v", url, text, test.want, err)
				}
			}
		})
	}
}

// An example is one of the programs in examples/ at work.
type example struct {
	lines chan string // of its log
	stop  func()
}

// startEcho builds and runs the echo example for the time of the test.
func startEcho(t *testing.T, args ...string) *example {
	t.Helper()
	return startExample(t, "echo", append([]string{"-addr", "127.0.0.1:0"}, args...)...)
}

// startExample builds and runs an example for the time of the test.
func startExample(t *testing.T, name string, args ...string) *example {
	t.Helper()
	binary := filepath.Join(t.TempDir(), name)
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/foyerws/foyer/examples/"+name).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(binary, args...)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	e := &example{lines: make(chan string, 1000)}
	e.stop = sync.OnceFunc(func() { cmd.Process.Signal(os.Interrupt) })
	go e.read(log)
	t.Cleanup(func() {
		e.stop()
		for range e.lines {
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the example ended with %v", err)
		}
	})
	return e
}

func (e *example) read(log io.Reader) {
	defer close(e.lines)
	for scanner := bufio.NewScanner(log); scanner.Scan(); {
		e.lines <- scanner.Text()
	}
}

// wait returns the next line of the log with text in it.
func (e *example) wait(t *testing.T, text string) string {
	t.Helper()
	patience := time.After(30 * time.Second)
	for {
		select {
		case line, ok := <-e.lines:
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
