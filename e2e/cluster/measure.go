//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/rooms"
	"github.com/foyerws/foyer/rooms/natsrooms"
)

const (
	roomCount      = 10
	publisherCount = 4
	before, behind = 2 * time.Second, 3 * time.Second // a fault
)

// A measurement is clients that listen and come back, and publishers, on a cluster.
type measurement struct {
	c       *cluster
	clients []*client
	refused atomic.Int64
	last    atomic.Int64 // when something was acknowledged, in nanoseconds
	silence atomic.Int64

	mu           sync.Mutex // guards:
	acknowledged [roomCount]map[rooms.Position]bool
}

func roomName(i int) string { return fmt.Sprint("room ", i) }

// measure makes a fault, once.
func measure(t *tools, f *fault) (r result, err error) {
	c, err := start(t, f)
	if err != nil {
		return r, err
	}
	defer c.stop()
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupted)
	go func() {
		<-interrupted
		c.stop() // or else the processes would go on
		os.RemoveAll(t.folder)
		os.Exit(1)
	}()
	m := &measurement{c: c}
	for i := range m.acknowledged {
		m.acknowledged[i] = make(map[rooms.Position]bool)
	}
	listening, stopListening := context.WithCancel(context.Background())
	defer stopListening()
	var clients, publishers sync.WaitGroup
	for i := range f.clients {
		cl := &client{m: m, number: i, room: i % roomCount}
		m.clients = append(m.clients, cl)
		clients.Go(func() { cl.listen(listening) })
	}
	if err := m.await("everybody is there", 60*time.Second, m.everybodyPresent); err != nil {
		return r, err
	}
	publishing, stopPublishing := context.WithCancel(context.Background())
	defer stopPublishing()
	m.last.Store(time.Now().UnixNano())
	for i := range publisherCount {
		publishers.Go(func() { m.publish(publishing, i) })
	}
	time.Sleep(before)
	if err := f.run(c); err != nil {
		return r, err
	}
	mended := time.Now()
	presence := make(chan error, 1)
	go func() {
		presence <- m.await("presence is right", 60*time.Second, m.everybodyPresent)
		r.presence = time.Since(mended)
	}()
	time.Sleep(behind)
	stopPublishing()
	publishers.Wait()
	if err := <-presence; err != nil {
		return r, err
	}
	if err := m.await("everything has arrived", 60*time.Second, m.complete); err != nil {
		fmt.Println(err) // which the count of lost messages shows
	}
	stopListening()
	clients.Wait()
	for _, addr := range c.addrs {
		var st natsrooms.Stats
		if get("http://"+addr+"/stats", &st) == nil {
			r.fetched += int(st.Filled)
		}
	}
	m.count(&r)
	return r, nil
}

func (m *measurement) await(what string, limit time.Duration, ok func() bool) error {
	for end := time.Now().Add(limit); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("not in %v: %s", limit, what)
		}
	}
	return nil
}

// publish publishes until ctx is done. What is not acknowledged is given up.
func (m *measurement) publish(ctx context.Context, number int) {
	for i := 0; ctx.Err() == nil; i++ {
		room := (number + i) % roomCount
		text := fmt.Sprintf(`{"publisher":%d,"number":%d}`, number, i)
		url := strings.ReplaceAll("http://"+m.c.choose(number+i)+"/"+roomName(room), " ", "%20")
		position, err := post(url, text)
		if err != nil {
			m.refused.Add(1)
			time.Sleep(20 * time.Millisecond)
			continue
		}
		now := time.Now().UnixNano()
		if since := now - m.last.Swap(now); since > m.silence.Load() {
			m.silence.Store(since)
		}
		m.mu.Lock()
		m.acknowledged[room][position] = true
		m.mu.Unlock()
		time.Sleep(2 * time.Millisecond)
	}
}

func post(url, text string) (p rooms.Position, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "POST", url, bytes.NewBufferString(text))
	if err != nil {
		return p, err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return p, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		io.Copy(io.Discard, resp.Body)
		return p, fmt.Errorf("%s", resp.Status)
	}
	var answer struct{ Position string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return p, err
	}
	return rooms.ParsePosition(answer.Position)
}

// get gets JSON.
func get(url string, v any) error {
	resp, err := http.Get(strings.ReplaceAll(url, " ", "%20"))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(v)
}

// everybodyPresent reports whether all nodes agree that each client is there, once.
func (m *measurement) everybodyPresent() bool {
	for _, addr := range m.c.addrs {
		for room := range roomCount {
			var present []rooms.Presence
			err := get("http://"+addr+"/"+roomName(room)+"/members", &present)
			if err != nil || len(present) != len(m.clients)/roomCount {
				return false
			}
			for _, p := range present {
				if p.Sockets != 1 {
					return false
				}
			}
		}
	}
	return true
}

// A client is a member that comes back.
type client struct {
	m            *measurement
	number, room int

	mu         sync.Mutex     // guards:
	first      rooms.Position // where it began
	since      rooms.Position // what it has seen
	seen       map[rooms.Position]int
	told       int // how often that something is lost
	reconnects int
}

// An event is what a client is sent.
type event struct {
	Type, Position string
	Recovered      bool
	Missed         int
}

// listen comes back until ctx is done.
func (c *client) listen(ctx context.Context) {
	c.seen = make(map[rooms.Position]int)
	for try := 0; ctx.Err() == nil; try++ {
		c.mu.Lock()
		url := fmt.Sprintf("ws://%s/%s/socket?key=c%d&since=%s", c.m.c.choose(c.number+try), roomName(c.room), c.number, c.since)
		c.mu.Unlock()
		s, _, err := foyer.Dial(ctx, strings.ReplaceAll(url, " ", "%20"), &foyer.DialOptions{HandshakeTimeout: 3 * time.Second})
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		for err == nil {
			var e event
			if err = foyer.ReadJSON(ctx, s, &e); err == nil {
				c.take(&e)
			}
		}
		s.Abort()
		if ctx.Err() == nil {
			c.mu.Lock()
			c.reconnects++
			c.mu.Unlock()
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func (c *client) take(e *event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	position, _ := rooms.ParsePosition(e.Position)
	switch e.Type {
	case "welcome":
		if c.since == (rooms.Position{}) {
			c.first, c.since = position, position
		} else if !e.Recovered {
			c.told++
			c.since = position
		}
	case "gap":
		c.told++
		c.since = position
	case "message":
		c.seen[position]++
		c.since = position
	}
}

// complete reports whether each client has got the newest message of its room that was acknowledged.
func (m *measurement) complete() bool {
	for _, c := range m.clients {
		newest := uint64(0)
		m.mu.Lock()
		for p := range m.acknowledged[c.room] {
			newest = max(newest, p.Offset)
		}
		m.mu.Unlock()
		c.mu.Lock()
		reached := c.since.Offset >= newest
		c.mu.Unlock()
		if !reached {
			return false
		}
	}
	return true
}

// count compares what the clients have got with what was acknowledged.
func (m *measurement) count(r *result) {
	r.refused, r.silence = int(m.refused.Load()), time.Duration(m.silence.Load())
	for _, acknowledged := range m.acknowledged {
		r.acknowledged += len(acknowledged)
	}
	for _, c := range m.clients {
		r.reconnects += c.reconnects
		r.told += c.told
		for _, n := range c.seen {
			r.twice += n - 1
		}
		if c.told > 0 {
			continue // which explains what is missing
		}
		for p := range m.acknowledged[c.room] {
			if p.Offset > c.first.Offset && c.seen[p] == 0 {
				r.lost++
			}
		}
	}
}
