//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/foyerws/foyer/e2e/line"
)

// tools are the programs that are run, and a folder for all files.
type tools struct {
	folder     string
	node, nats string
	jumping    bool // these have clocks that can jump
}

func findTools(folder string) (*tools, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	out, err := exec.Command("go", "tool", "-n", "nats-server").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("nats-server: %w\n%s", err, out)
	}
	return &tools{folder, self, strings.TrimSpace(string(out)), false}, nil
}

// A cluster is NATS servers, and nodes with members.
type cluster struct {
	*tools
	fault   *fault
	folder  string
	wires   *wires // nil if there are lines
	servers []*server
	nodes   []*process
	addrs   []string // of the nodes

	mu   sync.Mutex // guards:
	down map[int]bool

	processes int // so far
}

// A server is a NATS server, with lines to the others that can be cut.
type server struct {
	process
	url   string
	lines []*line.Line
}

// start starts servers and three nodes. Each node knows all servers, or only its own.
func start(t *tools, f *fault) (*cluster, error) {
	folder, err := os.MkdirTemp(t.folder, "cluster")
	if err != nil {
		return nil, err
	}
	c := &cluster{tools: t, fault: f, folder: folder, down: make(map[int]bool)}
	if err := c.startAll(); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

func (c *cluster) startAll() (err error) {
	f := c.fault
	if f.wired {
		if c.wires, err = layWires(f.servers); err != nil {
			return err
		}
	}
	if err := c.startNATS(f.servers); err != nil {
		return err
	}
	for i := range 3 {
		var urls []string
		for k, s := range c.servers {
			if !f.apart || k == i {
				urls = append(urls, s.url)
			}
		}
		addr := "127.0.0.1:" + freePort()
		n, err := c.process(c.node, "node", "-addr", addr, "-nats", strings.Join(urls, ","), "-replicas", fmt.Sprint(f.servers))
		if err != nil {
			return err
		}
		if err := n.start(); err != nil {
			return err
		}
		c.nodes, c.addrs = append(c.nodes, n), append(c.addrs, addr)
	}
	for i := range c.nodes {
		if err := c.awaitReady(i); err != nil {
			return err
		}
	}
	return nil
}

// process prepares a process, which has a clock of its own.
func (c *cluster) process(name string, args ...string) (*process, error) {
	c.processes++
	p := &process{name: name, args: args, clock: clock(filepath.Join(c.folder, fmt.Sprintf("clock%d", c.processes)))}
	return p, p.clock.jump(0)
}

func (c *cluster) startNATS(servers int) error {
	var listen, routes []string // addresses for clients, and for the other servers
	for i := range servers {
		if c.wires != nil {
			listen, routes = append(listen, clientHost(i)+":4222"), append(routes, routeHost(i)+":6222")
		} else {
			listen, routes = append(listen, "127.0.0.1:"+freePort()), append(routes, "127.0.0.1:"+freePort())
		}
	}
	for i := range servers {
		s := &server{url: "nats://" + listen[i]}
		config := fmt.Sprintf("listen: %q\nserver_name: s%d\njetstream { store_dir: %q }\n", listen[i], i, filepath.Join(c.folder, fmt.Sprint(i)))
		if servers > 1 {
			others, advertise, err := c.routes(s, routes, i)
			if err != nil {
				return err
			}
			config += fmt.Sprintf("cluster { name: c, listen: %q, advertise: %q, pool_size: -1, routes: [%s] }\n", routes[i], advertise, strings.Join(others, ", "))
		}
		file := filepath.Join(c.folder, fmt.Sprintf("%d.conf", i))
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return err
		}
		name, args := c.nats, []string{"-c", file, "-l", filepath.Join(c.folder, fmt.Sprintf("%d.log", i))}
		if c.wires != nil {
			name, args = c.wires.within(i, name, args)
		}
		p, err := c.process(name, args...)
		if err != nil {
			return err
		}
		s.process = *p
		if err := s.start(); err != nil {
			return err
		}
		c.servers = append(c.servers, s)
	}
	return nil
}

// routes returns how a server finds the others, and what it says of itself.
func (c *cluster) routes(s *server, addrs []string, i int) (others []string, advertise string, err error) {
	for k, addr := range addrs {
		switch {
		case k == i:
		case c.wires != nil:
			others = append(others, "nats://"+addr)
		default:
			l, err := line.New(addr)
			if err != nil {
				return nil, "", err
			}
			s.lines = append(s.lines, l)
			others = append(others, "nats://"+l.Addr().String())
		}
	}
	if c.wires != nil {
		return others, addrs[i], nil
	}
	return others, "127.0.0.1:1", nil // or else the others would find a way past the lines
}

func (c *cluster) awaitReady(i int) error {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get("http://" + c.addrs[i] + "/ready")
		if err != nil {
			continue
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
	}
	return fmt.Errorf("node %d is not ready in 30 s", i)
}

func (c *cluster) stop() {
	for _, n := range c.nodes {
		n.end(syscall.SIGKILL)
	}
	for _, s := range c.servers {
		s.end(syscall.SIGKILL)
		for _, l := range s.lines {
			l.Close()
		}
	}
	if c.wires != nil {
		c.wires.remove()
	}
	os.RemoveAll(c.folder)
}

// setDown says whether a balancer would send nobody to a node.
func (c *cluster) setDown(i int, down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down[i] = down
}

// choose returns the address of a node that is up, the i-th if that is.
func (c *cluster) choose(i int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.addrs {
		if n := (i + k) % len(c.addrs); !c.down[n] {
			return c.addrs[n]
		}
	}
	return c.addrs[0]
}

// leader returns the number of the server that leads the stream.
func (c *cluster) leader() (int, error) {
	nc, err := nats.Connect(c.servers[0].url)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s, err := js.Stream(ctx, "rooms")
	if err != nil {
		return 0, err
	}
	var n int
	if s.CachedInfo().Cluster == nil {
		return 0, errors.New("the stream has no leader")
	}
	_, err = fmt.Sscanf(s.CachedInfo().Cluster.Leader, "s%d", &n)
	return n, err
}

func freePort() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}
