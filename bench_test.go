package foyer

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
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
				send := maskedFrame(0x82, strings.Repeat("x", size))
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
