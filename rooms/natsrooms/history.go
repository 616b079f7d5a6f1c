package natsrooms

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

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
		if errors.Is(err, errAway) && b.o.WhenDown == Local {
			m.Transient = true
			c.deliver(m)
			return m.Position, nil
		}
		return rooms.Position{}, unavailable(err)
	}
	c.await(ctx, sequence)
	epoch, _, _ := b.stream.state()
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
	if c.closed || !c.ready || c.last() >= sequence {
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
	c.head, c.stamp = sequence, m.Time
	m.Position = c.position()
	b.stats.received.Add(1)
	b.stats.delay.Store(int64(time.Since(m.Time)))
	c.sink.Deliver(m)
	c.wakeUpTo(sequence)
}

// takeStored takes a message that the stream has passed on. What comes twice or too late is dropped; if something is missing
// before it, that is fetched, and it as well. So it is if what was before it was removed: then the stream has to be asked whether that
// was delivered.
func (c *channel) takeStored(msg *nats.Msg) {
	sequence, before := number(msg, sequenceHeader), number(msg, lastHeader)
	if sequence == 0 {
		return // nobody but the stream may publish here
	}
	c.backend.stream.see(sequence)
	c.mu.Lock()
	deliver := false
	switch {
	case c.closed:
	case !c.ready:
		c.wanted = max(c.wanted, sequence)
	case c.doubted:
		c.newest = max(c.newest, sequence)
	case sequence <= c.last():
		if c.isNewer(msg) {
			c.doubted, c.newest = true, sequence
			c.backend.stream.check(true)
		}
	case c.filling:
		c.wanted = max(c.wanted, sequence)
	case before == c.head, c.head == 0 && before <= c.base:
		deliver = true
		c.deliverStored(sequence, msg)
	default:
		c.want(sequence)
	}
	c.mu.Unlock()
	if deliver {
		c.sink.Flush()
	}
}

// isNewer reports whether a message is newer than what was delivered, which has a higher number. The caller has the lock.
func (c *channel) isNewer(msg *nats.Msg) bool {
	stamp, err := time.Parse(time.RFC3339Nano, msg.Header.Get(timeHeader))
	return err == nil && stamp.After(c.stamp) && !c.stamp.IsZero()
}

// want has everything up to a sequence number fetched. The caller has the lock.
func (c *channel) want(sequence uint64) {
	c.wanted = max(c.wanted, sequence)
	if c.filling || c.closed || !c.ready || c.wanted <= c.last() {
		return
	}
	c.filling = true
	c.backend.stats.gaps.Add(1)
	c.backend.run(c.fill)
}

// findHead begins with what the stream has.
func (c *channel) findHead(ctx context.Context) error {
	s := c.backend.stream
	if _, err := s.ensure(ctx); err != nil {
		return err
	}
	epoch, seen, cuts := s.state() // older than the answer
	heads, _, err := s.get(ctx, &request{Last: c.backend.logSubject(c.token)})
	if errors.Is(err, nats.ErrNoResponders) { // the stream may have been deleted
		if _, err = s.ensure(ctx); err != nil {
			return err
		}
		epoch, seen, cuts = s.state()
		heads, _, err = s.get(ctx, &request{Last: c.backend.logSubject(c.token)})
	}
	if err != nil {
		return err
	}
	head := uint64(0)
	if len(heads) > 0 {
		head = number(heads[0], sequenceHeader)
	} else if head, err = s.leaderHead(ctx, c.token); err != nil { // the server that has answered may lag behind
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready, c.epoch, c.cuts, c.head, c.base = true, epoch, cuts, head, head
	if head == 0 {
		c.base = seen
	}
	c.start = c.position()
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
		if c.closed || c.last() >= c.wanted {
			c.filling = false
			c.mu.Unlock()
			return
		}
		last, upto, epoch := c.last(), c.upto, c.epoch
		c.mu.Unlock()
		page, err := c.after(context.Background(), last, max(last, upto), headsAtOnce)
		if err == nil && len(page.messages) == 0 {
			stale++
		}
		c.mu.Lock()
		switch {
		case err != nil || c.last() != last || c.epoch != epoch:
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
	c.base = upto
	c.sink.Deliver(&rooms.Message{Kind: rooms.Gap, Room: c.room, Position: c.position(), Missed: 1, Time: time.Now()})
	c.wakeUpTo(c.last())
}

// compare compares what was delivered with the newest message of the room that a server knows, 0 if it knows none. The server may lag
// behind; the state of the stream is the leader's, and older. The stream has lost its end so many times; the last time it then ended with
// the message cut.
func (c *channel) compare(epoch string, head uint64, state *jetstream.StreamState, cuts int, cut uint64) {
	c.mu.Lock()
	defer func() {
		c.mu.Unlock()
		c.sink.Flush()
	}()
	switch {
	case c.closed, !c.ready && !c.away:
		return
	case c.away:
		c.away, c.ready, c.epoch, c.head = false, true, epoch, head
		c.interrupt(max(head, state.LastSeq))
	case c.epoch != epoch || c.cuts != cuts && c.last() > cut:
		c.wakeUpTo(math.MaxUint64)
		c.epoch, c.base, c.head, c.upto, c.wanted, c.stamp = epoch, 0, 0, 0, 0, time.Time{}
		c.interrupt(0)
		c.want(max(head, c.newest))
	case head > c.last() || c.doubted:
		c.want(max(head, c.newest))
	case head == c.head || state.FirstSeq > c.head:
		c.upto = max(c.upto, state.LastSeq)
	}
	c.doubted, c.newest, c.cuts = false, 0, cuts
}

// A page is some messages of a room.
type page struct {
	messages []*nats.Msg
	intact   bool // none is missing before them
	pending  int  // how many there are behind them
	removed  bool // intact may be wrong if a program has removed messages of single rooms
}

// sequence returns the sequence number of the i-th message, or of the last one if i is -1.
func (p *page) sequence(i int) uint64 {
	if i < 0 {
		i = len(p.messages) - 1
	}
	return number(p.messages[i], sequenceHeader)
}

// after returns at most so many messages of the room that follow a sequence number. It may be that of no message of the room: then
// none is missing if nothing was removed from the stream behind another number, known, up to which it does not matter.
func (c *channel) after(ctx context.Context, sequence, known uint64, most int) (p page, err error) {
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
	info, err := s.info(ctx)
	if err != nil {
		return page{}, err
	}
	limit := info.Config.MaxMsgsPerSubject
	p.intact = info.State.FirstSeq <= known+1 && known <= info.State.LastSeq && (limit <= 0 || int64(all) < limit)
	p.removed = info.State.NumDeleted > 0
	return p, nil
}

var errLag = errors.New("natsrooms: the server that has answered lags behind")

// historyTimeout is how long History tries.
const historyTimeout = 5 * time.Second

// History implements rooms.Channel.
func (c streamChannel) History(ctx context.Context, since rooms.Position, most int) ([]*rooms.Message, bool, error) {
	b := c.backend
	epoch, _, _ := b.stream.state()
	switch {
	case !b.nc.IsConnected() && b.o.WhenDown == Local:
		return nil, false, nil
	case !b.nc.IsConnected():
		return nil, false, unavailable(nats.ErrDisconnected)
	case since != (rooms.Position{}) && since.Epoch != epoch:
		return nil, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, historyTimeout)
	defer cancel()
	for pause := 20 * time.Millisecond; ; pause *= 2 {
		var p page
		var err error
		if since == (rooms.Position{}) {
			p, err = c.newestOf(ctx, most)
		} else {
			p, err = c.after(ctx, since.Offset, since.Offset, most)
			p.intact = p.intact && !p.removed
		}
		if err == nil {
			err = c.checkLag(ctx, &p, since.Offset)
		}
		if err == nil {
			return c.decodeAll(epoch, p.messages), p.intact, nil
		}
		if !b.after(ctx, pause) {
			return nil, false, unavailable(err)
		}
	}
}

// newestOf returns the newest messages of the room.
func (c *channel) newestOf(ctx context.Context, most int) (all page, err error) {
	for next, more := uint64(0), true; more; {
		part, err := c.after(ctx, next, next, headsAtOnce)
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

// checkLag asks the leader if a page may come from a server that lags behind: what was delivered here is not in it, or not even what the
// client has seen.
func (c *channel) checkLag(ctx context.Context, p *page, since uint64) error {
	c.mu.Lock()
	head := c.head
	c.mu.Unlock()
	newest := since
	if len(p.messages) > 0 {
		newest = p.sequence(-1)
	}
	if p.pending > 0 || newest >= head && (p.intact || len(p.messages) > 0) {
		return nil
	}
	leader, err := c.backend.stream.leaderHead(ctx, c.token)
	switch {
	case err != nil:
		return err
	case leader > newest:
		return errLag
	case leader == since && since != 0:
		p.intact = true // nothing is behind it
	}
	return nil
}

func (c *channel) decodeAll(epoch string, messages []*nats.Msg) []*rooms.Message {
	all := make([]*rooms.Message, len(messages))
	for i, msg := range messages {
		all[i], _ = decode(c.room, msg)
		all[i].Position = rooms.Position{Epoch: epoch, Offset: number(msg, sequenceHeader)}
	}
	return all
}
