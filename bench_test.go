package foyer

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/foyerws/foyer/internal/wstest"
)

// BenchmarkHandshake connects, upgrades and hangs up.
func BenchmarkHandshake(b *testing.B) {
	h := &Handler{MaxPending: -1}
	addr := serveRaw(b, h)
	listenAll(h, Events{Message: echoBack})
	request := []byte(handshakeRequest())
	answer := make([]byte, 1024)
	b.ReportAllocs()
	for b.Loop() {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		conn.Write(request)
		if n, err := conn.Read(answer); err != nil || !strings.HasSuffix(string(answer[:n]), "\r\n\r\n") {
			b.Fatal(err)
		}
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
}

// BenchmarkEcho sends a message over TCP and waits for it to come back.
func BenchmarkEcho(b *testing.B) {
	modes := map[string]func(*Handler){
		"Events": func(h *Handler) { listenAll(h, Events{Message: echoBack}) },
		"Read":   func(h *Handler) { go h.ForEach(context.Background(), echo) },
	}
	for mode, serve := range modes {
		for name, size := range map[string]int{"100B": 100, "10kB": 10000, "100kB": 100000} {
			b.Run(mode+"/"+name, func(b *testing.B) {
				h := &Handler{}
				serve(h)
				conn := dialTCP(b, serveRaw(b, h))
				_, br := ask(b, conn, handshakeRequest())
				send := wstest.Masked(0x82, strings.Repeat("x", size))
				got := make([]byte, len(send)-4) // without the mask
				b.ReportAllocs()
				b.SetBytes(int64(size))
				for b.Loop() {
					conn.Write(send)
					if _, err := io.ReadFull(br, got); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkBroadcast sends a message to a hundred sockets.
func BenchmarkBroadcast(b *testing.B) {
	h := &Handler{MaxPending: -1}
	addr := serveRaw(b, h)
	var sockets []*Socket
	for range 100 {
		c := dial(b, addr, nil)
		go io.Copy(io.Discard, c.NetConn())
		sockets = append(sockets, accept(b, h))
	}
	message := []byte(strings.Repeat("x", 128))
	b.ReportAllocs()
	for b.Loop() {
		Broadcast(func(yield func(*Socket) bool) {
			for _, s := range sockets {
				if !yield(s) {
					return
				}
			}
		}, Text, message)
	}
}

// TestAllocationsOfAnEcho counts what the socket allocates for a message that is not as simple as can be.
func TestAllocationsOfAnEcho(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates as well")
	}
	fragments := slices.Concat(wstest.Masked(0x02, strings.Repeat("x", 100)), wstest.Masked(0x00, strings.Repeat("y", 100)), wstest.Masked(0x80, strings.Repeat("z", 100)))
	for _, test := range []struct {
		name, extension string
		sent            []byte
		most            float64 // with Events and with Read
	}{
		{"fragmented", "", fragments, 2},
		{"100 kB", "", wstest.Masked(0x82, strings.Repeat("x", 100_000)), 2},
		{"compressed", "permessage-deflate; server_no_context_takeover; client_no_context_takeover", wstest.Masked(0xc1, deflated(strings.Repeat("hello there ", 30))), 2},
	} {
		for _, events := range []bool{true, false} {
			h := closeHandler(t, &Handler{Compression: CompressionNoContextTakeover})
			if events {
				listenAll(h, Events{Message: echoBack})
			} else {
				go func() {
					for s := range h.Incoming(background) {
						go echo(background, s)
					}
				}()
			}
			conn := dialTCP(t, serveRaw(t, h))
			ask(t, conn, handshakeRequest("Sec-WebSocket-Extensions: "+test.extension))
			p := make([]byte, 100_010)
			once := func() {
				conn.Write(test.sent)
				io.ReadFull(conn, p[:4])
				n := int(p[1])
				switch n {
				case 126:
					n = int(p[2])<<8 + int(p[3])
				case 127:
					n = 100_006
				default:
					n -= 2
				}
				if _, err := io.ReadFull(conn, p[:n]); err != nil {
					t.Fatal(err)
				}
			}
			for range 100 {
				once()
			}
			if got := testing.AllocsPerRun(500, once); got > test.most {
				t.Errorf("%s, events %v: %v allocations a message", test.name, events, got)
			}
		}
	}
}
