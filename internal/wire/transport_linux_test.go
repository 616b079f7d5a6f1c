package wire

import (
	"bytes"
	"context"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/foyerws/foyer/internal/netpoll"
)

// attendedPair returns a Conn over TCP whose owner is told of input by ready, never twice at once, and the other end.
func attendedPair(t *testing.T, ready func(*Conn)) (*Conn, net.Conn) {
	ours, theirs := tcpPair(t)
	c := New(ours, nil)
	var mu sync.Mutex
	c.Frame(&server, callbacks{ready: func(bool) {
		mu.Lock()
		defer mu.Unlock()
		ready(c)
	}})
	c.Open()
	c.DoNotWait(true)
	if !c.Attend() {
		t.Fatal("the descriptor was not taken")
	}
	t.Cleanup(func() { c.Close() })
	return c, theirs
}

func TestLoopIsTakenOverFromASlowOwner(t *testing.T) {
	release := make(chan struct{})
	_, slow := attendedPair(t, func(*Conn) { <-release })
	told := make(chan *Conn, 100)
	var others []net.Conn
	for range 2 * runtime.GOMAXPROCS(0) { // some share its loop
		_, theirs := attendedPair(t, func(c *Conn) {
			if c.Next() == nil {
				c.Skip()
			}
			told <- c
		})
		others = append(others, theirs)
	}
	slow.Write(text("hello"))
	for round := range 50 {
		for _, theirs := range others {
			theirs.Write(text("hello"))
		}
		for range others {
			select {
			case <-told:
			case <-time.After(5 * time.Second):
				t.Fatalf("round %d: not all were told", round)
			}
		}
	}
	close(release)
}

// TestManySlowOwners has owners block again and again: nothing that comes may be overlooked.
func TestManySlowOwners(t *testing.T) {
	const conns, messages = 20, 30
	var wg sync.WaitGroup
	wg.Add(conns * messages)
	for i := range conns {
		_, theirs := attendedPair(t, func(c *Conn) {
			if i%2 == 0 {
				time.Sleep(3 * time.Millisecond)
			}
			for c.Next() == nil {
				c.Skip()
				wg.Done()
			}
		})
		go func() {
			for k := range messages {
				theirs.Write(text("hello"))
				time.Sleep(time.Duration(k%5) * time.Millisecond)
			}
		}()
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("messages were lost")
	}
}

func TestCloseEndsAWait(t *testing.T) {
	for range 100 {
		ours, _ := tcpPair(t)
		c := framed(ours, nil, server, nil)
		waited := make(chan error, 1)
		go func() { waited <- c.Wait(t.Context()) }()
		if runtime.NumGoroutine()%2 == 0 {
			runtime.Gosched()
		}
		c.Close()
		select {
		case err := <-waited:
			if err != net.ErrClosed {
				t.Fatal(err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("still waiting")
		}
	}
}

func TestWithoutDescriptorsAConnectionIsUsedAsItIs(t *testing.T) {
	ours, theirs := tcpPair(t)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	none := old
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	c := framed(ours, nil, server, nil)
	unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	if c.Attend() {
		t.Error("a descriptor was taken where there was none")
	}
	theirs.Write(text("hello"))
	if err := c.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	c.Write([]byte("answer"))
	if p := make([]byte, 6); true {
		if _, err := io.ReadFull(theirs, p); err != nil || string(p) != "answer" {
			t.Error(string(p), err)
		}
	}
	c.Close()
}

func TestNetConnSharesTheSocket(t *testing.T) {
	ours, theirs := tcpPair(t)
	local, remote := ours.LocalAddr().String(), ours.RemoteAddr().String()
	c := framed(ours, nil, server, nil)
	conn := c.NetConn().(*net.TCPConn)
	if err := conn.SetNoDelay(false); err != nil || c.NetConn() != net.Conn(conn) {
		t.Error(err)
	}
	if conn.LocalAddr().String() != local || c.LocalAddr().String() != local || c.RemoteAddr().String() != remote {
		t.Error(conn.LocalAddr(), c.LocalAddr(), c.RemoteAddr())
	}
	c.Close()
	if _, err := theirs.Read(make([]byte, 1)); err != io.EOF {
		t.Error("the socket outlives its Conn:", err)
	}
	if c.LocalAddr().String() != local || c.RemoteAddr().String() != remote {
		t.Error("the addresses are forgotten")
	}
	ours, _ = tcpPair(t)
	c = framed(ours, nil, server, nil)
	c.Close()
	if _, err := c.NetConn().Write([]byte("x")); err == nil {
		t.Error("a closed socket can be written to")
	}
}

func TestReadDeadline(t *testing.T) {
	ours, theirs := tcpPair(t)
	c := framed(ours, nil, server, nil)
	c.SetDeadline(time.Now().Add(time.Hour))
	c.SetDeadline(time.Now().Add(10 * time.Millisecond))
	if err := c.Wait(t.Context()); !netpoll.IsTimeout(err) {
		t.Error(err)
	}
	ours, theirs = tcpPair(t)
	c = framed(ours, nil, server, nil)
	c.SetDeadline(time.Now().Add(time.Millisecond))
	c.SetDeadline(time.Time{})
	time.AfterFunc(20*time.Millisecond, func() { theirs.Write(text("hello")) })
	if err := c.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	c.Close()
}

// counter counts the writes to a connection.
type counter struct {
	script
	writes int
}

func (s *counter) Write(p []byte) (int, error) {
	s.mu.Lock()
	s.writes++
	s.mu.Unlock()
	return s.script.Write(p)
}

func (s *counter) state() (writes int, written string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes, s.written.String()
}

// TestWhatIsGatheredLeavesTogether if no other goroutine runs meanwhile, for which the scheduler gets several chances.
func TestWhatIsGatheredLeavesTogether(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var early, writes int
	for range 20 {
		s := &counter{script: script{reads: []any{append(text("one"), text("two")...)}}}
		c := framed(s, nil, server, nil)
		for range 2 {
			if err := c.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.Skip()
			if c.Unread() {
				c.Gather()
			}
			c.Send(&Frame{First: 1, Payload: []byte("answer")})
		}
		early, _ = s.state()
		c.Wait(t.Context()) // finds the end
		c.Flush(t.Context())
		var written string
		if writes, written = s.state(); written != "\x01\x06answer\x01\x06answer" {
			t.Fatalf("%q", written)
		}
		if early == 0 && writes == 1 {
			return
		}
	}
	t.Errorf("%d writes, %d of them while there was input", writes, early)
}

func TestGatheringEndsByItself(t *testing.T) {
	answer := &Frame{First: 1, Payload: []byte("answer")}
	for name, write := range map[string]func(*Conn){
		"the reader does not come back": func(c *Conn) {
			c.Send(answer)
		},
		"a flush": func(c *Conn) {
			c.Send(answer)
			c.Flush(t.Context())
		},
		"much": func(c *Conn) {
			c.Send(answer)
			c.Send(&Frame{Payload: bytes.Repeat([]byte("x"), gatherSize)})
		},
	} {
		ours, theirs := tcpPair(t)
		c := framed(ours, nil, server, nil)
		c.Gather()
		write(c)
		p := make([]byte, 8)
		theirs.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.ReadFull(theirs, p); err != nil || string(p) != "\x01\x06answer" {
			t.Errorf("%s: %q, %v", name, p, err)
		}
		c.Close()
	}
}

func TestSendSoon(t *testing.T) {
	const conns, messages = 10, 100
	var ours []*Conn
	var theirs []net.Conn
	for range conns {
		a, b := tcpPair(t)
		ours, theirs = append(ours, framed(a, nil, server, nil)), append(theirs, b)
	}
	for range messages {
		for _, c := range ours {
			c.Send(&Frame{First: 1, Payload: []byte("0123456789"), Leave: Batched})
		}
	}
	for i, conn := range theirs {
		got := make([]byte, 12*messages)
		if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, bytes.Repeat([]byte("\x01\x0a0123456789"), messages)) {
			t.Error(err)
		}
		ours[i].Close()
	}
}

func BenchmarkEcho(b *testing.B) {
	for _, size := range []int{100, 10000} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		theirs, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		ours, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		c := New(ours, nil)
		c.Frame(&server, callbacks{ready: func(bool) {
			c.GatherTurn()
			for c.Next() == nil {
				if p, ok := c.Whole(); ok {
					c.Send(&Frame{First: 2, Payload: p})
					c.Taken()
				}
			}
			c.Scatter()
		}})
		c.Open()
		c.Attend()
		c.DoNotWait(true)
		message := append([]byte{0x82, 0xfe, byte(size >> 8), byte(size), 0, 0, 0, 0}, make([]byte, size)...)
		if size < 126 {
			message = append([]byte{0x82, 0x80 | byte(size), 0, 0, 0, 0}, make([]byte, size)...)
		}
		got := make([]byte, len(message)-4)
		b.Run(map[int]string{100: "100B", 10000: "10kB"}[size], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				theirs.Write(message)
				if _, err := io.ReadFull(theirs, got); err != nil {
					b.Fatal(err)
				}
			}
		})
		c.Close()
		theirs.Close()
		l.Close()
	}
}

// Bytes that were queued when a gather begins leave though the reader does not come back.
func TestGatherDoesNotStrandWhatIsQueued(t *testing.T) {
	for name, gather := range map[string]func(*Conn){
		"while input is left": (*Conn).Gather,
		"on a loop that was taken over": func(c *Conn) {
			c.transport = crowded{c.transport}
			c.GatherTurn()
		},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := pair(t, "tcp", "127.0.0.1:0")
			c := framed(ours, nil, server, nil)
			defer c.Close()
			c.Send(&Frame{First: 1, Payload: []byte("queued before, "), Leave: WithNext})
			gather(c)
			c.Send(&Frame{First: 1, Payload: []byte("written behind")})
			theirs.SetReadDeadline(time.Now().Add(5 * time.Second))
			b := make([]byte, len("..queued before, ..written behind"))
			if _, err := io.ReadFull(theirs, b); err != nil {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
	t.Run("nothing behind", func(t *testing.T) {
		ours, theirs := pair(t, "tcp", "127.0.0.1:0")
		c := framed(ours, nil, server, nil)
		defer c.Close()
		c.Send(&Frame{First: 1, Payload: []byte("queued"), Leave: WithNext})
		c.Gather()
		theirs.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.ReadFull(theirs, make([]byte, 6)); err != nil {
			t.Error(err)
		}
	})
}

// A peer that never stops sending does not keep a reader whose context has ended.
func TestWaitHeedsItsContextWhileInputComes(t *testing.T) {
	const pongs = 10000
	ours, theirs := pair(t, "tcp", "127.0.0.1:0")
	theirs.Write(bytes.Repeat([]byte("\x8a\x80\x01\x02\x03\x04"), pongs))
	ctx, cancel := context.WithCancel(t.Context())
	seen := 0
	c := framed(ours, nil, server, func(byte, []byte) {
		if seen++; seen == 1 {
			time.Sleep(20 * time.Millisecond) // until all has come
			cancel()
			time.Sleep(20 * time.Millisecond)
		}
	})
	defer c.Close()
	if err := c.Wait(ctx); err != ErrInterrupted || seen == pongs {
		t.Error(err, seen)
	}
	c.DoNotWait(true)
	if err := c.Next(); err != ErrNothing || seen != pongs {
		t.Error("the rest:", err, seen)
	}
}

// crowded is the transport of an owner that was slow on the loop.
type crowded struct{ netpoll.Transport }

func (crowded) Crowded() bool { return true }
