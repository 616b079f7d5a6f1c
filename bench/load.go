//go:build linux

package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/foyerws/foyer/internal/wstest"

	"golang.org/x/sys/unix"
)

// A workload is one kind of load.
type workload struct {
	name  string
	about string
	unit  string
	run   func(l *load) (result, error)
}

var workloads = []workload{
	{"handshake", "connect, upgrade, hang up; 16 at a time", "handshakes", (*load).handshakes},
	{"storm", "10,000 clients, 256 at a time: connect, upgrade, 128 B text and its echo, close", "clients", (*load).storm},
	{"pingpong", "64 connections, 128 B text, one in flight", "messages", func(l *load) (result, error) { return l.echo(64, 1, 1, 128) }},
	{"pipelined", "64 connections, 128 B text, 32 in flight", "messages", func(l *load) (result, error) { return l.echo(64, 32, 1, 128) }},
	{"large", "8 connections, 64 KiB binary, one in flight", "messages", func(l *load) (result, error) { return l.echo(8, 1, 2, 64<<10) }},
	{"long", "4 connections, 512 KiB text, one in flight", "messages", func(l *load) (result, error) { return l.echo(4, 1, 1, 512<<10) }},
	{"fragmented", "64 connections, 4 KiB text in 16 frames, one in flight", "messages", (*load).fragmented},
	{"crowd", "10,000 connections, 128 B text, 64 in flight in total", "messages", (*load).crowd},
	{"idle", "connections that say nothing", "connections", (*load).idle},
	{"broadcast", "1,000 receivers, 128 B text, 8 in flight", "deliveries", func(l *load) (result, error) { return l.broadcast(1000, 128, 0) }},
	{"broadcast4k", "1,000 receivers, 4 KiB text, 8 in flight", "deliveries", func(l *load) (result, error) { return l.broadcast(1000, 4<<10, 0) }},
	{"broadcast10k", "10,000 receivers, 128 B text, 8 in flight", "deliveries", func(l *load) (result, error) { return l.broadcast(10_000, 128, 0) }},
	{"slow", "1,000 receivers, 4 KiB text, 8 in flight, and 100 more that do not read", "deliveries", func(l *load) (result, error) { return l.broadcast(1000, 4<<10, 100) }},
	{"tls", "64 sockets over TLS, 128 B text, one in flight; one socket per connection, or 8 per connection with HTTP/2", "messages", (*load).tls},
	{"compressed", "64 connections, 1 KiB JSON, one in flight, permessage-deflate", "messages", (*load).compressed},
}

// clusterWorkload is that of the command cluster.
var clusterWorkload = workload{"cluster", "999 receivers in one room, 128 B text, 8 in flight", "deliveries", (*load).cluster}

// A load is the load generator.
type load struct {
	bare       bool // the server knows no WebSocket
	http2      bool // the server is to be spoken to over HTTP/2
	centrifuge bool // the server speaks Centrifugal's JSON protocol
	nodes      []node
	broker     int // the process that carries messages between the nodes, 0 for none
	duration   time.Duration
	count      int // connections of the workload idle
}

// A node is a process of the server. All but those of the command cluster have one.
type node struct{ port, pid int }

const warmUp = 300 * time.Millisecond

// loadCommand is the process of the load generator. It prints a result.
func loadCommand(args []string) error {
	all := append(slices.Clip(workloads), clusterWorkload)
	i := slices.IndexFunc(all, func(w workload) bool { return w.name == args[0] })
	if i < 0 || len(args) < 6 {
		return errors.New("the command load is for the commands run and cluster")
	}
	l := &load{bare: args[1] == "tcp", http2: args[1] == "foyer-http2", centrifuge: strings.HasPrefix(args[1], "centrifuge")}
	seconds, _ := strconv.ParseFloat(args[2], 64)
	l.duration = time.Duration(seconds * float64(time.Second))
	l.count, _ = strconv.Atoi(args[3])
	l.broker, _ = strconv.Atoi(args[4])
	for _, arg := range args[5:] {
		var n node
		if _, err := fmt.Sscanf(arg, "%d:%d", &n.port, &n.pid); err != nil {
			return err
		}
		l.nodes = append(l.nodes, n)
	}
	files, err := raiseFileLimit()
	if err != nil {
		return err
	}
	l.count = min(l.count, files-100)
	r, err := all[i].run(l)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// A meter measures what the server does between its making and stop.
type meter struct {
	load        *load
	begin       time.Time
	cpu, broker time.Duration
}

func (l *load) newMeter() (meter, error) {
	cpu, broker, err := l.cpu()
	return meter{l, time.Now(), cpu, broker}, err
}

// cpu returns the CPU time that the nodes have used, and the broker.
func (l *load) cpu() (nodes, broker time.Duration, err error) {
	for _, n := range l.nodes {
		cpu, err := cpuTime(n.pid)
		if err != nil {
			return 0, 0, err
		}
		nodes += cpu
	}
	if l.broker != 0 {
		broker, err = cpuTime(l.broker)
	}
	return nodes, broker, err
}

func (m meter) stop(units int64) (result, error) {
	cpu, broker, err := m.load.cpu()
	if err != nil {
		return result{}, err
	}
	return result{
		Rate:   float64(units) / time.Since(m.begin).Seconds(),
		CPU:    microseconds(cpu-m.cpu, units),
		Broker: microseconds(broker-m.broker, units),
	}, nil
}

// microseconds returns those of a unit.
func microseconds(d time.Duration, units int64) float64 {
	return float64(d.Nanoseconds()) / 1e3 / float64(max(units, 1))
}

const upgradeRequest = "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n"

// connect opens a connection and performs the handshake on it. The source addresses differ, so that there are ports
// enough. The nodes take turns.
func (l *load) connect(i int, path, header string) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	fail := func(err error) (int, error) {
		unix.Close(fd)
		return -1, err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return fail(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(1 + i%16)}}); err != nil {
		return fail(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: l.nodes[i%len(l.nodes)].port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return fail(err)
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if l.bare {
		return fd, nil
	}
	if _, err := unix.Write(fd, fmt.Appendf(nil, upgradeRequest, path, header)); err != nil {
		return fail(err)
	}
	if err := readAnswer(fd); err != nil {
		return fail(err)
	}
	if l.centrifuge {
		if err := joinCentrifuge(fd); err != nil {
			return fail(err)
		}
	}
	return fd, nil
}

// readAnswer reads the answer to a handshake, which must be a 101 and have nothing behind it.
func readAnswer(fd int) error {
	var b [4096]byte
	n := 0
	for !bytes.HasSuffix(b[:n], []byte("\r\n\r\n")) {
		m, err := unix.Read(fd, b[n:])
		if m <= 0 || err != nil {
			return fmt.Errorf("answer %q: %w", b[:n], errors.Join(err, io.ErrUnexpectedEOF))
		}
		n += m
	}
	if !bytes.HasPrefix(b[:n], []byte("HTTP/1.1 101 ")) {
		return fmt.Errorf("answer %q", b[:n])
	}
	return nil
}

// connectAll opens n connections, a few at a time.
func (l *load) connectAll(n int, path string) ([]int, error) {
	fds := make([]int, n)
	var next atomic.Int64
	var failed error
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				fd, err := l.connect(int(i), path, "")
				fds[i] = fd
				if err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	return fds, failed
}

// text returns n bytes of text.
func text(n int) []byte {
	return []byte(strings.Repeat("The quick brown fox jumps over the lazy dog. ", n/45+1)[:n])
}

// frames returns a frame to send and the one that must come back.
func (l *load) frames(opcode byte, size int) (send, want []byte) {
	if l.centrifuge {
		return centrifugeFrames(string(text(size)))
	}
	want = wstest.Plain(0x80|opcode, string(text(size)))
	if l.bare {
		return want, want
	}
	return wstest.Masked(0x80|opcode, string(text(size))), want
}

// echo keeps window messages in flight on each of n connections.
func (l *load) echo(n, window int, opcode byte, size int) (result, error) {
	fds, err := l.connectAll(n, "/")
	if err != nil {
		return result{}, err
	}
	send, want := l.frames(opcode, size)
	return l.echoOver(fds, window, send, want)
}

// fragmented echoes messages in many frames.
func (l *load) fragmented() (result, error) {
	const size, frames = 4 << 10, 16
	fds, err := l.connectAll(64, "/")
	if err != nil {
		return result{}, err
	}
	whole, want := text(size), wstest.Plain(0x81, string(text(size)))
	if l.bare {
		return l.echoOver(fds, 1, want, want)
	}
	var send []byte
	for i := range frames {
		first := byte(0)
		if i == 0 {
			first = 1
		}
		if i == frames-1 {
			first |= 0x80
		}
		send = append(send, wstest.Masked(first, string(whole[i*size/frames:(i+1)*size/frames]))...)
	}
	return l.echoOver(fds, 1, send, want)
}

// echoOver keeps window messages in flight on each connection. A message is sent as one sequence of bytes and comes back as
// another.
func (l *load) echoOver(fds []int, window int, send, want []byte) (result, error) {
	p, err := newPeers(fds, bytes.Repeat(send, window), len(send), want)
	if err != nil {
		return result{}, err
	}
	p.timed = window == 1
	return l.keepGoing(p, p.all, window, func(c *peer, n int) error { return p.send(c, n) })
}

// crowd has few messages in flight over many connections, each of which waits for its turn.
func (l *load) crowd() (result, error) {
	fds, err := l.connectAll(min(10_000, l.count), "/")
	if err != nil {
		return result{}, err
	}
	send, want := l.frames(1, 128)
	p, err := newPeers(fds, send, len(send), want)
	if err != nil {
		return result{}, err
	}
	const inFlight = 64
	next := inFlight
	return l.keepGoing(p, p.all[:inFlight], 1, func(_ *peer, n int) error {
		for range n {
			if err := p.send(p.all[next%len(p.all)], 1); err != nil {
				return err
			}
			next++
		}
		return nil
	})
}

// keepGoing has the first peers send window messages each, and measures while again sends others for those that have come back.
func (l *load) keepGoing(p *peers, first []*peer, window int, again func(c *peer, n int) error) (result, error) {
	for _, c := range first {
		if err := p.send(c, window); err != nil {
			return result{}, err
		}
	}
	if err := p.runFor(warmUp, again); err != nil {
		return result{}, err
	}
	p.received, p.latencies = 0, p.latencies[:0]
	m, err := l.newMeter()
	if err != nil {
		return result{}, err
	}
	if err := p.runFor(l.duration, again); err != nil {
		return result{}, err
	}
	r, err := m.stop(p.received)
	r.P99 = percentile(p.latencies, 0.99)
	return r, err
}

// broadcast has one of many receivers send, so that eight messages are on their way to all. silent others do not read.
func (l *load) broadcast(receivers, size, silent int) (result, error) {
	const inFlight = 8
	fds, err := l.connectAll(receivers+silent, "/broadcast")
	if err != nil {
		return result{}, err
	}
	time.Sleep(joining)
	before, err := l.settled()
	if err != nil {
		return result{}, err
	}
	p, err := l.receivers(fds[:receivers], inFlight, size)
	if err != nil {
		return result{}, err
	}
	var sent []time.Time // by the number of the message
	heard := make(map[*peer]int, receivers)
	sendMore := func(n int) error {
		for range n {
			sent = append(sent, time.Now())
		}
		return p.send(p.all[0], n)
	}
	again := func(c *peer, n int) error {
		if heard[c] += n; heard[c] > len(sent) {
			return errors.New("a message came twice")
		}
		p.latencies = append(p.latencies, int32(time.Since(sent[heard[c]-1]).Microseconds()))
		return sendMore(int(p.received/int64(receivers)) + inFlight - len(sent))
	}
	if err := sendMore(inFlight); err != nil {
		return result{}, err
	}
	if err := p.runFor(warmUp, again); err != nil {
		return result{}, err
	}
	begin := p.received
	p.latencies = p.latencies[:0]
	m, err := l.newMeter()
	if err != nil {
		return result{}, err
	}
	if err := p.runFor(l.duration, again); err != nil {
		return result{}, err
	}
	r, err := m.stop(p.received - begin)
	if err != nil {
		return result{}, err
	}
	r.P99 = percentile(p.latencies, 0.99)
	if err := p.runUntil(int64(len(sent)*receivers), nothing); err != nil {
		return result{}, err
	}
	if silent > 0 {
		after, err := l.settled()
		if err != nil {
			return result{}, err
		}
		r.Bytes = float64(after-before) / float64(silent)
	}
	return r, nil
}

// joining is how long a server may take until it has everybody in the room.
const joining = 200 * time.Millisecond

// receivers returns peers one of which sends to all. At most so many messages are sent at a time.
func (l *load) receivers(fds []int, inFlight, size int) (*peers, error) {
	send, want := l.frames(1, size)
	p, err := newPeers(fds, bytes.Repeat(send, inFlight), len(send), want)
	if err == nil && l.centrifuge {
		p.check = p.pushes
	}
	return p, err
}

// cluster measures how long messages take from the first node to the last, and then a broadcast.
func (l *load) cluster() (result, error) {
	latencies, err := l.cross()
	if err != nil {
		return result{}, err
	}
	r, err := l.broadcast(999, 128, 0)
	r.Median, r.P99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
	return r, err
}

// cross sends from the first node, one message at a time, and returns how long each took to a receiver on the last. Each node has
// one receiver, a single one has two; the next message is sent when all have the last one.
func (l *load) cross() (latencies []int32, err error) {
	messages := 1000
	if l.duration < time.Second {
		messages = 100
	}
	fds, err := l.connectAll(max(len(l.nodes), 2), "/broadcast")
	if err != nil {
		return nil, err
	}
	time.Sleep(joining)
	p, err := l.receivers(fds, 1, 128)
	if err != nil {
		return nil, err
	}
	defer p.close()
	last := p.all[len(p.all)-1]
	for i := range messages + messages/10 { // the first ones do not count
		begin := time.Now()
		if err := p.send(p.all[0], 1); err != nil {
			return nil, err
		}
		err := p.runUntil(int64((i+1)*len(fds)), func(c *peer, _ int) error {
			if c == last {
				latencies = append(latencies, int32(time.Since(begin).Microseconds()))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return latencies[messages/10:], nil
}

// handshakes connects and hangs up.
func (l *load) handshakes() (result, error) {
	var done atomic.Int64
	var stop atomic.Bool
	failed := make(chan error, 16)
	for w := range 16 {
		go func() {
			for i := w; !stop.Load(); i += 16 {
				fd, err := l.connect(i, "/", "")
				if err != nil {
					failed <- err
					return
				}
				// A reset, so that no port is left waiting.
				unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
				unix.Close(fd)
				done.Add(1)
			}
			failed <- nil
		}()
	}
	time.Sleep(warmUp)
	m, err := l.newMeter()
	if err != nil {
		return result{}, err
	}
	begin := done.Load()
	time.Sleep(l.duration)
	r, err := m.stop(done.Load() - begin)
	stop.Store(true)
	for range 16 {
		err = errors.Join(err, <-failed)
	}
	return r, err
}

// idle opens many connections and looks at the server's memory, before and after one echo on each. The memory that the
// first few of them cost, the program's own pages among it, does not count.
func (l *load) idle() (result, error) {
	first, err := l.connectAll(100, "/")
	if err != nil {
		return result{}, err
	}
	if err := l.echoOnce(first); err != nil {
		return result{}, err
	}
	for _, fd := range first {
		unix.Close(fd)
	}
	base, err := l.settled()
	if err != nil {
		return result{}, err
	}
	fds, err := l.connectAll(l.count, "/")
	if err != nil {
		return result{}, err
	}
	before, err := l.settled()
	if err != nil {
		return result{}, err
	}
	if err := l.echoOnce(fds); err != nil {
		return result{}, err
	}
	after, err := l.settled()
	n := float64(len(fds))
	return result{Bytes: float64(before-base) / n, After: float64(after-base) / n}, err
}

// echoOnce sends a message on each connection and waits for all to come back.
func (l *load) echoOnce(fds []int) error {
	send, want := l.frames(1, 128)
	p, err := newPeers(fds, send, len(send), want)
	if err != nil {
		return err
	}
	defer unix.Close(p.epoll)
	for _, c := range p.all {
		if err := p.send(c, 1); err != nil {
			return err
		}
	}
	return p.runUntil(int64(len(fds)), nothing)
}

// settled has the server give back what it can and returns its memory when that no longer changes.
func (l *load) settled() (int, error) {
	last := 0
	for range 40 {
		now := 0
		for _, n := range l.nodes {
			syscall.Kill(n.pid, syscall.SIGUSR1)
		}
		time.Sleep(250 * time.Millisecond)
		for _, n := range l.nodes {
			size, err := resident(n.pid)
			if err != nil {
				return 0, err
			}
			now += size
		}
		if diff := now - last; diff < now/200 && -diff < now/200 {
			return now, nil
		}
		last = now
	}
	return last, nil
}

// each runs f for n connections that dial opened, each on a goroutine of its own, for the duration.
func (l *load) each(n int, dial func(i int) (net.Conn, *bufio.Reader, error), echo func(net.Conn, *bufio.Reader) error) (result, error) {
	var done atomic.Int64
	var stop atomic.Bool
	var mu sync.Mutex
	var latencies []int32
	failed := make(chan error, n)
	for i := range n {
		go func() {
			failed <- func() error {
				conn, r, err := dial(i)
				if err != nil {
					return err
				}
				defer conn.Close()
				var mine []int32
				for !stop.Load() {
					begin := time.Now()
					if err := echo(conn, r); err != nil {
						return err
					}
					mine = append(mine, int32(time.Since(begin).Microseconds()))
					done.Add(1)
				}
				mu.Lock()
				defer mu.Unlock()
				latencies = append(latencies, mine...)
				return nil
			}()
		}()
	}
	time.Sleep(2 * warmUp)
	m, err := l.newMeter()
	if err != nil {
		return result{}, err
	}
	begin := done.Load()
	time.Sleep(l.duration)
	r, err := m.stop(done.Load() - begin)
	stop.Store(true)
	for range n {
		err = errors.Join(err, <-failed)
	}
	r.P99 = percentile(latencies, 0.99)
	return r, err
}

func (l *load) tls() (result, error) {
	if l.http2 {
		return l.streams(8, 8)
	}
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
	dial := func(int) (net.Conn, *bufio.Reader, error) {
		conn, err := tls.Dial("tcp", l.addr(), config)
		if err != nil {
			return nil, nil, err
		}
		_, r, err := upgradeOn(conn, "")
		return conn, r, err
	}
	send, want := l.frames(1, 128)
	buffers := sync.Pool{New: func() any { b := make([]byte, len(want)); return &b }}
	return l.each(64, dial, func(conn net.Conn, r *bufio.Reader) error {
		held := buffers.Get().(*[]byte)
		defer buffers.Put(held)
		b := *held
		if _, err := conn.Write(send); err != nil {
			return err
		}
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		if !bytes.Equal(b, want) {
			return errEcho
		}
		return nil
	})
}

func (l *load) addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(l.nodes[0].port)) }

// upgradeOn performs the handshake on conn and returns the header of the answer.
func upgradeOn(conn net.Conn, header string) (http.Header, *bufio.Reader, error) {
	if _, err := fmt.Fprintf(conn, upgradeRequest, "/", header); err != nil {
		return nil, nil, err
	}
	r := bufio.NewReader(conn)
	answer, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, nil, err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return nil, nil, errors.New(answer.Status)
	}
	return answer.Header, r, nil
}

// compressed sends a message that is compressed once, and inflates each one that comes back unless it is the same as the
// last.
func (l *load) compressed() (result, error) {
	message := bytes.Repeat([]byte(`{"id":4711,"user":"alice","text":"see you at eight","tags":["a","b"]},`), 15)[:1024]
	var deflated bytes.Buffer
	w, _ := flate.NewWriter(&deflated, 1)
	w.Write(message)
	w.Flush()
	send := wstest.Masked(0x80|0x40|1, strings.TrimSuffix(deflated.String(), "\x00\x00\xff\xff"))
	dial := func(int) (net.Conn, *bufio.Reader, error) {
		conn, err := net.Dial("tcp", l.addr())
		if err != nil {
			return nil, nil, err
		}
		const offer = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
		header, r, err := upgradeOn(conn, offer)
		if err == nil && !strings.HasPrefix(header.Get("Sec-WebSocket-Extensions"), "permessage-deflate") {
			err = errors.New("no compression")
		}
		return conn, r, err
	}
	var known sync.Map // payloads that were inflated and found right
	return l.each(64, dial, func(conn net.Conn, r *bufio.Reader) error {
		if _, err := conn.Write(send); err != nil {
			return err
		}
		head, err := r.Peek(4)
		if err != nil {
			return err
		}
		size, header := int(head[1]), 2
		if size == 126 {
			size, header = int(binary.BigEndian.Uint16(head[2:])), 4
		}
		if _, err := r.Discard(header); err != nil {
			return err
		}
		payload, err := r.Peek(size)
		if err != nil {
			return err
		}
		defer r.Discard(size)
		if _, ok := known.Load(string(payload)); ok {
			return nil
		}
		inflated, err := io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(payload), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))))
		if err != nil {
			return err
		}
		if !bytes.Equal(inflated, message) {
			return errEcho
		}
		known.Store(string(payload), true)
		return nil
	})
}

// percentile returns the p-th of latencies, which are in microseconds.
func percentile(latencies []int32, p float64) float64 {
	if len(latencies) == 0 {
		return 0
	}
	slices.Sort(latencies)
	return float64(latencies[int(p*float64(len(latencies)-1))])
}
