//go:build linux

package main

import (
	"bytes"
	"compress/flate"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/internal/wstest"
)

// An attack is on a server that was started with certain flags, and may cost it so much memory.
type attack struct {
	name   string
	server []string
	memory int
	attack func(addr string, d time.Duration, scale float64) error

	newcomers bool // what counts is how long clients take that come now, see newcomers
}

const mib = 1 << 20

var attacks = []attack{
	{"none", nil, 40 * mib, func(string, time.Duration, float64) error { return nil }, false},
	{"5,000 silent connections", nil, 100 * mib, silent, false},
	{"5,000 handshakes that trickle", nil, 200 * mib, trickle, false},
	{"2,000 sockets that are sent to and never read", []string{"-max-write", "65536"}, 400 * mib, deaf, false},
	{"1,000 resets a second", nil, 60 * mib, resetStorm, false},
	{"handshakes at a full pool", nil, 60 * mib, fullPool, false},
	{"1,000 connections with 200 descriptors", []string{"-files", "200"}, 60 * mib, exhaust, false},
	{"500 clients with messages of 1 MiB, GOMEMLIMIT of 640 MiB", []string{"-memory", "671088640"}, 700 * mib, large, false},
	{"100 clients with compression bombs", []string{"-compression"}, 200 * mib, bombs, false},
	{"1,000 frames a second that break rules", nil, 60 * mib, violate, false},
	{"100 newcomers a second, none", nil, 60 * mib, func(string, time.Duration, float64) error { return nil }, true},
	{"100 newcomers a second, 2,000 hostile clients", []string{"-max-write", "65536"}, 300 * mib, mixed, true},
	{"HTTP/2: 2,000 streams a second that are reset at once", nil, 60 * mib, rapidReset, false},
	{"HTTP/2: 2,000 sockets that are sent to and never read", []string{"-max-write", "65536"}, 400 * mib, deafStreams, false},
	{"HTTP/2: the same on connections that take nothing at all", []string{"-max-write", "65536"}, 400 * mib, deafSessions, false},
}

// addresses are the server's, that of the one whose sockets nobody accepts, and the server's for HTTP/2.
func addresses(addr string) (server, ignored, http2 string) {
	all := strings.Fields(addr)
	return all[0], all[1], all[2]
}

const request = "GET /%s HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n"

// connect opens a TCP connection. Many come from as many addresses as it takes for their ports.
func connect(addr string, i int) (*net.TCPConn, error) { return connectWith(addr, i, nil) }

func connectWith(addr string, i int, control func(fd uintptr)) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i%8))}}
	if control != nil {
		d.Control = func(_, _ string, c syscall.RawConn) error { return c.Control(control) }
	}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// upgraded opens a socket and returns its connection.
func upgraded(addr string, i int, path, header string) (*net.TCPConn, error) {
	conn, err := connect(addr, i)
	if err != nil {
		return nil, err
	}
	return upgrade(conn, path, header)
}

func upgrade(conn *net.TCPConn, path, header string) (*net.TCPConn, error) {
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(conn, request, path, header)
	head := make([]byte, 0, 512)
	for b := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); {
		if _, err := conn.Read(b); err != nil {
			conn.Close()
			return nil, err
		}
		head = append(head, b[0])
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
		conn.Close()
		return nil, fmt.Errorf("%.40q", head)
	}
	return conn, nil
}

// crowd has n connections opened by open, and closes them after d.
func crowd(n int, d time.Duration, open func(i int) (*net.TCPConn, error)) error {
	begin := time.Now()
	conns := make([]*net.TCPConn, n)
	errs := make([]error, 16)
	var opening sync.WaitGroup
	for k := range errs {
		opening.Go(func() {
			for i := k; i < n && errs[k] == nil && time.Since(begin) < d; i += len(errs) {
				conns[i], errs[k] = open(i)
			}
		})
	}
	opening.Wait()
	time.Sleep(d - time.Since(begin))
	for _, conn := range conns {
		if conn != nil {
			conn.Close()
		}
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// often calls f so many times a second.
func often(perSecond float64, d time.Duration, f func(i int)) {
	var running sync.WaitGroup
	defer running.Wait()
	begin := time.Now()
	for i := 0; time.Since(begin) < d; {
		for ; float64(i) < perSecond*time.Since(begin).Seconds(); i++ {
			running.Go(func() { f(i) })
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func silent(addr string, d time.Duration, scale float64) error {
	addr, _, _ = addresses(addr)
	return crowd(int(5000*scale), d, func(i int) (*net.TCPConn, error) { return connect(addr, i) })
}

func trickle(addr string, d time.Duration, scale float64) error {
	addr, _, _ = addresses(addr)
	return crowd(int(5000*scale), d, func(i int) (*net.TCPConn, error) {
		conn, err := connect(addr, i)
		if err == nil {
			go func() {
				for _, b := range []byte(fmt.Sprintf(request, "echo", "")) {
					if _, err := conn.Write([]byte{b}); err != nil {
						return
					}
					time.Sleep(500 * time.Millisecond)
				}
			}()
		}
		return conn, err
	})
}

func deaf(addr string, d time.Duration, scale float64) error {
	addr, _, _ = addresses(addr)
	return crowd(int(2000*scale), d, func(i int) (*net.TCPConn, error) {
		// With little room on this side, or the kernel would take megabytes for each.
		conn, err := connectWith(addr, i, func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
		if err != nil {
			return nil, err
		}
		return upgrade(conn, "news", "")
	})
}

func resetStorm(addr string, d time.Duration, scale float64) error {
	addr, _, _ = addresses(addr)
	often(1000*scale, d, func(i int) {
		if conn, err := upgraded(addr, i, "echo", ""); err == nil {
			conn.Write(wstest.Masked(0x81, "hello"))
			conn.SetLinger(0)
			conn.Close()
		}
	})
	return nil
}

func fullPool(addr string, d time.Duration, scale float64) error {
	_, addr, _ = addresses(addr)
	var mu sync.Mutex
	var in []*net.TCPConn
	often(1000*scale, d, func(i int) {
		if conn, err := upgraded(addr, i, "ignored", ""); err == nil {
			mu.Lock()
			in = append(in, conn)
			mu.Unlock()
		}
	})
	for _, conn := range in {
		conn.Close()
	}
	if len(in) != 30 {
		return fmt.Errorf("%d got into a pool of 30", len(in))
	}
	return nil
}

func exhaust(addr string, d time.Duration, scale float64) error {
	addr, _, _ = addresses(addr)
	return crowd(int(1000*scale), d, func(i int) (*net.TCPConn, error) { return connect(addr, i) })
}

func large(addr string, d time.Duration, scale float64) error {
	addr, _, _ = addresses(addr)
	message := wstest.Masked(0x82, strings.Repeat("x", mib))
	return crowd(int(500*scale), d, func(i int) (*net.TCPConn, error) {
		conn, err := upgraded(addr, i, "echo", "")
		if err == nil {
			go io.Copy(io.Discard, conn)
			go func() {
				for rest := message; ; rest = message {
					for ; len(rest) > 0; rest = rest[min(16<<10, len(rest)):] { // all of them are half-way through most of the time
						if _, err := conn.Write(rest[:min(16<<10, len(rest))]); err != nil {
							return
						}
						time.Sleep(50 * time.Millisecond)
					}
				}
			}()
		}
		return conn, err
	})
}

func bombs(addr string, d time.Duration, scale float64) error {
	addr, _, _ = addresses(addr)
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression)
	w.Write(make([]byte, 100*mib))
	w.Flush()
	bomb := wstest.Masked(0xc2, b.String())
	often(100*scale, d, func(i int) {
		if conn, err := upgraded(addr, i, "echo", "Sec-WebSocket-Extensions: permessage-deflate\r\n"); err == nil {
			conn.Write(bomb)
			io.Copy(io.Discard, conn)
			conn.Close()
		}
	})
	return nil
}

func violate(addr string, d time.Duration, scale float64) error {
	addr, _, _ = addresses(addr)
	bad := [][]byte{wstest.Masked(0x83, ""), wstest.Masked(0xf1, "x"), wstest.Masked(0x80, "x"), wstest.Masked(0x81, "\xff"), wstest.Masked(0x88, "\x03"), wstest.Masked(0x09, ""), {0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {0x81, 5}}
	often(1000*scale, d, func(i int) {
		if conn, err := upgraded(addr, i, "echo", ""); err == nil {
			conn.Write(bad[i%len(bad)])
			io.Copy(io.Discard, conn)
			conn.Close()
		}
	})
	return nil
}

// mixed has hostile clients of each kind at the same time: silent ones, ones that trickle, ones that never read, and ones that
// come, reset the connection, and come again.
func mixed(addr string, d time.Duration, scale float64) error {
	var attacking sync.WaitGroup
	errs := make(chan error, 4)
	for _, attack := range []struct {
		of    func(string, time.Duration, float64) error
		scale float64
	}{{silent, 0.1}, {trickle, 0.1}, {deaf, 0.25}, {resetStorm, 0.5}} { // of 5,000, 5,000, 2,000, and 1,000 a second
		attacking.Go(func() { errs <- attack.of(addr, d, attack.scale*scale) })
	}
	attacking.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// newcomers has a hundred clients come at once, each second, and returns the 99th percentile of the time until one has its
// first message echoed. A client that is refused comes back a second later, as its answer says.
func newcomers(addr string, d time.Duration) (time.Duration, error) {
	addr, _, _ = addresses(addr)
	var mu sync.Mutex
	var took []time.Duration
	var failed error
	var clients sync.WaitGroup
	for begin := time.Now(); time.Since(begin) < d; time.Sleep(time.Second) {
		for range 100 {
			clients.Go(func() {
				t, err := firstEcho(addr)
				mu.Lock()
				defer mu.Unlock()
				took = append(took, t)
				if err != nil {
					failed = err
				}
			})
		}
	}
	clients.Wait()
	slices.Sort(took)
	return took[len(took)*99/100], failed
}

func firstEcho(addr string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	begin := time.Now()
	s, resp, err := foyer.Dial(ctx, "ws://"+addr+"/echo", nil)
	for err != nil && resp != nil && resp.StatusCode == 503 {
		time.Sleep(time.Second)
		s, resp, err = foyer.Dial(ctx, "ws://"+addr+"/echo", nil)
	}
	if err != nil {
		return 0, err
	}
	defer s.Abort()
	if err := s.SendText(ctx, "hello"); err != nil {
		return 0, err
	}
	_, _, err = s.Read(ctx)
	return time.Since(begin), err
}

// A goodClient has messages echoed.
type goodClient struct{ s *foyer.Socket }

func newGoodClient(addr string) (*goodClient, error) {
	addr, _, _ = addresses(addr)
	s, _, err := foyer.Dial(context.Background(), "ws://"+addr+"/echo", nil)
	return &goodClient{s}, err
}

func (c *goodClient) close() { c.s.Abort() }

// measure returns the 99th percentile of the time that an echo takes.
func (c *goodClient) measure(d time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d+20*time.Second)
	defer cancel()
	message := bytes.Repeat([]byte("x"), 128)
	var took []time.Duration
	for begin := time.Now(); time.Since(begin) < d; {
		sent := time.Now()
		if err := c.s.Write(ctx, foyer.Binary, message); err != nil {
			return 0, err
		}
		if _, p, err := c.s.Read(ctx); err != nil || !bytes.Equal(p, message) {
			return 0, fmt.Errorf("%d bytes, %w", len(p), err)
		}
		took = append(took, time.Since(sent))
		time.Sleep(2 * time.Millisecond)
	}
	slices.Sort(took)
	return took[len(took)*99/100], nil
}
