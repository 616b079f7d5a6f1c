package foyer

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/foyerws/foyer/internal/frame"
	"github.com/foyerws/foyer/internal/wire"
)

// A Prepared is a message of Sources, encoded once for many sockets.
type Prepared struct {
	id      uint64
	kind    MessageType
	size    int    // of the payload
	plain   []byte // what a server sends, in one frame
	mu      sync.Mutex
	special []encoding // for sockets that need something else; guarded by mu
}

// prepared counts the messages, to give them ids.
var prepared atomic.Uint64

// An encoding is a message as sockets of one kind send it.
type encoding struct {
	by    frame.Deflater // the zero value does not compress
	split int            // the longest payload of a frame; 0: no limit
	bytes []byte
}

// Prepare copies p. It panics if t is neither Text (p must be UTF-8) nor Binary.
func Prepare(t MessageType, p []byte) *Prepared {
	if t != Text && t != Binary {
		panic(errBadMessageType.Error())
	}
	b := make([]byte, 0, frame.MaxHeader+len(p))
	b = frame.AppendHeader(b, frame.Final|byte(t), len(p))
	return &Prepared{id: prepared.Add(1), kind: t, size: len(p), plain: append(b, p...)}
}

// Type returns the message's type.
func (m *Prepared) Type() MessageType { return m.kind }

// Payload returns the payload. Do not change it.
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

// A Source has messages for one socket, which takes them when its network can: a cursor in a shared log instead of a
// queue per socket. Positions are its own. Pull and writes call it with the socket locked: it must return soon, call no
// socket, and need no lock of theirs.
type Source interface {
	// Appends the next messages, at most max, up to upto. Without messages or more, another Pull is needed.
	Peek(messages []*Prepared, upto uint64, max int) (_ []*Prepared, more bool)

	// The first n messages of the last Peek are being written; the others are asked for again.
	Advance(n int)
}

// A Feed sends a socket the messages of a [Source].
type Feed struct {
	wire   wire.Feed
	conn   *wire.Conn // the socket's
	source Source
	socket *Socket // touched only where it must be: memory is slow
	run    *run    // what the one frame of the last Peek stands for; nil if each message has its own
	plain  bool    // unless the rules say otherwise, messages are sent as they are
	alone  uint64  // the first message of the last run that this one was the first to want
}

// NewFeed returns a Feed. A slow client holds one message of it, over TLS 64 KiB more, beside MaxWriteBuffer. Context
// takeover does not compress its messages.
func (s *Socket) NewFeed(source Source) *Feed {
	f := &Feed{socket: s, conn: s.wire, source: source}
	f.wire.Source = (*feedSource)(f)
	f.plain = s.isServer() && (s.deflate == nil || s.deflate.out.Takeover())
	return f
}

// Pull has messages up to position upto sent when the client takes them, behind earlier writes and any open Writer. It
// does not wait. Socket.Close drops what is not written. Pull is safe for concurrent use. Its error is ErrClosed.
func (f *Feed) Pull(upto uint64) error { return f.pull(upto, wire.Batched) }

// PullAll pulls several Feeds, at best eight, and writes at once. Errors are dropped.
func PullAll(feeds []*Feed, upto uint64) {
	for _, f := range feeds {
		f.conn.Touch()
	}
	for _, f := range feeds {
		f.pull(upto, wire.Now)
	}
}

func (f *Feed) pull(upto uint64, how wire.Leave) error {
	if err := f.conn.Pull(&f.wire, upto, how); err != nil {
		return f.socket.writeError(err)
	}
	return nil
}

// A run is messages in a row, put together once for all sockets that are at the same place of a log.
type run struct {
	messages []*Prepared
	bytes    []byte // nil until another socket wants them, too
}

// maxRun is the longest run, in bytes.
const maxRun = 64 << 10

// runs are the latest, by the id of the first message.
var runs [16]atomic.Pointer[run]

// together returns messages as a run, or nil if they are not to be put together: they are too long, or f may be alone with them.
func (f *feedSource) together(messages []*Prepared) *run {
	if len(messages) < 2 {
		return nil
	}
	first := messages[0].id
	latest := &runs[first%uint64(len(runs))]
	r := latest.Load()
	same := r != nil && slices.Equal(r.messages, messages)
	switch {
	case same && r.bytes != nil:
		return r
	case same && f.alone == first:
		return nil
	}
	size := 0
	for _, m := range messages {
		size += len(m.plain)
	}
	switch {
	case size > maxRun:
		return nil
	case !same:
		f.alone = first
		latest.Store(&run{messages: slices.Clone(messages)})
		return nil
	}
	r = &run{r.messages, make([]byte, 0, size)}
	for _, m := range messages {
		r.bytes = append(r.bytes, m.plain...)
	}
	latest.Store(r)
	return r
}

// written returns how many of the messages a socket is done with that has rest left of the run, and will write the rest of the last of
// them.
func (r *run) written(rest []byte) (done int, _ []byte) {
	at := len(r.bytes) - len(rest)
	for i, m := range r.messages {
		if at < len(m.plain) {
			return i + 1, m.plain[at:]
		}
		at -= len(m.plain)
	}
	return len(r.messages), nil
}

// A feedSource is a Feed as the wire asks it.
type feedSource Feed

var peeked = sync.Pool{New: func() any { return new([]*Prepared) }}

func (f *feedSource) Peek(frames [][]byte, upto uint64, max int) (_ [][]byte, more bool) {
	defer f.contain()
	room := peeked.Get().(*[]*Prepared)
	*room, more = f.source.Peek((*room)[:0], upto, max)
	plain := f.plain && f.conn.Rules().Split == 0
	if f.run = nil; plain {
		f.run = f.together(*room)
	}
	switch {
	case f.run != nil:
		frames = append(frames, f.run.bytes)
	case plain:
		for _, m := range *room {
			frames = append(frames, m.plain)
		}
	default:
		for _, m := range *room {
			frames = append(frames, m.bytesFor(f.socket))
		}
	}
	clear(*room)
	peeked.Put(room)
	return frames, more
}

// contain has a panic of the Source end the socket, which is locked.
func (f *feedSource) contain() {
	if v := recover(); v != nil {
		s, err := f.socket, newPanicError(v)
		go func() {
			s.config.reportPanicError("a Source", s, err)
			s.Close(CloseInternalServerErr, "")
		}()
	}
}

func (f *feedSource) Advance(n int, rest []byte) (messages int, _ []byte) {
	defer f.contain()
	r := f.run
	if f.run = nil; n == 0 {
		return 0, nil
	}
	if r != nil {
		n, rest = r.written(rest)
	}
	f.source.Advance(n)
	return n, rest
}
