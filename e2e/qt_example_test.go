package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/foyerws/foyer"
)

// TestQtExample has the echo server of examples/qt talk to a page in a browser and to Qt's client, and has 500 clients
// come at once to it and to Qt's own server, both with the limit of 30 pending connections.
func TestQtExample(t *testing.T) {
	port := freePort(t)
	startExample(t, "qt", "-port", port)
	for range 500 {
		if conn, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			conn.Close()
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	url := "ws://127.0.0.1:" + port

	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<p id="state">connecting</p><script>
			const state = document.getElementById("state"), socket = new WebSocket(%q)
			socket.binaryType = "arraybuffer"
			let sent = 0
			const next = () => {
				const text = "message " + sent
				socket.send(sent++ %% 2 ? text : new TextEncoder().encode(text))
			}
			socket.onopen = next
			socket.onmessage = e => {
				const text = typeof e.data === "string" ? e.data : new TextDecoder().decode(e.data)
				if (text !== "message " + (sent - 1) || (typeof e.data === "string") === (sent %% 2 === 1)) state.textContent = "wrong: " + text
				else if (sent < 2000) next()
				else { state.textContent = "all " + sent; socket.close() }
			}
			socket.onclose = e => state.textContent += ", closed with " + e.code
		</script>`, url)
	}))
	defer page.Close()
	ctx := browse(t, page.URL)
	until(t, ctx, `document.getElementById("state").textContent.includes("closed")`)
	if text, err := chromedp.Run(ctx, chromedp.Text("#state")); err != nil || text != "all 2000, closed with 1005" {
		t.Errorf("%q, %v", text, err)
	}

	qt := qtPeer(t, "client", url, "", "")
	qt.expect("connected ")
	for i := range 1000 {
		if i%2 == 0 {
			qt.say(fmt.Sprint("text m", i))
			qt.expect("frame \\d+ 1")
			qt.expect(fmt.Sprint("text m", i))
		} else {
			qt.say(fmt.Sprint("binary ", i))
			qt.expect(fmt.Sprintf("binary %d %d", i, sum(pattern(i))))
		}
	}

	server := qtPeer(t, "server")
	theirs := "ws://127.0.0.1:" + regexp.MustCompile(`\d+`).FindString(server.expect(`port \d+`))
	for name, url := range map[string]string{"package qt": url, "Qt": theirs} {
		if refused := crowdOf(t, url, 500); refused != 0 {
			t.Errorf("%s refused %d of 500", name, refused)
		}
	}
}

// crowdOf dials n sockets at once, has each hear its echo, and returns how many were refused.
func crowdOf(t *testing.T, url string, n int) (refused int) {
	var mu sync.Mutex
	var clients sync.WaitGroup
	for range n {
		clients.Go(func() {
			s, _, err := foyer.Dial(shortly(t), url, nil)
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				refused++
				return
			}
			defer s.Abort()
			s.SendText(t.Context(), "hello")
			if _, p, err := s.Read(shortly(t)); err != nil || string(p) != "hello" {
				t.Errorf("%q, %v", p, err)
			}
		})
	}
	clients.Wait()
	return refused
}
