//go:build !js

// Restart is a server that a new process can replace while clients are connected. On SIGHUP it starts its own program
// again, which may be a newer one by now, and gives it the listening socket. As soon as that says that it serves, the old
// process accepts no more connections, closes its sockets with 1012 over the time of -spread, and exits. There is a
// process that accepts at every moment. If the new one does not come up, the old one goes on.
//
//	go run ./examples/restart -addr 127.0.0.1:8080 -spread 10s
//	kill -HUP $PID
//
// It also takes its listening socket from systemd, which keeps it open when the service is restarted:
//
//	# foyer.socket
//	[Socket]
//	ListenStream=8080
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/foyerws/foyer"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on, unless a listening socket is inherited")
	spread := flag.Duration("spread", 10*time.Second, "over what time sockets are closed when another process takes over")
	flag.Parse()
	log.SetPrefix(fmt.Sprintf("[%d] ", os.Getpid()))

	signals := make(chan os.Signal, 1) // before anybody knows of this process
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, os.Interrupt)
	h := &foyer.Handler{}
	s := &foyer.Server{Handler: h}
	if err := listen(s, *addr); err != nil {
		log.Fatal(err)
	}
	go h.ForEach(context.Background(), greet)
	log.Println("listening on", s.URL())
	tellParent()
	for received := range signals {
		if received != syscall.SIGHUP {
			break
		}
		if err := startSuccessor(s); err != nil {
			log.Println("no successor:", err)
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), *spread+10*time.Second)
		defer cancel()
		log.Println("retired:", s.Drain(ctx, *spread))
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	log.Println("shut down:", s.Shutdown(ctx))
}

// greet says which process this is, and then echoes.
func greet(ctx context.Context, s *foyer.Socket) {
	if s.SendText(ctx, strconv.Itoa(os.Getpid())) != nil {
		return
	}
	for {
		t, p, err := s.Read(ctx)
		if err != nil || s.Write(ctx, t, p) != nil {
			return
		}
	}
}

// The descriptors of a successor. The first is where systemd has it (sd_listen_fds(3)).
const (
	listenFD = 3
	readyFD  = 4
)

// listen has s listen on the socket that this process has inherited, or else on addr. systemd names the process that the
// socket is for; a predecessor cannot know that.
func listen(s *foyer.Server, addr string) error {
	pid := os.Getenv("LISTEN_PID")
	if os.Getenv("LISTEN_FDS") != "1" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return s.Listen("tcp", addr)
	}
	f := os.NewFile(listenFD, "listener")
	defer f.Close()
	return s.ListenFile(f)
}

// readyEnv tells a process that it has a predecessor.
const readyEnv = "FOYER_RESTART_READY"

// tellParent tells the predecessor that this process serves.
func tellParent() {
	if os.Getenv(readyEnv) != "" {
		ready := os.NewFile(readyFD, "ready")
		ready.WriteString("ready")
		ready.Close()
	}
}

// startSuccessor starts this program again, with the listening socket of s, and waits until it serves.
func startSuccessor(s *foyer.Server) error {
	path, err := os.Executable()
	if err != nil {
		return err
	}
	listener, err := s.File()
	if err != nil {
		return err
	}
	defer listener.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	defer theirs.Close()

	cmd := exec.Command(path, os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{listener, theirs}
	cmd.Env = append(os.Environ(), "LISTEN_FDS=1", "LISTEN_PID=", readyEnv+"=1")
	if err := cmd.Start(); err != nil {
		return err
	}
	go cmd.Wait()
	theirs.Close()
	ready.SetReadDeadline(time.Now().Add(10 * time.Second))
	if said, err := io.ReadAll(ready); err != nil || string(said) != "ready" {
		cmd.Process.Kill()
		return errors.Join(errors.New("it does not serve"), err)
	}
	return nil
}
