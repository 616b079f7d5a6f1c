package natsrooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	b.stream = &stream{backend: b, fetching: make(chan struct{}, 32), wake: make(chan struct{}, 1), finding: make(chan struct{}, 1)}
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
	wake     chan struct{} // has room for one; check is to go on at once

	finding chan struct{} // has room for one, which looks for the stream; guards:
	js      jetstream.JetStream
	failed  time.Time // when it was not found
	failure error

	mu     sync.Mutex // a leaf; guards:
	handle jetstream.Stream
	epoch  string // changes when the stream is another
	seen   uint64 // the newest sequence number that is known
	short  int    // how often in a row the stream ended before it
	cuts   int    // how often it has lost its end
	cut    uint64 // where it ended then, the last time
	checks int    // calls of check that are not done
	full   bool   // the next comparison is to be of all rooms
	turn   int    // the room with which the next one begins, otherwise
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
		Duplicates:        min(max(2*time.Minute, 2*b.o.PublishTimeout), b.o.MaxAge),
		RePublish: &jetstream.RePublish{
			Source:      b.logSubject("*"),
			Destination: b.o.Prefix + ".room.{{wildcard(1)}}." + kindMessage,
		},
	}
}

// found returns the stream, or nil if it has to be looked for.
func (s *stream) found() jetstream.Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handle
}

// ensure finds the stream, or creates it. If it cannot be found, those that wait are told the same.
func (s *stream) ensure(ctx context.Context) (jetstream.Stream, error) {
	if handle := s.found(); handle != nil {
		return handle, nil
	}
	select {
	case s.finding <- struct{}{}:
		defer func() { <-s.finding }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if handle := s.found(); handle != nil {
		return handle, nil
	}
	if time.Since(s.failed) < time.Second {
		return nil, s.failure
	}
	handle, err := s.find(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.failed, s.failure = time.Now(), err
		}
		return nil, err
	}
	info := handle.CachedInfo()
	s.mu.Lock()
	s.handle = handle
	s.mu.Unlock()
	if s.begin(info) {
		s.reset(info)
		s.check(true)
	}
	return handle, nil
}

func (s *stream) find(ctx context.Context) (handle jetstream.Stream, err error) {
	b := s.backend
	if s.js == nil {
		if s.js, err = jetstream.New(b.nc); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	want := b.config()
	handle, err = s.js.Stream(ctx, b.o.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if handle, err = s.js.CreateStream(ctx, want); errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			handle, err = s.js.Stream(ctx, b.o.Stream) // another process was faster
		}
	}
	if err != nil {
		return nil, err
	}
	if c := handle.CachedInfo().Config; !c.AllowDirect || c.RePublish == nil || c.RePublish.Destination != want.RePublish.Destination || !slices.Contains(c.Subjects, want.Subjects[0]) {
		return nil, fmt.Errorf("natsrooms: the stream %s needs the subject %s, AllowDirect, and RePublish from there to %s",
			b.o.Stream, want.Subjects[0], want.RePublish.Destination)
	}
	return handle, nil
}

// begin notes the epoch of the stream, and reports whether it was another before.
func (s *stream) begin(info *jetstream.StreamInfo) (other bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	epoch := epochOf(info)
	if s.epoch == epoch {
		return false
	}
	other = s.epoch != ""
	s.epoch, s.seen, s.short, s.full = epoch, info.State.LastSeq, 0, true
	return other
}

// reset logs that rooms start again from nothing.
func (s *stream) reset(info *jetstream.StreamInfo) {
	b := s.backend
	b.stats.reset.Add(1)
	b.log.Error("natsrooms: the stream is another than before, or has lost its end: rooms start again from nothing", "stream", b.o.Stream, "created", info.Created)
}

// epochOf returns a name for the stream that no other one with its name has had.
func epochOf(info *jetstream.StreamInfo) string {
	return strconv.FormatInt(info.Created.UnixNano(), 36)
}

// info asks the leader for the state of the stream.
func (s *stream) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	handle, err := s.ensure(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	info, err := handle.Info(ctx)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s.mu.Lock()
		s.handle = nil // so that it is created again
		s.mu.Unlock()
	}
	return info, err
}

// state returns the epoch, the newest sequence number that is known, and how often the stream has lost its end.
func (s *stream) state() (epoch string, seen uint64, cuts int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch, s.seen, s.cuts
}

// see notes that a sequence number exists.
func (s *stream) see(sequence uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = max(s.seen, sequence)
}

// errAway says that a message was never sent, because NATS is away.
var errAway = fmt.Errorf("natsrooms: %w", nats.ErrDisconnected)

// store has the stream take a message, and returns its sequence number. It tries again until there is an answer, with the same id, so
// that the message is stored once.
func (s *stream) store(ctx context.Context, msg *nats.Msg) (uint64, error) {
	b := s.backend
	ctx, cancel := context.WithTimeout(ctx, b.o.PublishTimeout)
	defer cancel()
	sent := false
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := errAway
		if b.nc.IsConnected() { // or else nats.go would keep it, and send it after it was given up here
			var sequence uint64
			sent = true
			if sequence, err = s.tryStore(ctx, msg); err == nil {
				b.stats.published.Add(1)
				return sequence, nil
			}
		} else if !sent && b.o.WhenDown == Local {
			return 0, errAway
		}
		var refused *jetstream.APIError
		switch {
		case errors.As(err, &refused) && refused.Code != 503 && !errors.Is(err, jetstream.ErrStreamNotFound):
			return 0, err
		case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrConnectionClosed):
			return 0, err
		}
		b.stats.retried.Add(1)
		if !b.after(ctx, pause) {
			if sent && errors.Is(err, errAway) {
				err = nats.ErrTimeout // it may have been stored
			}
			return 0, err
		}
	}
}

func (s *stream) tryStore(ctx context.Context, msg *nats.Msg) (uint64, error) {
	if _, err := s.ensure(ctx); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	ack, err := s.js.PublishMsg(ctx, msg, jetstream.WithRetryAttempts(0))
	if errors.Is(err, jetstream.ErrNoStreamResponse) {
		s.info(ctx) // it may have been deleted
	}
	if err != nil {
		return 0, err
	}
	s.see(ack.Sequence)
	return ack.Sequence, nil
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
	answers := make(chan *nats.Msg, max(r.Batch, len(r.LastOf))+2) // SubscribeSync would take 512 KiB
	sub, err := b.nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return nil, 0, err
	}
	defer sub.Unsubscribe()
	if err := b.nc.PublishRequest("$JS.API.DIRECT.GET."+b.o.Stream, inbox, data); err != nil {
		return nil, 0, err
	}
	for {
		var msg *nats.Msg
		select {
		case msg = <-answers:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
		switch status := msg.Header.Get(statusHeader); status {
		case "":
			messages = append(messages, msg)
			if r.Last != "" {
				return messages, 0, nil
			}
		case "204": // the end
			return messages, int(number(msg, pendingHeader)), nil
		case "404": // nothing, or nothing more
			return messages, 0, nil
		case "503":
			s.info(ctx) // it may have been deleted
			return nil, 0, nats.ErrNoResponders
		default:
			return nil, 0, fmt.Errorf("natsrooms: history: %s %s", status, msg.Header.Get("Description"))
		}
	}
}

// leaderHead asks the leader for the newest message of a room. It returns 0 if there is none.
func (s *stream) leaderHead(ctx context.Context, token string) (uint64, error) {
	b := s.backend
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	data, err := json.Marshal(&request{Last: b.logSubject(token)})
	if err != nil {
		return 0, err
	}
	msg, err := b.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+b.o.Stream, data)
	if err != nil {
		return 0, err
	}
	var answer struct {
		Message struct {
			Sequence uint64 `json:"seq"`
		} `json:"message"`
		Error *jetstream.APIError `json:"error"`
	}
	switch err := json.Unmarshal(msg.Data, &answer); {
	case err != nil:
		return 0, err
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return 0, nil
	case answer.Error != nil:
		return 0, answer.Error
	}
	return answer.Message.Sequence, nil
}

// headsAtOnce is how many rooms are asked for at a time; a server has a limit of 1,024.
const headsAtOnce = 512

// comparedAtOnce is how many rooms are compared every checkInterval. If there are more, they take turns.
const comparedAtOnce = 10_000

// check compares what was delivered with what the stream has, in all rooms if there was a reason. If that is being done already, it is
// done again.
func (s *stream) check(all bool) {
	s.mu.Lock()
	s.full = s.full || all
	s.checks++
	first := s.checks == 1
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	if first {
		s.backend.run(s.keepChecking)
	}
}

// keepChecking checks until there are answers for all calls of check.
func (s *stream) keepChecking() {
	b := s.backend
	for pause := 100 * time.Millisecond; ; {
		s.mu.Lock()
		calls := s.checks
		s.mu.Unlock()
		err := s.compareAll()
		s.mu.Lock()
		if err == nil {
			s.checks -= calls
			pause = 100 * time.Millisecond
		}
		done := s.checks == 0
		s.mu.Unlock()
		if done {
			return
		}
		if err == nil {
			continue
		}
		if b.nc.IsConnected() && pause > time.Second {
			b.log.Warn("natsrooms: the stream cannot be compared with what was delivered", "stream", b.o.Stream, "err", err)
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
			pause = min(2*pause, checkInterval)
		case <-s.wake:
			pause = 100 * time.Millisecond
		case <-b.end:
			t.Stop()
			return
		}
		t.Stop()
	}
}

// compareAll compares rooms once.
func (s *stream) compareAll() error {
	b := s.backend
	ctx := context.Background()
	_, seen, _ := s.state()
	info, err := s.info(ctx)
	if err != nil {
		return err
	}
	other := s.begin(info)
	s.mu.Lock()
	full := s.full
	switch {
	case other || info.State.LastSeq >= seen:
		s.short = 0
	case s.short < maxStale: // the leader may be new, and about to catch up
		s.short++
		s.mu.Unlock()
		return errLag
	default:
		s.seen, s.short, s.cut, s.full, full = info.State.LastSeq, 0, info.State.LastSeq, true, true
		s.cuts++
		other = true
	}
	cuts, cut, turn := s.cuts, s.cut, s.turn
	s.mu.Unlock()
	if other {
		s.reset(info)
	}
	channels := b.channels()
	if !full && len(channels) > comparedAtOnce {
		slices.SortFunc(channels, func(a, b *channel) int { return strings.Compare(a.token, b.token) })
		turn %= len(channels)
		channels = append(channels[turn:], channels[:turn]...)[:comparedAtOnce]
	}
	for part := range slices.Chunk(channels, headsAtOnce) {
		heads, err := s.heads(ctx, part)
		if err != nil {
			return err
		}
		for _, c := range part {
			c.compare(epochOf(info), heads[b.logSubject(c.token)], &info.State, cuts, cut)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn = turn + comparedAtOnce
	if full {
		s.full = false
	}
	return nil
}

// heads returns the newest message of each room that has one, by subject.
func (s *stream) heads(ctx context.Context, channels []*channel) (map[string]uint64, error) {
	var subjects []string
	for _, c := range channels {
		subjects = append(subjects, s.backend.logSubject(c.token))
	}
	heads := make(map[string]uint64, len(subjects))
	for part := range parts(subjects, sizeOfName) {
		for len(part) > 0 {
			messages, pending, err := s.get(ctx, &request{LastOf: part, MaxBytes: maxPage})
			if err != nil {
				return nil, err
			}
			for _, msg := range messages {
				heads[msg.Header.Get(subjectHeader)] = number(msg, sequenceHeader)
			}
			if pending == 0 {
				break
			}
			if len(messages) == 0 {
				return nil, errLag
			}
			part = slices.DeleteFunc(slices.Clone(part), func(subject string) bool { return heads[subject] != 0 })
		}
	}
	return heads, nil
}
