package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/foyerws/foyer"
)

// duration returns how long a test is to go on: what the environment says, or short.
func duration(t *testing.T, variable string, short time.Duration) time.Duration {
	t.Helper()
	s := os.Getenv(variable)
	if s == "" {
		return short
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return d
}

// A ledger is what a server knows of its sockets, by the number in their path.
type ledger struct {
	mu       sync.Mutex
	received map[int]int64 // bytes of payload
	ended    map[int]int   // times that Closed was called
	endings  uint64        // of all sockets
	opened   atomic.Int64
}

func number(s *foyer.Socket) int {
	n, _ := strconv.Atoi(s.Request().URL.Path[1:])
	return n
}

// events echo, and write down what they see.
func (l *ledger) events(s *foyer.Socket) foyer.Events {
	id := number(s)
	var received int64
	return foyer.Events{
		Message: func(s *foyer.Socket, t foyer.MessageType, p []byte) {
			received += int64(len(p))
			s.Write(context.Background(), t, p)
		},
		Closed: func(*foyer.Socket, foyer.CloseCode, string) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.received[id] = received
			l.ended[id]++
			l.endings++
		},
	}
}

// read is the same for a goroutine that reads.
func (l *ledger) read(s *foyer.Socket) {
	events := l.events(s)
	for {
		t, p, err := s.Read(context.Background())
		if err != nil {
			break
		}
		events.Message(s, t, p)
	}
	s.Abort()
	events.Closed(s, 0, "")
}

// serveLedger serves sockets until the test ends: those with even numbers with callbacks, the others with Read.
func serveLedger(t *testing.T) (*ledger, *foyer.Handler, string) {
	l := &ledger{received: make(map[int]int64), ended: make(map[int]int)}
	h := &foyer.Handler{MaxWriteBuffer: 256 << 10}
	go func() {
		for s := range h.Incoming(context.Background()) {
			if number(s)%2 == 0 {
				s.Handle(l.events(s))
			} else {
				go l.read(s)
			}
		}
	}()
	srv := &foyer.Server{Handler: h}
	if err := srv.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	return l, h, srv.Addr().String()
}

// check returns an error unless socket id ended once, having received what was sent: all of it if whole.
func (l *ledger) check(id int, sent int64, whole bool) error {
	for range 2000 {
		l.mu.Lock()
		received, ended := l.received[id], l.ended[id]
		l.mu.Unlock()
		switch {
		case ended > 1:
			return fmt.Errorf("socket %d ended %d times", id, ended)
		case ended == 1 && (received == sent || !whole && received < sent):
			return nil
		case ended == 1:
			return fmt.Errorf("socket %d received %d bytes of %d", id, received, sent)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("the end of socket %d was not told", id)
}

// payload returns bytes that depend on the socket and the message.
func payload(id, i, size int) []byte {
	p := make([]byte, size)
	for k := range p {
		p[k] = byte(id + 3*i + k)
	}
	return p
}

// converse exchanges messages with the server and ends in one way or another.
func converse(l *ledger, addr string, id int, r *rand.Rand, slow bool, until time.Time) error {
	d := websocket.Dialer{HandshakeTimeout: 20 * time.Second, NetDial: func(network, addr string) (net.Conn, error) {
		from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+id%16))}}
		return from.Dial(network, addr)
	}}
	c, _, err := d.Dial(fmt.Sprintf("ws://%s/%d", addr, id), nil)
	if err != nil {
		return err
	}
	defer c.Close()
	var sizes []int
	for range 1 + r.IntN(40) {
		sizes = append(sizes, r.IntN(1<<(4+r.IntN(13))))
	}
	abort := r.IntN(4) == 0
	stop := len(sizes)
	if abort {
		stop = 1 + r.IntN(len(sizes)) // who leaves before it was accepted is not seen by the program
	}

	sent := make(chan int64, 1)
	go func() { // ahead of the reader
		total := int64(0)
		for i, size := range sizes {
			if c.WriteMessage(websocket.BinaryMessage, payload(id, i, size)) != nil {
				break
			}
			total += int64(size)
		}
		sent <- total
	}()
	c.SetReadDeadline(time.Now().Add(30 * time.Second))
	for i, size := range sizes[:stop] {
		if slow && time.Now().Before(until) {
			time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
		}
		_, p, err := c.ReadMessage()
		if err != nil {
			return fmt.Errorf("socket %d, message %d of %d: %w", id, i, len(sizes), err)
		}
		if !bytes.Equal(p, payload(id, i, size)) {
			return fmt.Errorf("socket %d, message %d: the echo differs", id, i)
		}
	}
	if abort {
		c.NetConn().(*net.TCPConn).SetLinger(0)
		c.Close()
		total := <-sent
		for _, size := range sizes { // what the last write did not finish may have come
			total += int64(size)
		}
		return l.check(id, total, false)
	}
	total := <-sent
	c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(5*time.Second))
	if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 1000) {
		return fmt.Errorf("socket %d: %w", id, err)
	}
	return l.check(id, total, true)
}

// TestSoak has many clients send messages of all sizes, half of them read slowly, a quarter of them are gone without a
// word. FOYER_SOAK says for how long, FOYER_SOAK_CLIENTS with how many. What a first, shorter load leaves behind (pools,
// the runtime's own stacks) is the measure for what the second may.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes its time")
	}
	clients := 200
	if s := os.Getenv("FOYER_SOAK_CLIENTS"); s != "" {
		clients, _ = strconv.Atoi(s)
	}
	d := duration(t, "FOYER_SOAK", 4*time.Second)
	l, h, addr := serveLedger(t)
	l.load(t, addr, clients, time.Now().Add(d/4))
	goroutines, before := l.settle(h)
	l.load(t, addr, clients, time.Now().Add(d))

	st := h.Stats()
	t.Logf("%d sockets, %d messages in, %d out, %d MiB in, %d MiB out", st.Upgraded, st.MessagesIn, st.MessagesOut, st.BytesIn>>20, st.BytesOut>>20)
	told := uint64(0)
	for _, n := range st.Closed {
		told += n
	}
	if st.Upgraded != uint64(l.opened.Load()) || told != st.Upgraded || l.endings != st.Upgraded {
		t.Errorf("%d sockets opened, %d upgraded, %d ends counted, %d told", l.opened.Load(), st.Upgraded, told, l.endings)
	}
	goroutinesAfter, after := l.settle(h)
	t.Logf("goroutines: %d, then %d; bytes in use: %d, then %d", goroutines, goroutinesAfter, before, after)
	if goroutinesAfter > goroutines+5 || after > before+1<<20 {
		t.Error("that has grown")
	}
}

// load runs clients until then.
func (l *ledger) load(t *testing.T, addr string, clients int, until time.Time) {
	var failed atomic.Int64
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for time.Now().Before(until) && failed.Load() < 10 {
				if err := converse(l, addr, int(l.opened.Add(1)), r, i%2 == 0, until); err != nil {
					failed.Add(1)
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// settle waits until nothing of the sockets is left and returns the number of goroutines and the bytes in use.
func (l *ledger) settle(h *foyer.Handler) (goroutines int, heap uint64) {
	for range 500 {
		if h.Stats().Open == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(2 * time.Second)
	l.mu.Lock()
	l.received, l.ended = make(map[int]int64), make(map[int]int)
	l.mu.Unlock()
	for range 3 {
		runtime.GC() // a pool gives its contents back at the second
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return runtime.NumGoroutine(), m.HeapAlloc
}

// TestChurn opens sockets, leaves them idle for a while, has them echo, and closes them from either side, at random.
// FOYER_CHURN says for how long, FOYER_CHURN_SOCKETS how many it takes at the least.
func TestChurn(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes its time")
	}
	atLeast := int64(500)
	if s := os.Getenv("FOYER_CHURN_SOCKETS"); s != "" {
		atLeast, _ = strconv.ParseInt(s, 10, 64)
	}
	until := time.Now().Add(duration(t, "FOYER_CHURN", 3*time.Second))
	h := &foyer.Handler{}
	var ended atomic.Int64
	go func() {
		for s := range h.Incoming(context.Background()) {
			s.Handle(foyer.Events{
				Message: func(s *foyer.Socket, typ foyer.MessageType, p []byte) {
					if string(p) == "close" {
						s.Close(4000, "")
						return
					}
					s.Write(context.Background(), typ, p)
				},
				Closed: func(*foyer.Socket, foyer.CloseCode, string) { ended.Add(1) },
			})
		}
	}()
	srv := &foyer.Server{Handler: h}
	if err := srv.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer srv.Close()

	var opened, echoes, failed, open, most atomic.Int64
	var wg sync.WaitGroup
	for worker := range 1000 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), 2))
			for (time.Now().Before(until) || opened.Load() < atLeast) && failed.Load() < 10 {
				id := opened.Add(1)
				if n := open.Add(1); n > most.Load() {
					most.Store(n)
				}
				n, err := visit(srv.Addr().String(), int(id), r)
				open.Add(-1)
				echoes.Add(n)
				if err != nil {
					failed.Add(1)
					t.Errorf("socket %d: %v", id, err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d sockets, %d at the same time, %d echoes", opened.Load(), most.Load(), echoes.Load())
	for range 500 {
		if ended.Load() == opened.Load() && h.Stats().Open == 0 { // Closed may be called before the last bytes are out
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if st := h.Stats(); ended.Load() != opened.Load() || st.Open != 0 {
		t.Errorf("%d sockets opened, %d ended, %d open", opened.Load(), ended.Load(), st.Open)
	}
}

// visit opens a socket, has it echo after pauses of all lengths, and ends it in one of many ways.
func visit(addr string, id int, r *rand.Rand) (echoes int64, err error) {
	d := websocket.Dialer{HandshakeTimeout: 20 * time.Second, NetDial: func(network, addr string) (net.Conn, error) {
		from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+id%16))}}
		return from.Dial(network, addr)
	}}
	c, _, err := d.Dial("ws://"+addr+"/", nil)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	for range 1 + r.IntN(4) { // who leaves before it was accepted is not seen by the program
		time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
		m := payload(id, 0, r.IntN(500))
		if err := c.WriteMessage(websocket.BinaryMessage, m); err != nil {
			return echoes, err
		}
		_, p, err := c.ReadMessage()
		if err != nil {
			return echoes, err
		}
		if !bytes.Equal(p, m) {
			return echoes, errors.New("the echo differs")
		}
		echoes++
	}
	switch r.IntN(4) {
	case 0: // at once
	case 1:
		c.NetConn().(*net.TCPConn).SetLinger(0)
	case 2:
		c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(5*time.Second))
		_, err = io.Copy(io.Discard, c.NetConn())
	case 3:
		c.WriteMessage(websocket.TextMessage, []byte("close"))
		if _, _, err = c.ReadMessage(); websocket.IsCloseError(err, 4000) {
			err = nil
		}
	}
	return echoes, err
}
