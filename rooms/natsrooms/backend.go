package natsrooms

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/foyerws/foyer/rooms"
)

// WhenDown says what happens while NATS cannot be reached.
type WhenDown int

const (
	// Refuse makes Publish and the opening of a room fail with rooms.ErrUnavailable: Publish with Core at once, with JetStream
	// after PublishTimeout; opening after two seconds. Members stay, and get what they have missed when NATS is back.
	Refuse WhenDown = iota
	// Local goes on with the members of this process: what is published reaches them at once as a transient message, is not
	// stored, and never reaches other processes.
	Local
)

// Options are for [Core] and [JetStream]. The zero value works.
type Options struct {
	// Prefix begins all subjects. "" means "rooms". It may have several tokens.
	Prefix string

	// WhenDown says what happens while NATS cannot be reached. The zero value is Refuse.
	WhenDown WhenDown

	// Logger receives what goes wrong without a caller to tell. Nil means slog.Default().
	Logger *slog.Logger

	// Stream is the name of the stream, for JetStream, as is all that follows. "" means the Prefix, with hyphens for dots. If
	// there is no such stream, it is created with what follows; an existing one must have RePublish and AllowDirect as that
	// would have, and keeps its own limits.
	Stream string

	// Replicas is on how many servers the stream is. 0 means 1, which loses messages if that server loses its disk.
	Replicas int

	// Memory keeps the stream in memory instead of in files.
	Memory bool

	// MaxAge is how long messages are kept, and MaxMessages how many of each room. 0 means one hour and 1,000. MaxBytes limits the
	// whole stream; the oldest messages of all rooms go first. 0 means 1 GiB. MaxMessages and MaxBytes of -1 mean no
	// limit; a negative MaxAge is refused by the server.
	MaxAge      time.Duration
	MaxMessages int
	MaxBytes    int64

	// PublishTimeout is how long Publish tries to have a message acknowledged. 0 means 10 seconds, which is enough for the
	// election of a new leader. When it gives up, the message may have been stored all the same. For a stream that exists, it
	// must be shorter than its duplicate window, or a message may be stored twice.
	PublishTimeout time.Duration
}

// A Backend is a rooms.Backend on NATS. It is for one Hub. All methods are safe for concurrent use. Close it after
// Hub.Shutdown.
type Backend struct {
	nc      *nats.Conn
	o       Options
	node    string // a name for this process
	subject string // of what this process is told
	log     *slog.Logger
	stream  *stream // nil for Core
	stats   counters

	starting sync.Mutex // guards:
	started  bool
	subs     []*nats.Subscription

	queues []chan *nats.Msg // of the goroutines that take what comes for rooms
	seed   maphash.Seed
	end    chan struct{} // closed by Close
	ended  sync.WaitGroup

	mu     sync.RWMutex        // guards:
	open   map[string]*channel // by escaped name
	closed bool

	droppedBefore atomic.Int64 // messages of rooms that were closed

	peers     peers
	telling   telling
	questions questions
	peopled   atomic.Int64  // rooms that have members here
	version   atomic.Uint64 // of presence, see newVersion
	begin     time.Time
}

// Core returns a Backend that passes messages on and stores nothing. The options may be left out; at most one is used. nc stays
// the program's.
func Core(nc *nats.Conn, o ...Options) *Backend {
	b := &Backend{nc: nc, node: nuid.Next(), begin: time.Now(), seed: maphash.MakeSeed(), end: make(chan struct{}), open: make(map[string]*channel)}
	if len(o) > 0 {
		b.o = o[0]
	}
	if b.o.Prefix == "" {
		b.o.Prefix = "rooms"
	}
	if b.log = b.o.Logger; b.log == nil {
		b.log = slog.Default()
	}
	b.subject = b.o.Prefix + ".node." + b.node
	b.peers.known, b.peers.patience = make(map[string]*peer), missedBeats
	b.telling.wake, b.telling.lately = make(chan struct{}, 1), make(map[string]lately)
	b.questions.asked = make(map[question]time.Time)
	return b
}

// queueSize is how many messages may wait for each goroutine that takes them.
const queueSize = 16 << 10

// start subscribes to what every process hears. It is called before a room is opened.
func (b *Backend) start() error {
	b.starting.Lock()
	defer b.starting.Unlock()
	if b.started {
		return nil
	}
	for subject, handle := range map[string]nats.MsgHandler{b.o.Prefix + ".node": b.heardBeat, b.subject: b.asked} {
		sub, err := b.nc.Subscribe(subject, handle)
		if err != nil {
			return err
		}
		b.subs = append(b.subs, sub)
	}
	for range runtime.GOMAXPROCS(0) {
		queue := make(chan *nats.Msg, queueSize)
		b.queues = append(b.queues, queue)
		b.run(func() { b.take(queue) })
	}
	b.run(b.tell)
	b.run(b.watch)
	b.started = true
	return nil
}

// run calls f on a goroutine that Close waits for, unless the Backend is closed already.
func (b *Backend) run(f func()) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if !b.closed {
		b.ended.Go(f)
	}
}

// take takes what comes for rooms.
func (b *Backend) take(queue <-chan *nats.Msg) {
	for {
		select {
		case msg := <-queue:
			token, kind, _ := strings.Cut(strings.TrimPrefix(msg.Subject, b.o.Prefix+".room."), ".")
			if c := b.channel(token); c != nil {
				c.take(kind, msg)
			}
		case <-b.end:
			return
		}
	}
}

// channel returns an open room, or nil.
func (b *Backend) channel(token string) *channel {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.open[token]
}

// channels returns all open rooms.
func (b *Backend) channels() []*channel {
	b.mu.RLock()
	defer b.mu.RUnlock()
	all := make([]*channel, 0, len(b.open))
	for _, c := range b.open {
		all = append(all, c)
	}
	return all
}

// Open implements rooms.Backend.
func (b *Backend) Open(ctx context.Context, room string, sink rooms.Sink) (rooms.Channel, error) {
	if err := b.start(); err != nil {
		return nil, unavailable(err)
	}
	c := &channel{backend: b, room: room, token: escape(room), sink: sink, ready: b.stream == nil}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, rooms.ErrClosed
	}
	b.open[c.token] = c
	b.mu.Unlock()
	if err := b.join(ctx, c); err != nil {
		c.Close()
		return nil, unavailable(err)
	}
	if b.stream == nil {
		return &coreChannel{c}, nil
	}
	return &streamChannel{c}, nil
}

// join subscribes to what is said in a room, and finds out what is there.
func (b *Backend) join(ctx context.Context, c *channel) (err error) {
	if err = c.subscribe(); err != nil {
		return err
	}
	c.ask()
	if b.o.WhenDown == Local && !b.nc.IsConnected() {
		return c.beginAway()
	}
	flushing, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err = b.nc.FlushWithContext(flushing); err == nil && b.stream != nil { // the server knows of the subscription
		err = c.findHead(ctx)
	}
	if err != nil && b.o.WhenDown == Local && ctx.Err() == nil {
		return c.beginAway()
	}
	return err
}

// beginAway begins without knowing what the stream has.
func (c *channel) beginAway() error {
	if c.backend.stream == nil {
		return nil
	}
	c.mu.Lock()
	c.away = true
	c.mu.Unlock()
	c.backend.stream.check(false)
	return nil
}

// unavailable wraps an error for the program.
func unavailable(err error) error { return fmt.Errorf("%w: %w", rooms.ErrUnavailable, err) }

// Close says goodbye to the other processes and ends all that Open has begun. The connection stays open.
func (b *Backend) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	b.mu.Unlock()
	for _, c := range b.channels() {
		c.Close()
	}
	b.starting.Lock()
	defer b.starting.Unlock()
	close(b.end)
	if !b.started {
		return nil
	}
	b.ended.Wait()
	b.beat(true)
	for _, sub := range b.subs {
		sub.Unsubscribe()
	}
	if !b.nc.IsConnected() {
		return nil
	}
	return b.nc.FlushTimeout(time.Second)
}

// Ready returns nil if the Backend can publish: NATS is connected, and the stream has answered. It is for a readiness check.
func (b *Backend) Ready(ctx context.Context) error {
	if !b.nc.IsConnected() {
		return unavailable(fmt.Errorf("NATS is %v", b.nc.Status()))
	}
	if b.stream != nil {
		if _, err := b.stream.info(ctx); err != nil {
			return unavailable(err)
		}
	}
	return nil
}

// Stats counts what a Backend has done, and what it has now.
type Stats struct {
	Rooms, Nodes int           // open rooms; other processes that are there, now
	Published    uint64        // messages that NATS has taken
	Retried      uint64        // attempts to publish that had no answer
	Received     uint64        // messages of rooms, from all processes
	Gaps         uint64        // how often messages were missing
	Filled       uint64        // messages that were fetched afterwards
	Lost         uint64        // gaps that could not be filled
	Reset        uint64        // how often the stream was another than before
	Delay        time.Duration // from the stream to here, of the last message; the clocks of two machines may differ
}

type counters struct {
	published, retried, received, gaps, filled, lost, reset atomic.Uint64
	delay                                                   atomic.Int64
}

// Stats returns the current counts.
func (b *Backend) Stats() Stats {
	st := Stats{Published: b.stats.published.Load(), Retried: b.stats.retried.Load(), Received: b.stats.received.Load(), Gaps: b.stats.gaps.Load(),
		Filled: b.stats.filled.Load(), Lost: b.stats.lost.Load(), Reset: b.stats.reset.Load(), Delay: time.Duration(b.stats.delay.Load())}
	b.mu.RLock()
	st.Rooms = len(b.open)
	b.mu.RUnlock()
	st.Nodes = b.peers.count()
	return st
}

// How often things are done.
const (
	beatInterval   = 5 * time.Second
	missedBeats    = 14 * time.Second // after which a process is not there any more; it has sent two
	checkInterval  = 30 * time.Second
	requestTimeout = 2 * time.Second
)

// watch does what is to be done from time to time, and when the connection is back.
func (b *Backend) watch() {
	status := b.nc.StatusChanged(nats.CONNECTED)
	defer b.nc.RemoveStatusListener(status)
	b.beat(false)
	second := time.NewTicker(time.Second)
	defer second.Stop()
	dropped := int64(0)
	for n := 1; ; n++ {
		select {
		case <-second.C:
		case <-status:
			b.catchUp()
			continue
		case <-b.end:
			return
		}
		for _, gone := range b.peers.silent() {
			b.forget(gone)
		}
		b.askAgain()
		if n%int(beatInterval/time.Second) == 0 {
			b.beat(false)
			before := dropped
			if dropped = b.dropped(); dropped > before {
				b.log.Warn("natsrooms: this process is too slow for what comes from NATS", "dropped", dropped-before)
				b.catchUp()
			}
		}
		if b.stream != nil && n%int(checkInterval/time.Second) == 0 {
			b.stream.check(false)
		}
	}
}

// dropped returns how many messages nats.go has dropped, because they were not taken soon enough.
func (b *Backend) dropped() int64 {
	n := b.droppedBefore.Load()
	for _, c := range b.channels() {
		c.mu.Lock()
		sub := c.sub
		c.mu.Unlock()
		if sub != nil {
			if d, err := sub.Dropped(); err == nil {
				n += int64(d)
			}
		}
	}
	for _, sub := range b.subs {
		if d, err := sub.Dropped(); err == nil {
			n += int64(d)
		}
	}
	return n
}

// catchUp finds out what may have been missed.
func (b *Backend) catchUp() {
	for _, node := range b.peers.all() {
		b.askNode(node)
	}
	b.beat(false)
	if b.stream != nil {
		b.stream.check(true)
	}
}

// after waits, and reports false if the Backend was closed or ctx has ended.
func (b *Backend) after(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-b.end:
	}
	return false
}
