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

// A cluster is NATS servers, and nodes with members.
type cluster struct {
	folder  string
	servers []*server
	nodes   []*process
	addrs   []string // of the nodes

	mu   sync.Mutex // guards:
	down map[int]bool
}

// A server is a NATS server, with lines to the others that can be cut.
type server struct {
	process
	url   string
	lines []*line.Line
}

var natsServer = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "tool", "-n", "nats-server").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("nats-server: %w\n%s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
})

// start starts servers and three nodes. Each node knows all servers, or only its own.
func start(servers int, apart bool) (c *cluster, err error) {
	folder, err := os.MkdirTemp("", "foyer-cluster")
	if err != nil {
		return nil, err
	}
	c = &cluster{folder: folder, down: make(map[int]bool)}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	if err := c.startNATS(servers); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	for i := range 3 {
		var urls []string
		for k, s := range c.servers {
			if !apart || k == i {
				urls = append(urls, s.url)
			}
		}
		addr := "127.0.0.1:" + freePort()
		n := &process{name: self, args: []string{"node", "-addr", addr, "-nats", strings.Join(urls, ","), "-replicas", fmt.Sprint(servers)}}
		if err := n.start(); err != nil {
			return nil, err
		}
		c.nodes, c.addrs = append(c.nodes, n), append(c.addrs, addr)
	}
	for i := range c.nodes {
		if err := c.awaitReady(i); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *cluster) startNATS(servers int) error {
	binary, err := natsServer()
	if err != nil {
		return err
	}
	var routes []string // addresses of the servers, for the others
	for range servers {
		routes = append(routes, "127.0.0.1:"+freePort())
	}
	for i := range servers {
		s := &server{url: "nats://127.0.0.1:" + freePort()}
		config := fmt.Sprintf("listen: %q\nserver_name: s%d\njetstream { store_dir: %q }\n", strings.TrimPrefix(s.url, "nats://"), i, filepath.Join(c.folder, fmt.Sprint(i)))
		if servers > 1 {
			var others []string
			for k, route := range routes {
				if k == i {
					continue
				}
				l, err := line.New(route)
				if err != nil {
					return err
				}
				s.lines = append(s.lines, l)
				others = append(others, "nats://"+l.Addr().String())
			}
			config += fmt.Sprintf("cluster { name: c, listen: %q, advertise: \"127.0.0.1:1\", pool_size: -1, routes: [%s] }\n", routes[i], strings.Join(others, ", "))
		}
		file := filepath.Join(c.folder, fmt.Sprintf("%d.conf", i))
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return err
		}
		s.process = process{name: binary, args: []string{"-c", file, "-l", filepath.Join(c.folder, fmt.Sprintf("%d.log", i))}}
		if err := s.start(); err != nil {
			return err
		}
		c.servers = append(c.servers, s)
	}
	return nil
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
