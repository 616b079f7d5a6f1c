//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/foyerws/foyer"
	_ "github.com/foyerws/foyer/extendedconnect"
)

// stats are what a server tells of itself.
type stats struct{ Open, Pending, Goroutines, Files int }

// serve is the process that is attacked. /echo echoes, /news sends for ever, and sockets at /ignored are not accepted.
func serve(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	files := flags.Uint64("files", 0, "most open files (0: as many as the system allows)")
	memory := flags.Int64("memory", 0, "GOMEMLIMIT in bytes (0: none)")
	maxWrite := flags.Int("max-write", 0, "MaxWriteBuffer (0: the default)")
	compression := flags.Bool("compression", false, "negotiate permessage-deflate")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	if *files > 0 {
		limit.Cur = *files
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if *memory > 0 {
		debug.SetMemoryLimit(*memory)
	}

	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil))) // lines are made, as by default, and not shown
	h := &foyer.Handler{MaxWriteBuffer: *maxWrite}
	if *compression {
		h.Compression = foyer.CompressionContextTakeover
	}
	news := &room{sockets: make(map[*foyer.Socket]struct{})}
	go news.tell()
	go func() {
		for s := range h.Incoming(context.Background()) {
			if s.Request().URL.Path == "/news" {
				news.join(s)
			}
			s.Handle(foyer.Events{
				Message: func(s *foyer.Socket, t foyer.MessageType, p []byte) { s.Write(context.Background(), t, p) },
				Closed:  func(s *foyer.Socket, _ foyer.CloseCode, _ string) { news.leave(s) },
			})
		}
	}()
	ignored := &foyer.Handler{} // whose sockets nobody accepts
	s := &foyer.Server{Handler: h}
	if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	full := &foyer.Server{Handler: ignored}
	if err := full.Listen("tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	web := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0)}
	web.Protocols.SetUnencryptedHTTP2(true)
	if err := foyer.EnableHTTP2(web); err != nil {
		return err
	}
	go web.Serve(l)
	fmt.Println(s.Addr(), full.Addr(), l.Addr())

	for asked := bufio.NewScanner(os.Stdin); asked.Scan(); {
		b, err := json.Marshal(stats{h.Stats().Open + ignored.Stats().Open, ignored.Pending(), runtime.NumGoroutine(), openFiles()})
		if err != nil {
			return err
		}
		fmt.Println(string(b))
	}
	return nil
}

// A room is sockets that are sent news.
type room struct {
	mu      sync.Mutex
	sockets map[*foyer.Socket]struct{}
}

func (r *room) join(s *foyer.Socket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sockets[s] = struct{}{}
}

func (r *room) leave(s *foyer.Socket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sockets, s)
}

// tell sends news all the time.
func (r *room) tell() {
	news := bytes.Repeat([]byte("news "), 800)
	for range time.Tick(50 * time.Millisecond) {
		r.mu.Lock()
		foyer.Broadcast(maps.Keys(r.sockets), foyer.Text, news)
		r.mu.Unlock()
	}
}

func openFiles() int {
	files, _ := os.ReadDir("/proc/self/fd")
	return len(files)
}
