//go:build linux

package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/foyerws/foyer"
	_ "github.com/foyerws/foyer/extendedconnect"
)

// A server is one of those that are compared. It echoes at /, and sends what comes at /broadcast to everybody there.
type server struct {
	name   string
	about  string
	serve  func(o options) error // nil: a program of its own
	lacks  []string              // workloads it has no part in
	broker string                // what carries messages between its nodes: "nats", "redis", or "" for a single node
}

// options say what a server is measured with.
type options struct {
	deflate bool
	tls     *tls.Config
	broker  string // its address
}

// listen listens as most programs do, and tells where.
func (o options) listen() (net.Listener, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err == nil {
		announce(l.Addr())
	}
	return l, err
}

// announce tells the parent process where the server listens.
func announce(addr net.Addr) { fmt.Println(addr.(*net.TCPAddr).Port) }

// onlyRooms are the workloads that a server of rooms has no part in: it does not echo.
var onlyRooms = []string{"handshake", "storm", "pingpong", "pipelined", "large", "long", "fragmented", "crowd", "idle", "tls", "compressed"}

// servers are in the order of the table.
var servers = []server{
	{name: "foyer", about: "Server, Events", serve: serveFoyer},
	{name: "foyer-http", about: "net/http, Events", serve: serveFoyerHTTP},
	{name: "foyer-read", about: "Server, Read and Write", serve: serveFoyerRead},
	{name: "foyer-accept", about: "net/http, Accept, Read and Write", serve: serveFoyerAccept,
		lacks: []string{"handshake", "pingpong", "pipelined", "large", "long", "fragmented", "crowd", "idle", "broadcast", "tls", "compressed"}},
	{name: "foyer-http2", about: "net/http, Events, HTTP/2", serve: serveFoyerHTTP,
		lacks: []string{"handshake", "pingpong", "pipelined", "large", "long", "fragmented", "crowd", "idle", "broadcast", "compressed"}},
	{name: "foyer-rooms", about: "Server, Events, a rooms.Hub", serve: serveFoyerRooms, lacks: onlyRooms},
	{name: "gorilla", about: "gorilla/websocket 1.5.3", serve: serveGorilla},
	{name: "gorilla-tuned", about: "gorilla/websocket 1.5.3 with WriteBufferPool and small buffers", serve: serveGorillaTuned},
	{name: "coder", about: "coder/websocket 1.8.15", serve: serveCoder},
	{name: "gws", about: "lxzan/gws 1.8.9", serve: serveGWS},
	{name: "gobwas", about: "gobwas/ws 1.4.0, buffered", serve: serveGobwas, lacks: []string{"compressed", "fragmented"}},
	{name: "nbio", about: "lesismal/nbio 1.6.8", lacks: []string{"tls"}},
	{name: "melody", about: "olahol/melody 1.1.4", serve: serveMelody, lacks: []string{"compressed"}},
	{name: "centrifuge", about: "centrifugal/centrifuge 0.40.1", serve: serveCentrifuge, lacks: onlyRooms},
	{name: "qt", about: "QWebSocketServer", lacks: []string{"tls", "compressed"}},
	{name: "bun", about: "Bun 1.4.5", lacks: []string{"tls", "compressed"}},
	{name: "tcp", about: "bare TCP echo, no WebSocket", serve: serveTCP,
		lacks: []string{"handshake", "storm", "fragmented", "idle", "broadcast", "tls", "compressed"}},
}

func (s *server) can(workload string) bool {
	if strings.HasPrefix(workload, "broadcast") || workload == "slow" {
		workload = "broadcast"
	}
	return !slices.Contains(s.lacks, workload)
}

var errNotInstalled = errors.New("not installed")

// command returns the program that serves.
func (s *server) command(workload, broker string) (*exec.Cmd, error) {
	switch s.name {
	case "qt":
		path, err := buildQt()
		return exec.Command(path), err
	case "bun":
		return bunCommand()
	case "nbio":
		path, err := buildNBIO()
		return exec.Command(path, "serve", s.name, workload, broker), err
	}
	self, err := os.Executable()
	return exec.Command(self, "serve", s.name, workload, broker), err
}

// bunCommand finds what npm ci has installed in the folder bun beside this file. The program is where npm puts it, or
// where the package's script has moved it to, which npm may not let run.
func bunCommand() (*exec.Cmd, error) {
	dir := filepath.Join(sourceDir(), "bun")
	installed, err := filepath.Glob(dir + "/node_modules/@oven/bun-linux-*/bin/bun")
	if err != nil {
		return nil, err
	}
	for _, path := range append(installed, dir+"/node_modules/.bin/bun") {
		if exec.Command(path, "--version").Run() == nil {
			return exec.Command(path, dir+"/echo.js"), nil
		}
	}
	return nil, errNotInstalled
}

// sourceDir returns the folder of this file.
func sourceDir() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(file)
}

// nbio serves in a build of its own, see buildNBIO; nil in this one.
var nbio func(options) error

// buildNBIO builds this program with nbio in it. Whatever imports nbio spends twice the CPU time on long messages, and so
// would all others here.
var buildNBIO = sync.OnceValues(func() (string, error) {
	path := filepath.Join(os.TempDir(), "foyer-bench-nbio")
	cmd := exec.Command("go", "build", "-tags", "nbio", "-o", path, ".")
	cmd.Dir, cmd.Stderr = sourceDir(), os.Stderr
	return path, cmd.Run()
})

// buildQt compiles the C++ server, if Qt is there.
func buildQt() (string, error) {
	path := filepath.Join(os.TempDir(), "foyer-bench-qt")
	flags, err := exec.Command("pkg-config", "--cflags", "--libs", "Qt6WebSockets").Output()
	if err != nil {
		return "", errNotInstalled
	}
	sh := fmt.Sprintf("g++ -O2 -fPIC -x c++ - -x none -o %s %s", path, flags)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	cmd := exec.Command("sh", "-c", sh)
	cmd.Stdin, err = qtSource.Open("qt/echo.cpp")
	if err != nil {
		return "", err
	}
	cmd.Stderr = os.Stderr
	return path, cmd.Run()
}

// serveCommand is the server process: it prints its port, and on SIGUSR1 gives back what memory it can.
func serveCommand(args []string) error {
	name, workload := args[0], args[1]
	all := append(slices.Clip(servers), clusterServers...)
	i := slices.IndexFunc(all, func(s server) bool { return s.name == name })
	if i < 0 {
		return fmt.Errorf("no server %q", name)
	}
	if _, err := raiseFileLimit(); err != nil {
		return err
	}
	if path := os.Getenv("BENCH_PROFILE"); path != "" {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		pprof.StartCPUProfile(f)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGTERM)
	go func() {
		for s := range signals {
			if s == syscall.SIGTERM {
				pprof.StopCPUProfile()
				os.Exit(0)
			}
			debug.FreeOSMemory()
			fmt.Printf("gc goroutines=%d\n", runtime.NumGoroutine())
		}
	}()
	o := options{deflate: workload == "compressed", broker: args[2]}
	if workload == "tls" || name == "foyer-http2" {
		var err error
		if o.tls, err = selfSigned(); err != nil {
			return err
		}
	}
	if name == "nbio" {
		return nbio(o)
	}
	return all[i].serve(o)
}

// raiseFileLimit lets the process open as many files as it may, which root can extend, and returns how many that is.
func raiseFileLimit() (int, error) {
	limit := unix.Rlimit{Cur: 65536, Max: 65536}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		return int(limit.Cur), nil
	}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	limit.Cur = limit.Max
	return int(limit.Cur), unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
}

// serveHTTP serves h with net/http.
func serveHTTP(o options, h http.Handler) error {
	l, err := o.listen()
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: h, TLSConfig: o.tls}
	if err := foyer.EnableHTTP2(srv); err != nil {
		return err
	}
	if o.tls != nil {
		return srv.ServeTLS(l, "", "")
	}
	return srv.Serve(l)
}
