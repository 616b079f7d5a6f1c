//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// A broker is the process that carries messages between nodes. The zero value is none.
type broker struct {
	cmd     *exec.Cmd
	folder  string // of what it stores
	addr    string // host and port
	monitor string // where NATS tells what it does
	profile string // where NATS tells what memory it uses
}

// startBroker starts NATS or Redis on free ports, and returns when it takes connections.
func startBroker(kind string) (b broker, err error) {
	if kind == "" {
		return b, nil
	}
	port, err := freePort()
	if err != nil {
		return b, err
	}
	if b.folder, err = os.MkdirTemp("", "foyer-bench-"); err != nil {
		return b, err
	}
	b.addr = net.JoinHostPort("127.0.0.1", port)
	if kind == "nats" {
		err = b.runNATS(port)
	} else {
		err = b.run("redis-server", "--bind", "127.0.0.1", "--port", port, "--dir", b.folder, "--save", "", "--appendonly", "no")
	}
	if err != nil {
		b.end()
		return broker{}, err
	}
	return b, nil
}

func (b *broker) runNATS(port string) error {
	path, err := buildNATS()
	if err != nil {
		return err
	}
	monitor, err := freePort()
	if err != nil {
		return err
	}
	profile, err := freePort()
	if err != nil {
		return err
	}
	b.monitor, b.profile = "http://127.0.0.1:"+monitor, "http://127.0.0.1:"+profile
	return b.run(path, "--addr", "127.0.0.1", "--port", port, "--http_port", monitor, "--profile", profile,
		"--jetstream", "--store_dir", b.folder)
}

// buildNATS builds the server in the version of go.mod.
var buildNATS = sync.OnceValues(func() (string, error) {
	path := filepath.Join(os.TempDir(), "foyer-bench-nats-server")
	cmd := exec.Command("go", "build", "-o", path, "github.com/nats-io/nats-server/v2")
	cmd.Dir, cmd.Stderr = sourceDir(), os.Stderr
	return path, cmd.Run()
})

// run starts the process, and waits until it takes connections.
func (b *broker) run(name string, args ...string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return errNotInstalled
	}
	cmd := exec.Command(path, args...)
	if err := startOn(cmd, serverCore); err != nil {
		return err
	}
	b.cmd = cmd
	for range 500 {
		conn, err := net.Dial("tcp", b.addr)
		if err == nil {
			return conn.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("%s does not start", path)
}

// freePort returns a port that nobody listens on. It is below those that the kernel gives to connections, so that none of the
// load generator's takes it before the broker does.
func freePort() (port string, err error) {
	for range 100 {
		port = strconv.Itoa(20_000 + rand.IntN(12_000))
		var l net.Listener
		if l, err = net.Listen("tcp4", "127.0.0.1:"+port); err == nil {
			return port, l.Close()
		}
	}
	return "", err
}

func (b *broker) end() {
	if b.cmd != nil {
		end(b.cmd)
	}
	if b.folder != "" {
		os.RemoveAll(b.folder)
	}
}

// pid returns that of the process, or 0.
func (b *broker) pid() int {
	if b.cmd == nil {
		return 0
	}
	return b.cmd.Process.Pid
}

// A natsState is what NATS tells at its monitoring port.
type natsState struct {
	Subscriptions int   `json:"subscriptions"`
	OutMessages   int64 `json:"out_msgs"`
	OutBytes      int64 `json:"out_bytes"`
}

func (b *broker) state() (s natsState, err error) {
	answer, err := http.Get(b.monitor + "/varz")
	if err != nil {
		return s, err
	}
	defer answer.Body.Close()
	return s, json.NewDecoder(answer.Body).Decode(&s)
}

// heap has NATS collect its garbage, and returns the bytes of what is left.
func (b *broker) heap() (n int64, err error) {
	answer, err := http.Get(b.profile + "/debug/pprof/heap?debug=1&gc=1")
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(text, []byte("# HeapAlloc = "))
	_, err = fmt.Fscan(bytes.NewReader(rest), &n)
	return n, err
}
