package foyer

import (
	"sync"

	"github.com/foyerws/foyer/internal/frame"
	"github.com/foyerws/foyer/internal/wire"
)

// A Prepared is a message that is encoded once for many sockets, see [Socket.NewFeed]. It is safe for concurrent use.
type Prepared struct {
	kind    MessageType
	size    int    // of the payload
	plain   []byte // what a server sends, in one frame
	mu      sync.Mutex
	special []encoding // for sockets that need something else; guarded by mu
}

// An encoding is a message as sockets of one kind send it.
type encoding struct {
	by    frame.Deflater // the zero value does not compress
	split int            // the longest payload of a frame; 0: no limit
	bytes []byte
}

// Prepare encodes a message. It does not keep p. Text must be valid UTF-8, which Prepare does not check. t must be Text or
// Binary; anything else panics.
//
// A Prepared keeps one encoding, and one more for each window size of permessage-deflate and each OutgoingFrameSize with
// which it was sent to a socket of a server.
func Prepare(t MessageType, p []byte) *Prepared {
	if t != Text && t != Binary {
		panic(errBadMessageType.Error())
	}
	b := make([]byte, 0, frame.MaxHeader+len(p))
	b = frame.AppendHeader(b, frame.Final|byte(t), len(p))
	return &Prepared{kind: t, size: len(p), plain: append(b, p...)}
}

// Type returns the type of the message.
func (m *Prepared) Type() MessageType { return m.kind }

// Payload returns the payload. It must not be changed.
func (m *Prepared) Payload() []byte { return m.plain[len(m.plain)-m.size:] }

// bytesFor returns the message as s sends it. It must not be changed.
func (m *Prepared) bytesFor(s *Socket) []byte {
	rules := s.wire.Rules()
	var e encoding
	if s.compresses(m.size) && !s.deflate.out.Takeover() {
		e.by = s.deflate.out
	}
	if rules.Split > 0 && m.size > rules.Split {
		e.split = rules.Split
	}
	if rules.NewKey != nil { // a client's masks are never the same
		return m.encode(e, rules.NewKey)
	}
	if e.by == (frame.Deflater{}) && e.split == 0 {
		return m.plain
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.special {
		if m.special[i].by == e.by && m.special[i].split == e.split {
			return m.special[i].bytes
		}
	}
	e.bytes = m.encode(e, nil)
	m.special = append(m.special, e)
	return e.bytes
}

// encode returns the frames of the message.
func (m *Prepared) encode(e encoding, newKey func() uint32) []byte {
	p, first := m.Payload(), byte(m.kind)
	if e.by != (frame.Deflater{}) {
		p, first = e.by.Deflate(p), first|frame.RSV1
	}
	var b []byte
	for {
		piece := p
		if e.split > 0 && len(p) > e.split {
			piece = p[:e.split]
		}
		if p = p[len(piece):]; len(p) == 0 {
			first |= frame.Final
		}
		if newKey == nil {
			b = append(frame.AppendHeader(b, first, len(piece)), piece...)
		} else {
			key := newKey()
			b = append(frame.AppendMaskedHeader(b, first, len(piece), key), piece...)
			frame.Mask(b[len(b)-len(piece):], key)
		}
		if len(p) == 0 {
			return b
		}
		first = 0
	}
}

// A Source has messages for many sockets, each of which takes them when its network can: a log that is kept once, where
// other programs keep a queue for each socket. There is one Source for each socket, which knows how far that socket has
// read. Positions are the Source's own, such as offsets in the log.
//
// The methods are called with locks of the socket held, one at a time. They must return soon, and must not call the
// socket, or wait for a lock that is held while something calls it.
type Source interface {
	// Peek appends the next messages to messages: at most max, and none behind the position upto. It may append none;
	// then what is left needs another Pull.
	Peek(messages []*Prepared, upto uint64, max int) []*Prepared

	// Advance says that the first n messages of the last Peek are written, or being written. The others will be asked
	// for once more.
	Advance(n int)
}

// A Feed gives a socket the messages of a Source. See [Socket.NewFeed].
type Feed struct {
	socket *Socket
	source Source
	wire   *wire.Feed
}

// NewFeed returns a Feed of source for the socket. A socket may have several.
//
// Messages of a Feed take no memory of the socket: however far behind a client is, its socket holds at most one of them.
// They do not count for MaxWriteBuffer and BytesToWrite. For sockets with context takeover they are not compressed.
func (s *Socket) NewFeed(source Source) *Feed {
	f := &Feed{socket: s, source: source}
	f.wire = wire.NewFeed((*feedSource)(f))
	return f
}

// Pull has the messages up to the position upto written, as soon as the client takes them. It does not wait. Messages
// that are written to the socket after Pull has returned leave behind them; those that were written before leave before
// them. They do not come between the fragments of a message that a Writer sends. Close drops what was not written.
//
// Pull may be called concurrently, and with positions that an earlier call has covered. The error is that of a Write on
// a socket that has been closed.
func (f *Feed) Pull(upto uint64) error { return f.pull(upto, wire.Batched) }

// PullNow is like Pull, but writes at once what the network takes, and not together with what other sockets are about to
// write. It is for a Source that cannot keep its messages for long.
func (f *Feed) PullNow(upto uint64) error { return f.pull(upto, wire.Now) }

func (f *Feed) pull(upto uint64, how wire.Leave) error {
	if err := f.socket.wire.Pull(f.wire, upto, how); err != nil {
		return f.socket.writeError(err)
	}
	return nil
}

// A feedSource is a Feed as the wire asks it.
type feedSource Feed

var peeked = sync.Pool{New: func() any { return new([]*Prepared) }}

func (f *feedSource) Peek(frames [][]byte, upto uint64, max int) [][]byte {
	room := peeked.Get().(*[]*Prepared)
	*room = f.source.Peek((*room)[:0], upto, max)
	for _, m := range *room {
		frames = append(frames, m.bytesFor(f.socket))
	}
	clear(*room)
	peeked.Put(room)
	return frames
}

func (f *feedSource) Advance(n int) {
	f.socket.messagesOut.Add(uint64(n))
	f.source.Advance(n)
}
