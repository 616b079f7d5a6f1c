package natsrooms

import (
	"context"
	"hash/maphash"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/foyerws/foyer/rooms"
)

// A channel is a room that is open in this process.
type channel struct {
	backend     *Backend
	room, token string // the name, and how it stands in subjects
	sink        rooms.Sink
	presence

	mu      sync.Mutex // held while something is delivered; guards:
	sub     *nats.Subscription
	ready   bool           // what follows is known; always so without a stream
	away    bool           // it is not, because NATS was away when the room was opened
	start   rooms.Position // behind which everything is delivered
	epoch   string
	cuts    int       // how often the stream has lost its end, as far as the room knows
	base    uint64    // nothing of the room up to here is delivered any more
	head    uint64    // the newest message that was delivered, or that there was before; 0 for none
	upto    uint64    // everything of the room up to here was delivered, when it was compared last
	stamp   time.Time // of the newest message, by the clock of the stream
	wanted  uint64    // there is something up to here
	filling bool      // what is missing is being fetched: what comes meanwhile will be fetched, too
	doubted bool      // the stream seems to be another: nothing is delivered until it was asked
	newest  uint64    // of what came while it was doubted
	waiters []waiter
	closed  bool
}

// last is the number up to which everything is delivered. The caller has the lock.
func (c *channel) last() uint64 { return max(c.base, c.head) }

// A waiter is a call of Publish whose message was not delivered here yet.
type waiter struct {
	sequence uint64
	done     chan struct{}
}

// The kinds of messages, which are the last token of subjects.
const (
	kindMessage   = "m"
	kindTransient = "t"
	kindPresence  = "p"
)

func (c *channel) subject(kind string) string {
	return c.backend.o.Prefix + ".room." + c.token + "." + kind
}

// take takes what has come for the room. It is called by one goroutine.
func (c *channel) take(kind string, msg *nats.Msg) {
	switch {
	case kind == kindPresence:
		c.heardPresence(msg)
	case kind == kindMessage && c.backend.stream != nil:
		c.takeStored(msg)
	case kind == kindMessage || kind == kindTransient:
		m, node := decode(c.room, msg)
		if node == c.backend.node {
			return // it was delivered at once
		}
		m.Transient = kind == kindTransient
		c.backend.stats.received.Add(1)
		c.deliver(m)
	}
}

// deliver delivers a message that is not in a stream.
func (c *channel) deliver(m *rooms.Message) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	if m.Transient {
		m.Position = c.position()
	}
	c.sink.Deliver(m)
	c.mu.Unlock()
	c.sink.Flush()
}

// position is that of what was delivered last. The caller has the lock.
func (c *channel) position() rooms.Position {
	if c.epoch == "" {
		return rooms.Position{}
	}
	return rooms.Position{Epoch: c.epoch, Offset: c.last()}
}

// pass delivers a message here and has NATS pass it on, without storing it.
func (c *channel) pass(kind string, m *rooms.Message) (rooms.Position, error) {
	b := c.backend
	switch {
	case b.nc.IsConnected():
		if err := b.nc.PublishMsg(encode(c.subject(kind), m, b.node)); err != nil {
			return rooms.Position{}, err
		}
		b.stats.published.Add(1)
	case b.o.WhenDown == Refuse:
		return rooms.Position{}, unavailable(nats.ErrDisconnected)
	default:
		m.Transient = true
	}
	c.deliver(m)
	return m.Position, nil
}

// Last implements rooms.Channel.
func (c *channel) Last() rooms.Position {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.start
}

// Close implements rooms.Channel.
func (c *channel) Close() error {
	b := c.backend
	b.mu.Lock()
	if b.open[c.token] == c {
		delete(b.open, c.token)
	}
	b.mu.Unlock()
	c.mu.Lock()
	c.closed = true
	sub := c.sub
	c.wakeUpTo(math.MaxUint64)
	c.mu.Unlock()
	if sub == nil {
		return nil
	}
	if n, err := sub.Dropped(); err == nil {
		b.droppedBefore.Add(int64(n))
	}
	return sub.Unsubscribe()
}

// wakeUpTo tells those whose messages were delivered. The caller has the lock.
func (c *channel) wakeUpTo(sequence uint64) {
	c.waiters = slices.DeleteFunc(c.waiters, func(w waiter) bool {
		if w.sequence <= sequence {
			close(w.done)
		}
		return w.sequence <= sequence
	})
}

// subscribe subscribes to what is said in the room.
func (c *channel) subscribe() error {
	b := c.backend
	queue := b.queues[maphash.String(b.seed, c.token)%uint64(len(b.queues))]
	sub, err := b.nc.ChanSubscribe(b.o.Prefix+".room."+c.token+".*", queue)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		sub.Unsubscribe()
		return rooms.ErrClosed
	}
	c.sub = sub
	return nil
}

// A coreChannel is a room without a stream.
type coreChannel struct{ *channel }

// Publish implements rooms.Channel.
func (c coreChannel) Publish(_ context.Context, m *rooms.Message) (rooms.Position, error) {
	kind := kindMessage
	if m.Transient {
		kind = kindTransient
	}
	return c.pass(kind, m)
}

// History implements rooms.Channel. There is none.
func (c coreChannel) History(context.Context, rooms.Position, int) ([]*rooms.Message, bool, error) {
	return nil, false, nil
}
