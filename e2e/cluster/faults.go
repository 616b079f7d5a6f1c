//go:build linux

package main

import (
	"syscall"
	"time"

	"github.com/foyerws/foyer/e2e/line"
)

// A fault is something that breaks, and is mended.
type fault struct {
	name    string
	servers int  // of NATS
	apart   bool // each node has a server of its own
	wired   bool // the servers are in network namespaces
	jumping bool // clocks can be set
	clients int
	run     func(c *cluster) error
}

var faults = []fault{
	{name: "none", servers: 1, clients: 200, run: func(*cluster) error { return nil }},
	{name: "node killed", servers: 1, clients: 200, run: func(c *cluster) error {
		c.kill(1)
		time.Sleep(2 * time.Second)
		return c.restart(1)
	}},
	{name: "node stands still for 8 s", servers: 1, clients: 200, run: func(c *cluster) error {
		c.setDown(1, true)
		c.nodes[1].signal(syscall.SIGSTOP)
		time.Sleep(8 * time.Second)
		c.nodes[1].signal(syscall.SIGCONT)
		c.setDown(1, false)
		return nil
	}},
	{name: "NATS killed", servers: 1, clients: 200, run: func(c *cluster) error {
		c.servers[0].end(syscall.SIGKILL)
		time.Sleep(2 * time.Second)
		return c.servers[0].start()
	}},
	{name: "leader killed", servers: 3, clients: 200, run: func(c *cluster) error {
		i, err := c.leader()
		if err != nil {
			return err
		}
		c.servers[i].end(syscall.SIGKILL)
		time.Sleep(3 * time.Second)
		return c.servers[i].start()
	}},
	{name: "one server cut off for 20 s", servers: 3, apart: true, clients: 200, run: func(c *cluster) error { return c.cutOff((*line.Line).Pull, 20*time.Second) }},
	{name: "one server not heard for 8 s", servers: 3, apart: true, clients: 200, run: func(c *cluster) error { return c.cutOff((*line.Line).Hold, 8*time.Second) }},
	{name: "one server unplugged for 20 s", servers: 3, apart: true, wired: true, clients: 200, run: func(c *cluster) error { return c.unplug(2) }},
	{name: "leader unplugged for 20 s", servers: 3, apart: true, wired: true, clients: 200, run: func(c *cluster) error {
		i, err := c.leader()
		if err != nil {
			return err
		}
		return c.unplug(i)
	}},
	{name: "clock of a node jumps", servers: 1, jumping: true, clients: 200, run: func(c *cluster) error { return c.jump(c.nodes[1]) }},
	{name: "clock of NATS jumps", servers: 1, jumping: true, clients: 200, run: func(c *cluster) error { return c.jump(&c.servers[0].process) }},
	{name: "all nodes restarted in turn", servers: 1, clients: 1000, run: func(c *cluster) error {
		for i := range c.nodes {
			c.setDown(i, true)
			c.nodes[i].end(syscall.SIGTERM)
			if err := c.restart(i); err != nil {
				return err
			}
		}
		return nil
	}},
}

// kill kills a node.
func (c *cluster) kill(i int) {
	c.setDown(i, true)
	c.nodes[i].end(syscall.SIGKILL)
}

// restart starts a node again, and lets clients come to it.
func (c *cluster) restart(i int) error {
	if err := c.nodes[i].start(); err != nil {
		return err
	}
	if err := c.awaitReady(i); err != nil {
		return err
	}
	c.setDown(i, false)
	return nil
}

// cutOff does something to all lines between a NATS server and the others, for a while.
func (c *cluster) cutOff(cut func(l *line.Line, on bool), d time.Duration) error {
	const cutOff = 2
	for _, on := range []bool{true, false} {
		for k, s := range c.servers {
			for n, l := range s.lines {
				other := n // the lines of a server lead to the others, in order
				if n >= k {
					other++
				}
				if k == cutOff || other == cutOff {
					cut(l, on)
				}
			}
		}
		if on {
			time.Sleep(d)
		}
	}
	return nil
}

// unplug takes the cable out that leads from a NATS server to the others, for a while.
func (c *cluster) unplug(i int) error {
	if err := c.wires.plug(i, false); err != nil {
		return err
	}
	time.Sleep(20 * time.Second)
	return c.wires.plug(i, true)
}

// jump puts the clock of a process ahead by 50 minutes, which is less than messages are kept, then behind by as much, and right again. Each
// time another node is killed.
func (c *cluster) jump(p *process) error {
	const far = 50 * time.Minute
	for i, ahead := range []time.Duration{far, -far, 0} {
		if err := p.clock.jump(ahead); err != nil {
			return err
		}
		time.Sleep(time.Second)
		other := 2 * (i % 2) // whose members come back to the others
		c.kill(other)
		time.Sleep(time.Second)
		if err := c.restart(other); err != nil {
			return err
		}
	}
	return nil
}
