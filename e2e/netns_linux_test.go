package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/foyerws/foyer"
)

// A cable joins two network namespaces that were made for the test.
type cable struct{ here, there string }

// plug makes namespaces and a cable between them. Their addresses are 10.99.0.1 and 10.99.0.2.
func plug(t *testing.T) *cable {
	t.Helper()
	ip := sbin(t, "ip")
	c := &cable{fmt.Sprintf("foyer%da", os.Getpid()), fmt.Sprintf("foyer%db", os.Getpid())}
	if out, err := exec.Command(ip, "netns", "add", c.here).CombinedOutput(); err != nil {
		missing(t, "network namespaces: "+string(out)) // not root, or a container
	}
	t.Cleanup(func() {
		exec.Command(ip, "netns", "del", c.here).Run()
		exec.Command(ip, "netns", "del", c.there).Run()
	})
	for _, command := range []string{
		"netns add " + c.there,
		"link add near netns " + c.here + " type veth peer name far netns " + c.there,
		"-n " + c.here + " addr add 10.99.0.1/24 dev near",
		"-n " + c.there + " addr add 10.99.0.2/24 dev far",
		"-n " + c.here + " link set near up",
		"-n " + c.there + " link set far up",
	} {
		c.ip(t, command)
	}
	return c
}

func (c *cable) ip(t *testing.T, command string) {
	t.Helper()
	if out, err := exec.Command(sbin(t, "ip"), strings.Fields(command)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", command, err, out)
	}
}

// pull pulls the cable out, for a while.
func (c *cable) pull(t *testing.T, d time.Duration) {
	c.ip(t, "-n "+c.there+" link set far down")
	time.Sleep(d)
	c.ip(t, "-n "+c.there+" link set far up")
}

// in runs f on a thread in a namespace: the sockets that it makes stay there.
func in(t *testing.T, namespace string, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		ns, err := os.Open("/run/netns/" + namespace)
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// dial connects from one namespace to the other.
func (c *cable) dial(t *testing.T, addr string) *foyer.Socket {
	t.Helper()
	var conn net.Conn
	in(t, c.there, func() (err error) {
		conn, err = net.DialTimeout("tcp", addr, 10*time.Second)
		return err
	})
	s, _, err := foyer.Dial(shortly(t), "ws://"+addr+"/", &foyer.DialOptions{
		PingInterval: 200 * time.Millisecond, PongTimeout: time.Second,
		NetDial: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Abort() })
	return s
}

func TestNetwork(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes its time")
	}
	c := plug(t)
	ends := make(chan error, 10)
	h := &foyer.Handler{PingInterval: 200 * time.Millisecond, PongTimeout: time.Second}
	t.Cleanup(func() { h.Close() })
	go func() {
		for s := range h.Incoming(context.Background()) {
			s.Handle(foyer.Events{
				Message: func(s *foyer.Socket, t foyer.MessageType, p []byte) { s.Write(context.Background(), t, p) },
				Closed:  func(s *foyer.Socket, _ foyer.CloseCode, _ string) { ends <- s.Err() },
			})
		}
	}()
	var l net.Listener
	in(t, c.here, func() (err error) {
		l, err = net.Listen("tcp", "10.99.0.1:0")
		return err
	})
	srv := &foyer.Server{Handler: h}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	exchange := func(s *foyer.Socket) {
		t.Helper()
		message := bytes.Repeat([]byte("x"), 100000)
		go s.SendBinary(t.Context(), message)
		if _, p, err := s.Read(shortly(t)); err != nil || !bytes.Equal(p, message) {
			t.Fatal(len(p), err)
		}
	}

	s := c.dial(t, l.Addr().String())
	exchange(s)
	c.pull(t, 100*time.Millisecond) // too short for anybody to notice
	exchange(s)

	// Longer than keepalive: both ends must find out by themselves, while data is under way.
	begin := time.Now()
	go c.pull(t, 4*time.Second)
	time.Sleep(200 * time.Millisecond)
	s.TryWrite(foyer.Text, []byte("into the void"))
	if _, _, err := s.Read(shortly(t)); !errors.Is(err, foyer.ErrPingTimeout) {
		t.Errorf("client: %v", err)
	}
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("the client took %v to find out", took)
	}
	select {
	case err := <-ends:
		if !errors.Is(err, foyer.ErrPingTimeout) {
			t.Errorf("server: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the server has not found out")
	}
	time.Sleep(time.Until(begin.Add(5 * time.Second)))
	exchange(c.dial(t, l.Addr().String()))

	t.Run("netem", func(t *testing.T) { // where the kernel has it, which no package brings
		out, err := exec.Command(sbin(t, "tc"), "-n", c.there, "qdisc", "add", "dev", "far", "root", "netem", "delay", "20ms", "10ms", "loss", "3%").CombinedOutput()
		if err != nil {
			t.Logf("no netem: %s", out)
			return
		}
		s := c.dial(t, l.Addr().String())
		for range 20 {
			exchange(s)
		}
	})
}
