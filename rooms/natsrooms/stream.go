package natsrooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// JetStream returns a Backend that stores the messages of all rooms in one stream. The options may be left out; at most one is used.
// nc stays the program's.
func JetStream(nc *nats.Conn, o ...Options) *Backend {
	b := Core(nc, o...)
	if b.o.Stream == "" {
		b.o.Stream = strings.ReplaceAll(b.o.Prefix, ".", "-")
	}
	b.o.Replicas = orDefault(b.o.Replicas, 1)
	b.o.MaxAge = orDefault(b.o.MaxAge, time.Hour)
	b.o.MaxMessages = orDefault(b.o.MaxMessages, 1000)
	b.o.MaxBytes = orDefault(b.o.MaxBytes, 1<<30)
	b.o.PublishTimeout = orDefault(b.o.PublishTimeout, 10*time.Second)
	b.stream = &stream{backend: b, fetching: make(chan struct{}, 32)}
	return b
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// A stream is where the messages of all rooms are.
type stream struct {
	backend  *Backend
	fetching chan struct{} // has room for those that fetch what is missing

	mu      sync.Mutex // guards:
	handle  jetstream.Stream
	js      jetstream.JetStream
	epoch   string // changes when the stream is another
	seen    uint64 // the newest sequence number that is known
	shorter int    // how often in a row the stream ended before it
	checks  int    // calls of check that are not done
}

// subject is that of a room's messages in the stream.
func (b *Backend) logSubject(token string) string { return b.o.Prefix + ".log." + token }

// config is that of a stream that is created.
func (b *Backend) config() jetstream.StreamConfig {
	storage := jetstream.FileStorage
	if b.o.Memory {
		storage = jetstream.MemoryStorage
	}
	return jetstream.StreamConfig{
		Name:              b.o.Stream,
		Description:       "rooms of foyer",
		Subjects:          []string{b.logSubject("*")},
		Storage:           storage,
		Replicas:          b.o.Replicas,
		MaxAge:            b.o.MaxAge,
		MaxMsgsPerSubject: int64(b.o.MaxMessages),
		MaxBytes:          b.o.MaxBytes,
		Discard:           jetstream.DiscardOld,
		AllowDirect:       true,
		RePublish: &jetstream.RePublish{
			Source:      b.logSubject("*"),
			Destination: b.o.Prefix + ".room.{{wildcard(1)}}." + kindMessage,
		},
	}
}

// ensure finds the stream, or creates it.
func (s *stream) ensure(ctx context.Context) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.handle != nil {
		return nil
	}
	b := s.backend
	if s.js == nil {
		if s.js, err = jetstream.New(b.nc); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	want := b.config()
	handle, err := s.js.Stream(ctx, b.o.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if handle, err = s.js.CreateStream(ctx, want); errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			handle, err = s.js.Stream(ctx, b.o.Stream) // another process was faster
		}
	}
	if err != nil {
		return err
	}
	info := handle.CachedInfo()
	if c := info.Config; !c.AllowDirect || c.RePublish == nil || c.RePublish.Destination != want.RePublish.Destination || !slices.Contains(c.Subjects, want.Subjects[0]) {
		return fmt.Errorf("natsrooms: the stream %s needs the subject %s, AllowDirect, and RePublish from there to %s",
			b.o.Stream, want.Subjects[0], want.RePublish.Destination)
	}
	s.handle = handle
	if s.epoch == "" {
		s.epoch, s.seen = epochOf(info), info.State.LastSeq
	} else if s.epoch != epochOf(info) {
		go s.check()
	}
	return nil
}

// epochOf returns a name for the stream that no other one with its name has had.
func epochOf(info *jetstream.StreamInfo) string {
	return strconv.FormatInt(info.Created.UnixNano(), 36)
}

// info asks for the state of the stream.
func (s *stream) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	if err := s.ensure(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	handle := s.handle
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return handle.Info(ctx)
}

// state returns the epoch and the newest sequence number that is known.
func (s *stream) state() (epoch string, seen uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch, s.seen
}

// see notes that a sequence number exists.
func (s *stream) see(sequence uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = max(s.seen, sequence)
}

// store has the stream take a message, and returns its sequence number. It tries again until there is an answer, with the same id, so
// that the message is stored once.
func (s *stream) store(ctx context.Context, msg *nats.Msg) (uint64, error) {
	b := s.backend
	ctx, cancel := context.WithTimeout(ctx, b.o.PublishTimeout)
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		sequence, err := s.tryStore(ctx, msg)
		var refused *jetstream.APIError
		switch {
		case err == nil:
			b.stats.published.Add(1)
			return sequence, nil
		case errors.As(err, &refused) && refused.Code != 503 && !errors.Is(err, jetstream.ErrStreamNotFound):
			return 0, err
		case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrConnectionClosed):
			return 0, err
		case b.o.WhenDown == Local && !b.nc.IsConnected():
			return 0, err
		}
		b.stats.retried.Add(1)
		if !b.after(ctx, pause) {
			return 0, err
		}
	}
}

func (s *stream) tryStore(ctx context.Context, msg *nats.Msg) (uint64, error) {
	if !s.backend.nc.IsConnected() {
		return 0, nats.ErrDisconnected // or else nats.go would keep it, and send it after it was given up here
	}
	if err := s.ensure(ctx); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	ack, err := s.js.PublishMsg(ctx, msg, jetstream.WithRetryAttempts(0))
	if errors.Is(err, jetstream.ErrNoStreamResponse) {
		s.lookAgain(ctx) // it may have been deleted
	}
	if err != nil {
		return 0, err
	}
	s.see(ack.Sequence)
	return ack.Sequence, nil
}

// lookAgain finds out whether the stream is there.
func (s *stream) lookAgain(ctx context.Context) {
	if _, err := s.info(ctx); errors.Is(err, jetstream.ErrStreamNotFound) {
		s.mu.Lock()
		s.handle = nil
		s.mu.Unlock()
	}
}

// request is a request of the Direct Get API.
type request struct {
	Sequence uint64   `json:"seq,omitempty"`
	Next     string   `json:"next_by_subj,omitempty"`
	Last     string   `json:"last_by_subj,omitempty"`
	LastOf   []string `json:"multi_last,omitempty"`
	Batch    int      `json:"batch,omitempty"`
	MaxBytes int      `json:"max_bytes,omitempty"`
}

// maxPage is how many bytes are fetched at a time.
const maxPage = 4 << 20

// get gets messages from the stream, in order, from the server that answers first, which may lag behind. There are as many more as are
// pending.
func (s *stream) get(ctx context.Context, r *request) (messages []*nats.Msg, pending int, err error) {
	b := s.backend
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	data, err := json.Marshal(r)
	if err != nil {
		return nil, 0, err
	}
	inbox := b.nc.NewInbox()
	sub, err := b.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, 0, err
	}
	defer sub.Unsubscribe()
	if err := b.nc.PublishRequest("$JS.API.DIRECT.GET."+b.o.Stream, inbox, data); err != nil {
		return nil, 0, err
	}
	for {
		msg, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, 0, err
		}
		switch status := msg.Header.Get(statusHeader); status {
		case "":
			messages = append(messages, msg)
			if r.Last != "" {
				return messages, 0, nil
			}
		case "204": // the end
			return messages, int(number(msg, pendingHeader)), nil
		case "404": // nothing
			return nil, 0, nil
		default:
			return nil, 0, fmt.Errorf("natsrooms: history: %s %s", status, msg.Header.Get("Description"))
		}
	}
}

// headsAtOnce is how many rooms are asked for at a time; a server has a limit of 1,024.
const headsAtOnce = 512

// check compares what was delivered with what the stream has, in all rooms. If that is being done already, it is done again.
func (s *stream) check() {
	s.mu.Lock()
	if s.checks++; s.checks > 1 {
		s.mu.Unlock()
		return
	}
	for s.checks > 0 {
		s.checks = 1
		s.mu.Unlock()
		s.keepChecking()
		s.mu.Lock()
		s.checks--
	}
	s.mu.Unlock()
}

// keepChecking checks until there is an answer.
func (s *stream) keepChecking() {
	b := s.backend
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, checkInterval) {
		err := s.checkOnce()
		if err == nil {
			return
		}
		if b.nc.IsConnected() {
			b.log.Warn("natsrooms: the stream cannot be compared with what was delivered", "stream", b.o.Stream, "err", err)
		}
		if !b.after(context.Background(), pause) || b.nc.IsClosed() {
			return
		}
	}
}

func (s *stream) checkOnce() error {
	b := s.backend
	ctx := context.Background()
	begin := time.Now()
	_, seen := s.state()
	info, err := s.info(ctx)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s.lookAgain(ctx)
		info, err = s.info(ctx)
	}
	if err != nil {
		return err
	}
	epoch, cut := epochOf(info), uint64(math.MaxUint64)
	s.mu.Lock()
	other, short := s.epoch != epoch, info.State.LastSeq < seen
	if s.shorter++; !short || other {
		s.shorter = 0
	}
	if short && !other && s.shorter < maxStale { // the leader may be new, and about to catch up
		s.mu.Unlock()
		return errLag
	}
	if s.epoch = epoch; other || short {
		s.seen, s.shorter, cut = info.State.LastSeq, 0, info.State.LastSeq
	}
	s.mu.Unlock()
	if other || short {
		b.stats.reset.Add(1)
		b.log.Error("natsrooms: the stream is another than before, or has lost its end: rooms begin anew", "stream", b.o.Stream, "created", info.Created)
	}
	for part := range slices.Chunk(b.channels(), headsAtOnce) {
		subjects := make([]string, len(part))
		for i, c := range part {
			subjects[i] = b.logSubject(c.token)
		}
		heads, _, err := s.get(ctx, &request{LastOf: subjects})
		if err != nil {
			return err
		}
		head := make(map[string]uint64, len(heads))
		for _, msg := range heads {
			head[msg.Header.Get(subjectHeader)] = number(msg, sequenceHeader)
		}
		for i, c := range part {
			c.compare(epoch, head[subjects[i]], info.State.FirstSeq, cut, begin)
		}
	}
	return nil
}
