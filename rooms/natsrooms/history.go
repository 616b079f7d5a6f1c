package natsrooms

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/foyerws/foyer/rooms"
)

// A streamChannel is a room in a stream.
type streamChannel struct{ *channel }

// Publish implements rooms.Channel.
func (c streamChannel) Publish(ctx context.Context, m *rooms.Message) (rooms.Position, error) {
	if m.Transient {
		return c.pass(kindTransient, m)
	}
	b := c.backend
	msg := encode(b.logSubject(c.token), m, "")
	msg.Header.Set(idHeader, fmt.Sprint(b.node, "-", b.newVersion()))
	sequence, err := b.stream.store(ctx, msg)
	if err != nil {
		if b.o.WhenDown == Local && !b.nc.IsConnected() {
			m.Transient = true
			c.deliver(m)
			return m.Position, nil
		}
		return rooms.Position{}, unavailable(err)
	}
	c.await(ctx, sequence)
	epoch, _ := b.stream.state()
	return rooms.Position{Epoch: epoch, Offset: sequence}, nil
}

// How long Publish waits for its own message to come back. The message is stored, so it is not an error if it does not.
const (
	republished = 250 * time.Millisecond // then it is fetched
	fetched     = 2 * time.Second
)

// await waits until everything up to a sequence number was delivered here.
func (c *channel) await(ctx context.Context, sequence uint64) {
	c.mu.Lock()
	if c.closed || c.last >= sequence {
		c.mu.Unlock()
		return
	}
	w := waiter{sequence, make(chan struct{})}
	c.waiters = append(c.waiters, w)
	c.mu.Unlock()
	t := time.NewTimer(republished)
	defer t.Stop()
	for range 2 {
		select {
		case <-w.done:
			return
		case <-ctx.Done():
			return
		case <-c.backend.end:
			return
		case <-t.C:
			c.mu.Lock()
			c.want(sequence)
			c.mu.Unlock()
			t.Reset(fetched)
		}
	}
}

// deliverStored delivers the next message of the stream. The caller has the lock, and flushes.
func (c *channel) deliverStored(sequence uint64, msg *nats.Msg) {
	b := c.backend
	m, _ := decode(c.room, msg)
	c.last, c.head, c.stamp, c.checked = sequence, sequence, m.Time, time.Now()
	m.Position = c.position()
	b.stats.received.Add(1)
	b.stats.delay.Store(int64(c.checked.Sub(m.Time)))
	c.sink.Deliver(m)
	c.wake()
}

// wake tells those whose messages were delivered. The caller has the lock.
func (c *channel) wake() {
	kept := c.waiters[:0]
	for _, w := range c.waiters {
		if w.sequence <= c.last {
			close(w.done)
		} else {
			kept = append(kept, w)
		}
	}
	clear(c.waiters[len(kept):])
	c.waiters = kept
}

// takeStored takes a message that the stream has passed on. What comes twice or too late is dropped; if something is missing
// before it, that is fetched, and it as well.
func (c *channel) takeStored(msg *nats.Msg) {
	sequence, before := number(msg, sequenceHeader), number(msg, lastHeader)
	if sequence == 0 {
		return // nobody but the stream may publish here
	}
	c.backend.stream.see(sequence)
	c.mu.Lock()
	switch {
	case c.closed:
	case sequence <= c.last && !c.doubted && c.isNewer(msg):
		c.doubted = true
		go c.backend.stream.check()
	case sequence <= c.last:
	case c.filling, c.doubted:
		c.wanted = max(c.wanted, sequence)
	case before <= c.last && (before >= c.head || c.recent()):
		c.deliverStored(sequence, msg)
		c.mu.Unlock()
		c.sink.Flush()
		return
	default:
		c.want(sequence)
	}
	c.mu.Unlock()
}

// isNewer reports whether a message is newer than what was delivered, which has a higher number. The caller has the lock.
func (c *channel) isNewer(msg *nats.Msg) bool {
	stamp, err := time.Parse(time.RFC3339Nano, msg.Header.Get(timeHeader))
	return err == nil && stamp.After(c.stamp) && !c.stamp.IsZero()
}

// recent reports whether all messages that the room has had since the last check are still in the stream. Then one whose
// predecessor is not there any more comes behind what was delivered last. The caller has the lock.
func (c *channel) recent() bool { return time.Since(c.checked) < c.backend.o.MaxAge/2 }

// want has everything up to a sequence number fetched. The caller has the lock.
func (c *channel) want(sequence uint64) {
	c.wanted = max(c.wanted, sequence)
	if c.filling || c.closed || c.wanted <= c.last {
		return
	}
	c.filling = true
	c.backend.stats.gaps.Add(1)
	go c.fill()
}

// findHead begins with what the stream has.
func (c *channel) findHead(ctx context.Context) error {
	s := c.backend.stream
	c.mu.Lock()
	c.filling = true // what comes meanwhile is fetched, if it is newer
	c.mu.Unlock()
	epoch, seen := s.state() // older than the answer
	begin := time.Now()
	heads, _, err := s.get(ctx, &request{Last: c.backend.logSubject(c.token)})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch, c.last, c.checked, c.filling = epoch, seen, begin, false
	if len(heads) > 0 {
		c.head = number(heads[0], sequenceHeader)
		c.last = c.head
	}
	c.want(c.wanted)
	return nil
}

// maxStale is how often in a row a server may answer without what must be there, because it lags behind. Then that was removed.
const maxStale = 8

// fill fetches what is missing.
func (c *channel) fill() {
	b := c.backend
	select {
	case b.stream.fetching <- struct{}{}:
		defer func() { <-b.stream.fetching }()
	case <-b.end:
		return
	}
	stale := 0
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		c.mu.Lock()
		if c.closed || c.last >= c.wanted {
			c.filling = false
			c.mu.Unlock()
			return
		}
		last, epoch := c.last, c.epoch
		c.mu.Unlock()
		page, err := c.after(context.Background(), last, headsAtOnce)
		if err == nil && len(page.messages) == 0 {
			stale++
		}
		c.mu.Lock()
		switch {
		case err != nil || c.last != last || c.epoch != epoch:
		case len(page.messages) > 0:
			stale, pause = 0, 20*time.Millisecond
			c.deliverPage(page)
		case stale >= maxStale:
			c.interrupt(c.wanted)
		}
		c.mu.Unlock()
		c.sink.Flush()
		if (err != nil || stale > 0) && !b.after(context.Background(), pause) {
			return
		}
	}
}

// deliverPage delivers what was fetched. The caller has the lock, and flushes.
func (c *channel) deliverPage(page page) {
	if !page.intact {
		c.interrupt(page.sequence(0) - 1)
	}
	for i, msg := range page.messages {
		c.deliverStored(page.sequence(i), msg)
		c.backend.stats.filled.Add(1)
	}
}

// interrupt tells the members that messages up to a sequence number are lost. The caller has the lock, and flushes.
func (c *channel) interrupt(upto uint64) {
	c.backend.stats.lost.Add(1)
	c.last = upto
	c.sink.Deliver(&rooms.Message{Kind: rooms.Gap, Room: c.room, Position: c.position(), Missed: 1, Time: time.Now()})
	c.wake()
}

// compare compares what was delivered with the newest message of the room that a server knew at a time, 0 if it knew none. The server may
// lag behind. The stream begins with the message first, as its leader says, and if it has lost its end, it ends with the message cut.
func (c *channel) compare(epoch string, head, first, cut uint64, at time.Time) {
	c.mu.Lock()
	defer func() {
		c.mu.Unlock()
		c.sink.Flush()
	}()
	doubted := c.doubted
	c.doubted = false
	switch {
	case c.closed:
	case c.epoch == "": // it was opened while NATS was away
		c.epoch, c.head = epoch, head
		c.interrupt(max(head, c.last))
	case c.epoch != epoch || c.last > cut:
		c.epoch, c.last, c.head, c.wanted, c.stamp = epoch, 0, 0, 0, time.Time{}
		c.interrupt(0)
		c.want(head)
	case head > c.last, doubted:
		c.want(max(head, c.wanted))
	case !c.filling && (head == c.head || first > c.head):
		c.checked = at
	}
}

// A page is some messages of a room.
type page struct {
	messages []*nats.Msg
	intact   bool // none is missing before them
	pending  int  // how many there are behind them
}

// sequence returns the sequence number of the i-th message, or of the last one if i is -1.
func (p *page) sequence(i int) uint64 {
	if i < 0 {
		i = len(p.messages) - 1
	}
	return number(p.messages[i], sequenceHeader)
}

// after returns at most so many messages of the room that follow a sequence number.
func (c *channel) after(ctx context.Context, sequence uint64, most int) (p page, err error) {
	s := c.backend.stream
	p.messages, p.pending, err = s.get(ctx, &request{Sequence: max(sequence, 1), Next: c.backend.logSubject(c.token), Batch: most + 1, MaxBytes: maxPage})
	if err != nil {
		return page{}, err
	}
	if len(p.messages) > 0 && p.sequence(0) == sequence {
		p.messages, p.intact = p.messages[1:], true
		return p, nil
	}
	all := len(p.messages) + p.pending
	p.messages = p.messages[:min(len(p.messages), most)]
	p.pending = all - len(p.messages)
	if all >= c.backend.o.MaxMessages {
		return p, nil // the room may have had more
	}
	// The sequence number is that of no message of the room. Nothing was removed behind it if the stream begins before it.
	info, err := s.info(ctx)
	if err != nil {
		return page{}, err
	}
	p.intact = info.State.FirstSeq <= sequence+1 && sequence <= info.State.LastSeq
	return p, nil
}

var errLag = errors.New("natsrooms: the server that has answered lags behind")

// History implements rooms.Channel.
func (c streamChannel) History(ctx context.Context, since rooms.Position, most int) ([]*rooms.Message, bool, error) {
	epoch, _ := c.backend.stream.state()
	if since != (rooms.Position{}) && since.Epoch != epoch {
		return nil, false, nil
	}
	for pause := 20 * time.Millisecond; ; pause *= 2 {
		var p page
		var err error
		if since == (rooms.Position{}) {
			p, err = c.newest(ctx, most)
		} else {
			p, err = c.after(ctx, since.Offset, most)
		}
		if err == nil && c.lags(&p, since.Offset) {
			err = errLag
		}
		if err == nil {
			return c.decodeAll(epoch, p.messages), p.intact, nil
		}
		if pause > time.Second || !c.backend.after(ctx, pause) {
			return nil, false, unavailable(err)
		}
	}
}

// newest returns the newest messages of the room.
func (c *channel) newest(ctx context.Context, most int) (all page, err error) {
	for next, more := uint64(0), true; more; {
		part, err := c.after(ctx, next, headsAtOnce)
		if err != nil {
			return page{}, err
		}
		all.messages = append(all.messages, part.messages...)
		all.messages = all.messages[max(len(all.messages)-most, 0):]
		if more = part.pending > 0 && len(part.messages) > 0; more {
			next = part.sequence(-1)
		}
	}
	return all, nil
}

// lags reports whether a page does not have what was delivered here, though nothing says that it was removed.
func (c *channel) lags(p *page, since uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	newest := since
	if len(p.messages) > 0 {
		newest = p.sequence(-1)
	}
	return p.pending == 0 && newest < c.head && (p.intact || len(p.messages) > 0 || time.Since(c.checked) < time.Second)
}

func (c *channel) decodeAll(epoch string, messages []*nats.Msg) []*rooms.Message {
	all := make([]*rooms.Message, len(messages))
	for i, msg := range messages {
		all[i], _ = decode(c.room, msg)
		all[i].Position = rooms.Position{Epoch: epoch, Offset: number(msg, sequenceHeader)}
	}
	return all
}
