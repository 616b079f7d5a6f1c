package foyer

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/foyerws/foyer/internal/wstest"
)

// TestCompressionMemory has more sockets ask for context takeover than there is memory for.
func TestCompressionMemory(t *testing.T) {
	besideOthers(t)
	const clients, fit = 400, 100
	h := closeHandler(t, &Handler{Compression: CompressionContextTakeover, CompressionMemory: fit * 8 << 10})
	listenAll(h, Events{Message: echoBack})
	addr := serveRaw(t, h)
	join := func() (answer string, leave func()) {
		conn := dialTCP(t, addr)
		resp, _ := ask(t, conn, handshakeRequest("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"))
		if resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatal(resp.Status)
		}
		return resp.Header.Get("Sec-Websocket-Extensions"), func() { conn.Close() }
	}
	const with, without = "permessage-deflate; client_max_window_bits=12", "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	var leaves []func()
	for i := range clients {
		answer, leave := join()
		leaves = append(leaves, leave)
		if want := map[bool]string{true: with, false: without}[i < fit]; answer != want {
			t.Fatalf("client %d: %q", i, answer)
		}
	}
	for _, leave := range leaves[:10] {
		leave()
	}
	eventually(t, "the memory to be given back", func() bool { return h.config.windows.used.Load() == (fit-10)*8<<10 })
	if answer, _ := join(); answer != with {
		t.Error(answer)
	}
	h.Close()
	if used := h.config.windows.used.Load(); used != 0 {
		t.Errorf("%d bytes are still taken", used)
	}
}

// TestCompressionInEveryMode has clients of all modes talk to servers of all modes, with everything that sends messages, and
// compares what arrives.
func TestCompressionInEveryMode(t *testing.T) {
	modes := []CompressionMode{CompressionDisabled, CompressionNoContextTakeover, CompressionContextTakeover}
	for _, ours := range modes {
		for _, size := range []int{0, 1000} { // of frames
			h := closeHandler(t, &Handler{Compression: ours, CompressionThreshold: -1, OutgoingFrameSize: size})
			var clients []*Socket
			url := "ws://" + serveRaw(t, h)
			var servers []*Socket
			for _, theirs := range slices.Concat(modes, modes) {
				c, _, err := Dial(t.Context(), url, &DialOptions{Compression: theirs, CompressionThreshold: -1, OutgoingFrameSize: size})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Abort()
				clients = append(clients, c)
				servers = append(servers, accept(t, h))
			}
			converse := func(from, to []*Socket) {
				t.Helper()
				var sent []string
				say := func(m string, send func(s *Socket, p []byte) error) {
					t.Helper()
					sent = append(sent, m)
					for _, s := range from {
						if err := send(s, []byte(m)); err != nil {
							t.Fatal(err)
						}
					}
				}
				long := strings.Repeat("a long message, again and again. ", 1000)
				for i := range 20 {
					say(fmt.Sprintf("message number %d to all of you", i), func(s *Socket, p []byte) error { return s.Write(t.Context(), Text, p) })
					say("", func(s *Socket, p []byte) error { return s.TryWrite(Text, p) })
					say(long[i:], func(s *Socket, p []byte) error { return s.TryWrite(Text, p) })
					say(long[:i*100], func(s *Socket, p []byte) error {
						w, err := s.Writer(t.Context(), Text)
						if err != nil {
							return err
						}
						for rest := p; len(rest) > 0; {
							n := min(len(rest), 77*(i+1))
							if _, err := w.Write(rest[:n]); err != nil {
								return err
							}
							rest = rest[n:]
						}
						return w.Close()
					})
					m := fmt.Sprintf("broadcast number %d to all of you", i)
					sent = append(sent, m)
					if dropped := Broadcast(slices.Values(from), Text, []byte(m)); dropped != nil {
						t.Fatal(dropped)
					}
				}
				for n, s := range to {
					for i, want := range sent {
						var got []byte
						if i%3 == n%3 {
							_, r, err := s.Reader(t.Context())
							if err != nil {
								t.Fatal(err)
							}
							if i%2 == 0 {
								io.CopyN(io.Discard, r, int64(len(want)/2)) // the rest is dropped
								continue
							}
							got, _ = io.ReadAll(r)
						} else {
							var err error
							if _, got, err = s.Read(t.Context()); err != nil {
								t.Fatal(err)
							}
						}
						if !bytes.Equal(got, []byte(want)) {
							t.Fatalf("mode %d, frames of %d, socket %d, message %d: %q instead of %q", ours, size, n, i, got, want)
						}
					}
				}
			}
			converse(servers, clients)
			converse(clients, servers)
		}
	}
}

// TestLongCompressedMessagesInEvents come in many pieces, from a client that takes its time, and all sockets hear theirs.
func TestLongCompressedMessagesInEvents(t *testing.T) {
	h := closeHandler(t, &Handler{Compression: CompressionContextTakeover})
	listenAll(h, Events{Message: echoBack})
	conn := dialTCP(t, serveRaw(t, h))
	ask(t, conn, handshakeRequest("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"))
	message := deflated(strings.Repeat("a message that takes its time. ", 10))
	sent := wstest.Masked(0xc1, message)
	for i := range 5 {
		for k := range sent {
			conn.Write(sent[k : k+1])
			if k%7 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		head := make([]byte, 2)
		if _, err := io.ReadFull(conn, head); err != nil || head[0] != 0xc1 {
			t.Fatal(i, head, err)
		}
		io.CopyN(io.Discard, conn, int64(head[1]))
	}
}
