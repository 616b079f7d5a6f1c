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
	clients int
	run     func(c *cluster) error
}

var faults = []fault{
	{"none", 1, false, 200, func(*cluster) error { return nil }},
	{"node killed", 1, false, 200, func(c *cluster) error {
		c.setDown(1, true)
		c.nodes[1].end(syscall.SIGKILL)
		time.Sleep(2 * time.Second)
		return c.restart(1)
	}},
	{"node stands still for 8 s", 1, false, 200, func(c *cluster) error {
		c.setDown(1, true)
		c.nodes[1].signal(syscall.SIGSTOP)
		time.Sleep(8 * time.Second)
		c.nodes[1].signal(syscall.SIGCONT)
		c.setDown(1, false)
		return nil
	}},
	{"NATS killed", 1, false, 200, func(c *cluster) error {
		c.servers[0].end(syscall.SIGKILL)
		time.Sleep(2 * time.Second)
		return c.servers[0].start()
	}},
	{"leader killed", 3, false, 200, func(c *cluster) error {
		i, err := c.leader()
		if err != nil {
			return err
		}
		c.servers[i].end(syscall.SIGKILL)
		time.Sleep(3 * time.Second)
		return c.servers[i].start()
	}},
	{"one server cut off for 20 s", 3, true, 200, func(c *cluster) error { return c.cutOff((*line.Line).Pull, 20*time.Second) }},
	{"one server not heard for 8 s", 3, true, 200, func(c *cluster) error { return c.cutOff((*line.Line).Hold, 8*time.Second) }},
	{"all nodes restarted in turn", 1, false, 1000, func(c *cluster) error {
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
