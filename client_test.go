package foyer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/foyerws/foyer/internal/frame"
	"github.com/foyerws/foyer/internal/wire"
)

// A clientFrame is one as a server gets it.
type clientFrame struct {
	first   byte
	masked  bool
	mask    [4]byte
	payload []byte
}

// readFrame reads a client's frame.
func readFrame(t *testing.T, r io.Reader) clientFrame {
	t.Helper()
	var h [14]byte
	read := func(p []byte) {
		if _, err := io.ReadFull(r, p); err != nil {
			t.Error(err)
		}
	}
	read(h[:2])
	n := int(h[1] & 0x7f)
	switch n {
	case 126:
		read(h[2:4])
		n = int(binary.BigEndian.Uint16(h[2:]))
	case 127:
		read(h[2:10])
		n = int(binary.BigEndian.Uint64(h[2:]))
	}
	f := clientFrame{first: h[0], masked: h[1]&0x80 != 0, payload: make([]byte, n)}
	if f.masked {
		read(f.mask[:])
	}
	read(f.payload)
	for i := range f.payload {
		f.payload[i] ^= f.mask[i&3]
	}
	return f
}

// TestMasks looks at each frame that a client can send, RFC 6455 section 5.3.
func TestMasks(t *testing.T) {
	for _, own := range []bool{false, true} {
		for _, compression := range []bool{false, true} {
			t.Run(fmt.Sprintf("own %v, compression %v", own, compression), func(t *testing.T) {
				var count atomic.Uint32
				o := &DialOptions{OutgoingFrameSize: 10000, Compression: compressing(compression)}
				if own {
					o.MaskGenerator = func() uint32 { return 0x01020300 + count.Add(1) }
				}
				extension := "X: y"
				if compression {
					extension = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover"
				}
				frames := make(chan clientFrame, 100)
				addr := answering(t, welcome(extension), func(conn net.Conn, r *bufio.Reader) {
					for {
						f := readFrame(t, r)
						frames <- f
						if f.first&0x0f == 8 {
							conn.Write([]byte{0x88, 0})
							close(frames)
							return
						}
					}
				})
				s, _, err := Dial(t.Context(), "ws://"+addr, o)
				if err != nil {
					t.Fatal(err)
				}
				big := bytes.Repeat([]byte("0123456789"), 2500)
				s.Write(t.Context(), Text, []byte("small"))
				s.Write(t.Context(), Text, nil)
				s.TryWrite(Binary, big)
				w, _ := s.Writer(t.Context(), Text)
				io.WriteString(w, "streamed")
				s.sendControl(frame.Ping, []byte("in between"), wire.Room{})
				w.Close()
				Broadcast(slices.Values([]*Socket{s}), Text, []byte("to all"))
				s.sendControl(frame.Ping, []byte("ping"), wire.Room{})
				s.Close(1000, "bye")

				masks := make(map[[4]byte]bool)
				var plain []string
				message := ""
				for f := range frames {
					if !f.masked || masks[f.mask] {
						t.Errorf("%+v", f)
					}
					masks[f.mask] = true
					if own && f.mask[1] != 3 && f.mask[2] != 2 && f.mask[3] != 1 {
						t.Errorf("mask %v", f.mask)
					}
					if f.first&0x08 != 0 {
						plain = append(plain, string(f.payload))
						continue
					}
					if !compression {
						if len(f.payload) > 10000 {
							t.Errorf("a frame of %d bytes", len(f.payload))
						}
						if message += string(f.payload); f.first&0x80 != 0 {
							plain = append(plain, message)
							message = ""
						}
					}
				}
				want := []string{"in between", "ping", "\x03\xe8bye"}
				if !compression {
					want = []string{"small", "", string(big), "in between", "streamed", "to all", "ping", "\x03\xe8bye"}
				}
				if !slices.Equal(plain, want) {
					t.Errorf("%.200q", plain)
				}
			})
		}
	}
}

// TestOutgoingFrameSize looks at the frames around the limit, on either side.
func TestOutgoingFrameSizeOfClients(t *testing.T) {
	for _, test := range []struct{ limit, size, frames int }{
		{0, 1 << 20, 1}, {0, 5000, 1}, {1000, 999, 1}, {1000, 1000, 1}, {1000, 1001, 2}, {1000, 2000, 2}, {1000, 2001, 3}, {1, 3, 3}, {1 << 17, 1 << 17, 1}, {1 << 17, 1<<17 + 1, 2},
	} {
		got := make(chan int)
		addr := answering(t, welcome(), func(conn net.Conn, r *bufio.Reader) {
			for n, size := 1, 0; ; n++ {
				f := readFrame(t, r)
				size += len(f.payload)
				if f.first&0x80 != 0 {
					if size != test.size {
						t.Errorf("%d bytes", size)
					}
					got <- n
					return
				}
			}
		})
		s, _, err := Dial(t.Context(), "ws://"+addr, &DialOptions{OutgoingFrameSize: test.limit})
		if err != nil {
			t.Fatal(err)
		}
		s.Write(t.Context(), Binary, make([]byte, test.size))
		if n := <-got; n != test.frames {
			t.Errorf("%d bytes with a limit of %d: %d frames", test.size, test.limit, n)
		}
		s.Abort()
	}
}

func TestClientsHoldServersToTheRules(t *testing.T) {
	for name, test := range map[string]struct {
		frames string
		code   CloseCode
	}{
		"masked":   {"\x81\x82\x01\x02\x03\x04\x69\x6b", CloseProtocolError},
		"too long": {"\x82\x7e\x04\x01" + strings.Repeat("x", 1025), CloseMessageTooBig},
		"UTF-8":    {"\x81\x01\xff", CloseInvalidFramePayloadData},
		"reserved": {"\xc1\x01a", CloseProtocolError},
	} {
		t.Run(name, func(t *testing.T) {
			closed := make(chan clientFrame, 1)
			addr := answering(t, welcome()+test.frames, func(conn net.Conn, r *bufio.Reader) {
				closed <- readFrame(t, r)
				io.Copy(io.Discard, r)
			})
			s, _, err := Dial(t.Context(), "ws://"+addr, &DialOptions{MaxMessageSize: 1024})
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.Read(t.Context()); closeCode(s) != test.code {
				t.Error(err)
			}
			if f := <-closed; f.first != 0x88 || CloseCode(binary.BigEndian.Uint16(f.payload)) != test.code {
				t.Errorf("%+v", f)
			}
		})
	}
}

// TestClientsLetServersCloseFirst is RFC 6455 section 7.1.1.
func TestClientsLetServersCloseFirst(t *testing.T) {
	order := make(chan string, 2)
	addr := answering(t, welcome(), func(conn net.Conn, r *bufio.Reader) {
		readFrame(t, r)
		conn.Write([]byte{0x88, 2, 3, 0xe8})
		conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := r.ReadByte(); errors.Is(err, os.ErrDeadlineExceeded) {
			order <- "still open"
		}
		conn.(*net.TCPConn).CloseWrite()
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := r.ReadByte(); err == io.EOF {
			order <- "closed"
		}
	})
	s, _, err := Dial(t.Context(), "ws://"+addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(1000, ""); err != nil {
		t.Error(err)
	}
	if a, b := <-order, <-order; a != "still open" || b != "closed" {
		t.Error(a, b)
	}
}

func TestClientsKeepAlive(t *testing.T) {
	pinged := make(chan clientFrame, 10)
	addr := answering(t, welcome(), func(conn net.Conn, r *bufio.Reader) {
		for {
			if _, err := r.Peek(1); err != nil {
				return
			}
			pinged <- readFrame(t, r)
		}
	})
	s, _, err := Dial(t.Context(), "ws://"+addr, &DialOptions{PingInterval: 20 * time.Millisecond, PongTimeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Read(t.Context()); !errors.Is(err, ErrPingTimeout) {
		t.Error(err)
	}
	if f := <-pinged; f.first != 0x89 || !f.masked {
		t.Errorf("%+v", f)
	}
}

func TestClientsPing(t *testing.T) {
	h := closeHandler(t, &Handler{})
	listenAll(h, Events{})
	s, _, err := Dial(t.Context(), "ws://"+serveRaw(t, h), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Abort()
	go s.Read(t.Context())
	if elapsed, err := s.Ping(t.Context(), []byte("hello")); err != nil || elapsed <= 0 {
		t.Error(elapsed, err)
	}
}

// TestMaskGeneratorThatPanics must not keep anything locked.
func TestMaskGeneratorThatPanics(t *testing.T) {
	h := closeHandler(t, &Handler{})
	listenAll(h, Events{Message: echoBack})
	s, _, err := Dial(t.Context(), "ws://"+serveRaw(t, h), &DialOptions{MaskGenerator: func() uint32 { panic("no mask") }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Abort()
	for range 3 {
		s.SendText(t.Context(), "hello")
		if _, p, err := s.Read(t.Context()); err != nil || string(p) != "hello" {
			t.Fatal(string(p), err)
		}
	}
}
