//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A peer is a connection of the load generator.
type peer struct {
	fd     int
	unsent []byte // what the kernel did not take yet
	at     int    // how far into the wanted frame the input is
	rest   []byte // the input behind the last whole frame, where pushes reads it
	since  int64  // when the message in flight was sent
}

// peers are many connections that one event loop serves.
type peers struct {
	epoll     int
	all       []*peer
	byFD      map[int32]*peer
	burst     []byte // frames to send, one behind the other
	size      int    // of one of them
	want      []byte // the frame that must come back
	wants     []byte // the same many times, to compare as much as possible at once
	timed     bool
	begin     time.Time
	received  int64
	latencies []int32

	// check checks what has come and returns how many messages that completes.
	check func(c *peer, in []byte) (int, error)

	events []unix.EpollEvent
	in     []byte
}

func newPeers(fds []int, burst []byte, size int, want []byte) (*peers, error) {
	p := &peers{byFD: make(map[int32]*peer), burst: burst, size: size, want: want, begin: time.Now(),
		events: make([]unix.EpollEvent, 256), in: make([]byte, 128<<10)}
	p.wants = bytes.Repeat(want, len(p.in)/len(want)+2)
	p.check = p.compare
	var err error
	if p.epoll, err = unix.EpollCreate1(0); err != nil {
		return nil, err
	}
	for _, fd := range fds {
		if err := unix.SetNonblock(fd, true); err != nil {
			return nil, err
		}
		c := &peer{fd: fd}
		p.all = append(p.all, c)
		p.byFD[int32(fd)] = c
		e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLET&0xffffffff, Fd: int32(fd)}
		if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// send sends n frames on c.
func (p *peers) send(c *peer, n int) error {
	if n <= 0 {
		return nil
	}
	if p.timed {
		c.since = time.Since(p.begin).Microseconds()
	}
	return p.write(c, p.burst[:n*p.size])
}

// write sends b behind what the kernel did not take yet.
func (p *peers) write(c *peer, b []byte) error {
	if len(c.unsent) > 0 {
		b = append(bytes.Clone(c.unsent), b...)
	}
	c.unsent = b
	return p.flush(c)
}

func (p *peers) flush(c *peer) error {
	for len(c.unsent) > 0 {
		n, err := unix.Write(c.fd, c.unsent)
		if err == unix.EAGAIN {
			return nil
		}
		if err != nil {
			return err
		}
		c.unsent = c.unsent[n:]
	}
	return nil
}

// runFor serves the connections for d. arrived is told how many frames came in on one.
func (p *peers) runFor(d time.Duration, arrived func(c *peer, n int) error) error {
	for deadline := time.Now().Add(d); time.Now().Before(deadline); {
		if err := p.turn(arrived); err != nil {
			return err
		}
	}
	return nil
}

// runUntil serves the connections until so many messages were received in all.
func (p *peers) runUntil(received int64, arrived func(c *peer, n int) error) error {
	for deadline := time.Now().Add(30 * time.Second); p.received < received; {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d messages came", p.received, received)
		}
		if err := p.turn(arrived); err != nil {
			return err
		}
	}
	return nil
}

// nothing is for messages after which none is sent.
func nothing(*peer, int) error { return nil }

// close hangs up all connections.
func (p *peers) close() {
	for _, c := range p.all {
		unix.Close(c.fd)
	}
	unix.Close(p.epoll)
}

// turn serves the connections that have something.
func (p *peers) turn(arrived func(c *peer, n int) error) error {
	n, err := unix.EpollWait(p.epoll, p.events, 1000)
	if err == unix.EINTR {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range p.events[:n] {
		c := p.byFD[e.Fd]
		if e.Events&unix.EPOLLIN != 0 {
			if err := p.read(c, arrived); err != nil {
				return err
			}
		}
		if err := p.flush(c); err != nil {
			return err
		}
	}
	return nil
}

// read takes what has come and checks it.
func (p *peers) read(c *peer, arrived func(c *peer, n int) error) error {
	for {
		n, err := unix.Read(c.fd, p.in)
		if err == unix.EAGAIN {
			return nil
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return errors.New("the server hung up")
		}
		messages, err := p.check(c, p.in[:n])
		if err != nil {
			return err
		}
		p.received += int64(messages)
		if messages > 0 {
			if p.timed {
				p.latencies = append(p.latencies, int32(time.Since(p.begin).Microseconds()-c.since))
			}
			if err := arrived(c, messages); err != nil {
				return err
			}
		}
		if n < len(p.in) {
			return nil
		}
	}
}

// compare counts the frames that in completes. Nothing but the wanted frame may come.
func (p *peers) compare(c *peer, in []byte) (int, error) {
	end := c.at + len(in)
	if !bytes.Equal(in, p.wants[c.at:end]) {
		return 0, errEcho
	}
	c.at = end % len(p.want)
	return end / len(p.want), nil
}
