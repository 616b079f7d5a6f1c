//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
)

// A generation is a process and those that take over from it, which write to the same log.
type generation struct {
	url     string
	first   *exec.Cmd
	log     chan string
	started []int // process ids
}

// build builds the example.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "restart")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// start runs the example for the time of the test.
func start(t *testing.T, spread time.Duration) *generation {
	t.Helper()
	g := &generation{first: exec.Command(build(t), "-addr", "127.0.0.1:0", "-spread", spread.String()), log: make(chan string, 1000)}
	stderr, err := g.first.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.first.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(stderr); lines.Scan(); { // until the last process has gone
			g.log <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		for _, pid := range g.started {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		<-ended
		g.first.Wait()
	})
	g.url = strings.TrimPrefix(g.wait(t, `listening on .*`), "listening on ")
	return g
}

// wait waits for a line and returns what of it matches.
func (g *generation) wait(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for patience := time.After(30 * time.Second); ; {
		select {
		case line := <-g.log:
			if strings.Contains(line, "listening on") {
				pid, _ := strconv.Atoi(line[1:strings.Index(line, "]")])
				g.started = append(g.started, pid)
			}
			if found := re.FindString(line); found != "" {
				return found
			}
		case <-patience:
			t.Fatalf("the log does not say %q", pattern)
		}
	}
}

// A swarm is clients that come back when their socket is closed.
type swarm struct {
	url string
	ctx context.Context
	wg  sync.WaitGroup

	mu     sync.Mutex
	at     map[string]int // clients by the process that serves them
	closed []time.Time    // when a socket was closed for a restart
	failed []error
}

func (w *swarm) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx.Err() == nil {
		w.failed = append(w.failed, err)
	}
}

// client keeps a socket open, and talks on it.
func (w *swarm) client() {
	for w.ctx.Err() == nil {
		s, pid, err := w.dial()
		if err != nil {
			w.fail(err)
			return
		}
		w.count(pid, 1)
		for err == nil {
			if err = s.SendText(w.ctx, "are you there"); err != nil {
				break
			}
			if _, _, err = s.Read(w.ctx); err == nil {
				ctx, cancel := context.WithTimeout(w.ctx, 200*time.Millisecond)
				if _, _, err = s.Read(ctx); errors.Is(err, context.DeadlineExceeded) {
					err = nil
				}
				cancel()
			}
		}
		if w.ctx.Err() != nil {
			s.Abort()
			return
		}
		<-s.Done()
		w.count(pid, -1)
		var end *foyer.CloseError
		if errors.As(s.Err(), &end) && end.Code != foyer.CloseServiceRestart {
			w.fail(fmt.Errorf("a socket ended with %w", s.Err()))
		}
		w.mu.Lock()
		w.closed = append(w.closed, time.Now())
		w.mu.Unlock()
	}
}

// dial opens a socket and is told the process.
func (w *swarm) dial() (*foyer.Socket, string, error) {
	s, _, err := foyer.Dial(w.ctx, w.url, nil)
	if err != nil {
		return nil, "", err
	}
	_, p, err := s.Read(w.ctx)
	return s, string(p), err
}

// caller opens sockets all the time and closes them.
func (w *swarm) caller() {
	for w.ctx.Err() == nil {
		s, _, err := w.dial()
		if err != nil {
			w.fail(err)
			return
		}
		s.Close(foyer.CloseNormalClosure, "")
		<-s.Done()
	}
}

func (w *swarm) count(pid string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at[pid] += n
}

// serves reports whether process pid has n clients, and nobody else any.
func (w *swarm) serves(pid, n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for at, count := range w.at {
		if at != strconv.Itoa(pid) && count > 0 {
			return false
		}
	}
	return w.at[strconv.Itoa(pid)] == n
}

// TestRestart has 500 clients see a new process, and another, take over: nobody is refused, and all come back, a few at a
// time. Others connect without a pause meanwhile.
func TestRestart(t *testing.T) {
	const clients, spread = 500, 2 * time.Second
	g := start(t, spread)
	ctx, stop := context.WithCancel(t.Context())
	w := &swarm{url: g.url, ctx: ctx, at: make(map[string]int)}
	defer w.wg.Wait()
	defer stop()
	for range clients {
		w.wg.Go(w.client)
	}
	for range 3 {
		w.wg.Go(w.caller)
	}
	w.await(t, g.started[0], clients)
	for round := range 2 {
		old := g.started[round]
		begin := time.Now()
		syscall.Kill(old, syscall.SIGHUP)
		g.wait(t, `listening on`)
		if got := g.wait(t, `retired: .*`); got != "retired: <nil>" {
			t.Error(got)
		}
		w.await(t, g.started[round+1], clients)

		w.mu.Lock()
		var tenths [11]int
		for _, at := range w.closed {
			tenths[min(int(at.Sub(begin)*10/spread), 10)]++
		}
		if len(w.closed) != clients || slices.Max(tenths[:]) > clients/3 {
			t.Errorf("%d sockets were closed, by tenths of the time %v", len(w.closed), tenths)
		}
		t.Logf("process %d took over from %d: %d clients came back, closed by tenths of %v: %v", g.started[round+1], old, clients, spread, tenths)
		w.closed = nil
		w.mu.Unlock()
	}
	if err := g.first.Wait(); err != nil {
		t.Error("the first process ended with", err)
	}
	stop()
	w.wg.Wait()
	if len(w.failed) > 0 {
		t.Errorf("%d failures, the first: %v", len(w.failed), w.failed[0])
	}
}

func (w *swarm) await(t *testing.T, pid, n int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !w.serves(pid, n); {
		if time.Now().After(deadline) {
			w.mu.Lock()
			defer w.mu.Unlock()
			t.Fatalf("not all clients are at %d: %v, %v", pid, w.at, w.failed)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A successor that does not come up changes nothing.
func TestNoSuccessor(t *testing.T) {
	g := start(t, 0)
	if err := os.WriteFile(g.first.Path+".new", []byte("#!/bin/false\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(g.first.Path+".new", g.first.Path); err != nil { // as a deployment does
		t.Fatal(err)
	}
	s, _, err := foyer.Dial(t.Context(), g.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Abort()
	syscall.Kill(g.started[0], syscall.SIGHUP)
	g.wait(t, `no successor: .*`)
	if _, p, err := s.Read(t.Context()); err != nil || string(p) != strconv.Itoa(g.started[0]) {
		t.Error(string(p), err)
	}
	s.Close(foyer.CloseNormalClosure, "")
	if end := foyertest.Ended(t, s); end.Code != foyer.CloseNormalClosure {
		t.Error(end)
	}
}

// systemd gives the socket to the process that it names.
func TestSocketActivation(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec "$0"`, build(t))
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l.Close()
	f.Close()
	s, _, err := foyer.Dial(t.Context(), "ws://"+l.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, p, err := s.Read(t.Context()); err != nil || string(p) != strconv.Itoa(cmd.Process.Pid) {
		t.Error(string(p), err)
	}
	s.Abort()
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
