package rooms

import (
	"context"
	"crypto/rand"
	"sync"
)

// A Backend carries the messages of rooms. Hub.Backend is nil for rooms that exist in this process only; package natsrooms
// has one for rooms on many machines.
type Backend interface {
	// Open is called when a room gets its first member here, or something is published in it. From then on the Channel
	// passes everything that is published in the room to sink, until it is closed.
	Open(ctx context.Context, room string, sink Sink) (Channel, error)
}

// A Channel is a room in a Backend.
type Channel interface {
	// Publish gives the message a Position, unless it is Transient, and has it delivered, here and everywhere. When it returns nil, the Backend has
	// the message as safely as it promises, and it was passed to Deliver and Flush here, unless that takes too long or ctx has ended.
	Publish(ctx context.Context, m *Message) (Position, error)

	// Last returns the position behind which everything is delivered: that of the message that was published last before
	// Open. It is called once, after Open.
	Last() Position

	// History returns the first messages after since, in order, at most max. intact says that none is missing between since
	// and the last of them; an empty result is intact if since is the last position. For the zero Position it returns the
	// last max messages.
	History(ctx context.Context, since Position, max int) (messages []*Message, intact bool, err error)

	// Present is called when the number of sockets changes that one user has in the room here. 0 means that the last has
	// left. Members without a key are counted under the key "". The Backend tells the other processes. The room is locked:
	// Present must not wait, nor for a lock that is held while the Sink is called.
	Present(p Presence)

	// Close ends the delivery. No method is called after it. The room is not opened again before it has returned.
	Close() error
}

// A Sink takes what a Channel delivers. It does not call the Channel.
type Sink interface {
	// Deliver takes a message, which has its Position. It must be called for one message after the other. Offsets must
	// grow, unless the message is Transient or the epoch changes. A Backend that gives no positions leaves them zero.
	//
	// A message of the kind Gap says that the Backend has lost messages: what follows is not what came before. All
	// members are told, and none recovers over it. Its Position is the one after which the room goes on.
	Deliver(m *Message)

	// Present takes what Channel.Present was told in another process, called node, and keeps users. If these are all users
	// that are in the room there, all others have left. It does not wait: members are told of 200 users each 5 ms.
	Present(node string, users []Presence, all bool)

	// Flush has members get what was delivered. It may be called once after several messages, and concurrently.
	Flush()
}

// memory is the Backend of a single process. Its history is the ring of the room.
type memory struct{}

func (memory) Open(_ context.Context, _ string, sink Sink) (Channel, error) {
	return &memoryChannel{sink: sink, last: Position{Epoch: rand.Text()[:8]}}, nil
}

type memoryChannel struct {
	sink Sink
	mu   sync.Mutex // guards:
	last Position
}

func (c *memoryChannel) Publish(_ context.Context, m *Message) (Position, error) {
	c.mu.Lock()
	if !m.Transient {
		c.last.Offset++
	}
	m.Position = c.last
	c.sink.Deliver(m)
	c.mu.Unlock()
	c.sink.Flush()
	return m.Position, nil
}

func (c *memoryChannel) Last() Position {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

func (c *memoryChannel) History(context.Context, Position, int) ([]*Message, bool, error) {
	return nil, false, nil
}

func (c *memoryChannel) Present(Presence) {}

func (c *memoryChannel) Close() error { return nil }
