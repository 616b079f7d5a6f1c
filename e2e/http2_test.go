//lint:file-ignore SA1019 http.Transport, which is to replace http2.Transport, refuses the header :protocol

package e2e

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"golang.org/x/net/http2"

	"github.com/foyerws/foyer"
	_ "github.com/foyerws/foyer/extendedconnect"
)

// socketsPage opens a number of sockets to its own server, has each echo what it sends, and makes requests meanwhile.
const socketsPage = `<!doctype html><p id="state">opening</p><script>
const state = document.getElementById("state"), count = 8
let open = 0, closed = 0
for (let i = 0; i < count; i++) {
	const socket = new WebSocket("wss://" + location.host + "/ws", ["chat.v1"])
	socket.onopen = () => { socket.send("x".repeat(1000 * i)); open++ }
	socket.onmessage = async e => {
		const page = await fetch("/ordinary")
		const ordinary = await page.text()
		if (e.data.length == 1000 * i && ordinary == "ordinary" && socket.protocol == "chat.v1") socket.close(4000 + i, "bye")
	}
	socket.onclose = e => { if (e.code == 4000 + i && ++closed == count) state.textContent = "done" }
}
</script>`

// serveSecurely serves h at /ws, the page of many sockets, and something ordinary.
func serveSecurely(t *testing.T, h *foyer.Handler, http2 bool) *httptest.Server {
	t.Helper()
	m := http.NewServeMux()
	m.Handle("/ws", h)
	m.HandleFunc("/ordinary", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ordinary") })
	m.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, socketsPage)
	})
	srv := httptest.NewUnstartedServer(m)
	if srv.EnableHTTP2 = http2; http2 {
		if err := foyer.EnableHTTP2(srv.Config); err != nil {
			t.Fatal(err)
		}
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

// A report is what a browser reports about its connections.
type report struct {
	mu      sync.Mutex
	page    string  // protocol of the page
	sockets []int64 // status of each handshake
}

// TestBrowserHTTP2 has Chromium open several sockets over the HTTP/2 connection that its page came over, and the same
// over HTTP/1.1, and asks the browser which it was.
func TestBrowserHTTP2(t *testing.T) {
	for _, test := range []struct {
		protocol string
		status   int64 // of the handshakes: 200 is that of an extended CONNECT
	}{{"h2", 200}, {"http/1.1", 101}} {
		t.Run(test.protocol, func(t *testing.T) {
			h := &foyer.Handler{Subprotocols: []string{"chat.v1"}}
			defer h.Close()
			var mu sync.Mutex
			connections := make(map[string]int)
			go h.ForEach(context.Background(), func(ctx context.Context, s *foyer.Socket) {
				mu.Lock()
				connections[fmt.Sprint(s.Request().Proto, " from ", s.RemoteAddr())]++
				mu.Unlock()
				echoes(ctx, s)
			})
			srv := serveSecurely(t, h, test.protocol == "h2")
			var said report
			ctx := browse(t, srv.URL+"/", chromedp.WithListener(said.hear))
			until(t, ctx, `document.getElementById("state").textContent === "done"`)

			said.mu.Lock()
			defer said.mu.Unlock()
			t.Logf("the browser reports: page over %s, handshakes answered with %v", said.page, said.sockets)
			if said.page != test.protocol || len(said.sockets) != 8 {
				t.Error("another protocol")
			}
			for _, status := range said.sockets {
				if status != test.status {
					t.Errorf("a handshake was answered with %d", status)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if want := map[string]int{"h2": 1, "http/1.1": 8}[test.protocol]; len(connections) != want {
				t.Error(connections)
			}
			if st := h.Stats(); st.Upgraded != 8 || st.Closed[4007] != 1 {
				t.Error(st)
			}
		})
	}
}

// hear takes down what the browser tells of its network.
func (r *report) hear(event any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch e := event.(type) {
	case *network.EventResponseReceived:
		if e.Type == network.ResourceTypeDocument {
			r.page = e.Response.Protocol
		}
	case *network.EventWebSocketHandshakeResponseReceived:
		r.sockets = append(r.sockets, e.Response.Status)
	}
}

// TestNodeHTTP2 has Node's http2 module open sockets and make requests on one connection.
func TestNodeHTTP2(t *testing.T) {
	node := program(t, "node")
	h := &foyer.Handler{Subprotocols: []string{"chat.v1"}}
	defer h.Close()
	go h.ForEach(context.Background(), echoes)
	srv := serveSecurely(t, h, true)
	out, err := exec.Command(node, "node/http2.js", srv.URL).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "20 sockets, 20 requests, one connection") {
		t.Errorf("%v\n%s", err, out)
	}
	if st := h.Stats(); st.Upgraded != 20 || st.Closed[4001] != 20 || st.MessagesIn != 80 {
		t.Error(st)
	}
}

// overHTTP2 returns a NetDial function for foyer's client, which speaks HTTP/1.1, that has its handshake over HTTP/2.
func overHTTP2(t *testing.T) func(ctx context.Context, network, addr string) (net.Conn, error) {
	transport := &http2.Transport{TLSClientConfig: insecure}
	t.Cleanup(transport.CloseIdleConnections)
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			if err := translate(transport, theirs); err != nil && ctx.Err() == nil {
				t.Log(err)
			}
		}()
		return ours, nil
	}
}

// translate turns the handshake on conn into an extended CONNECT, the answer into that to an upgrade, and carries what
// comes then.
func translate(transport *http2.Transport, conn net.Conn) error {
	in := bufio.NewReader(conn)
	asked, err := http.ReadRequest(in)
	if err != nil {
		return err
	}
	body, out := io.Pipe()
	r, err := http.NewRequest(http.MethodConnect, "https://"+asked.Host+asked.URL.RequestURI(), body)
	if err != nil {
		return err
	}
	r.Header = asked.Header.Clone()
	r.Header[":protocol"] = []string{"websocket"}
	for _, name := range []string{"Connection", "Upgrade", "Sec-Websocket-Key"} {
		r.Header.Del(name)
	}
	resp, err := transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		resp.ProtoMajor, resp.ProtoMinor = 1, 1
		return resp.Write(conn)
	}
	accept := sha1.Sum([]byte(asked.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	resp.Header.Set("Connection", "Upgrade")
	resp.Header.Set("Upgrade", "websocket")
	resp.Header.Set("Sec-WebSocket-Accept", base64.StdEncoding.EncodeToString(accept[:]))
	fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\n")
	resp.Header.Write(conn)
	fmt.Fprint(conn, "\r\n")
	go func() {
		io.Copy(out, in)
		out.Close()
	}()
	_, err = io.Copy(conn, resp.Body)
	return err
}
