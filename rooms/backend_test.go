package rooms

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
)

// A store is a Backend that keeps more than the rings do, and whose offsets are not contiguous, as those of a stream for
// many rooms.
type store struct {
	mu       sync.Mutex
	messages map[string][]*Message
	offset   uint64
	sinks    map[string]Sink
	broken   error
	asked    int
	late     bool // deliver delivers, and not Publish
	waiting  map[string][]*Message

	telling sync.Mutex // guards:
	told    []Presence
}

// forget drops the first n messages of a room.
func (s *store) forget(room string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages[room] = s.messages[room][n:]
}

// deliver delivers the next n messages of a room.
func (s *store) deliver(room string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.waiting[room][:n] {
		s.sinks[room].Deliver(m)
	}
	s.waiting[room] = s.waiting[room][n:]
	s.sinks[room].Flush()
}

func (s *store) Open(_ context.Context, room string, sink Sink) (Channel, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return nil, s.broken
	}
	if s.sinks == nil {
		s.sinks, s.messages = make(map[string]Sink), make(map[string][]*Message)
	}
	s.sinks[room] = sink
	return &stored{s, room}, nil
}

type stored struct {
	*store
	room string
}

func (s *stored) Publish(_ context.Context, m *Message) (Position, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return Position{}, s.broken
	}
	s.offset += 3
	m.Position = Position{"stream", s.offset}
	s.messages[s.room] = append(s.messages[s.room], m)
	if s.late {
		if s.waiting == nil {
			s.waiting = make(map[string][]*Message)
		}
		s.waiting[s.room] = append(s.waiting[s.room], m)
		return m.Position, nil
	}
	s.sinks[s.room].Deliver(m)
	s.sinks[s.room].Flush()
	return m.Position, nil
}

func (s *stored) Last() Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all := s.messages[s.room]; len(all) > 0 {
		return all[len(all)-1].Position
	}
	return Position{Epoch: "stream"}
}

func (s *stored) History(_ context.Context, since Position, max int) ([]*Message, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.broken != nil {
		return nil, false, s.broken
	}
	all := s.messages[s.room]
	if since == (Position{}) {
		return all[len(all)-min(max, len(all)):], false, nil
	}
	i := slices.IndexFunc(all, func(m *Message) bool { return m.Position == since })
	if i < 0 && since.Offset != 0 || since.Epoch != "stream" {
		return nil, false, nil
	}
	all = all[i+1:]
	return all[:min(max, len(all))], true, nil
}

func (s *stored) Present(p Presence) {
	s.telling.Lock()
	defer s.telling.Unlock()
	s.told = append(s.told, p)
}

func (s *stored) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sinks, s.room)
	return nil
}

// TestHistoryOfABackend is what a room has that this process has just opened, or whose ring is too short.
func TestHistoryOfABackend(t *testing.T) {
	backend := &store{}
	earlier := Hub{Backend: backend, Encode: numbered}
	for i := 1; i <= 20; i++ {
		if _, err := earlier.Room("x").Publish(t.Context(), foyer.Text, fmt.Append(nil, "m", i)); err != nil {
			t.Fatal(err)
		}
	}
	earlier.Shutdown(t.Context())
	at := func(n int) Position { return Position{"stream", uint64(3 * n)} }
	texts := func(from, to int) (all []string) {
		for i := from; i <= to; i++ {
			all = append(all, fmt.Sprint(at(i), " m", i))
		}
		return all
	}
	hub := Hub{Backend: backend, Encode: numbered, HistoryMessages: 18}
	for i, test := range []struct {
		o         JoinOptions
		recovered bool
		want      []string
	}{
		{JoinOptions{}, false, nil},
		{JoinOptions{Since: at(15)}, true, texts(16, 20)},
		{JoinOptions{Since: at(20)}, true, nil},
		{JoinOptions{Since: at(1)}, true, texts(2, 20)}, // more than HistoryMessages
		{JoinOptions{Since: at(1), History: 3}, true, texts(2, 20)},
		{JoinOptions{History: 4}, false, texts(17, 20)},
		{JoinOptions{Since: Position{"other", 60}, History: 1}, false, texts(20, 20)},
		{JoinOptions{Since: at(21)}, false, nil},
	} {
		client, server := foyertest.Pair(t, &foyer.Handler{})
		m, err := hub.Room("x").Join(t.Context(), server, test.o)
		if err != nil || m.Recovered() != test.recovered {
			t.Fatalf("%d: %v, %v", i, m.Recovered(), err)
		}
		want := append([]string{fmt.Sprint(at(20), " welcome ", test.recovered)}, test.want...)
		for _, w := range want {
			if got := hear(t, client); got != w {
				t.Errorf("%d: %q, want %q", i, got, w)
			}
		}
		m.Leave()
	}
}

// TestCatchingUp has members come back to more than one page of history, while others publish, and with little room in the
// ring.
func TestCatchingUp(t *testing.T) {
	for _, policy := range []SlowPolicy{Close, Skip, Resync} {
		backend := &store{}
		hub := Hub{Backend: backend, Encode: numbered, HistoryMessages: 300, Slow: policy}
		room := hub.Room("x")
		for i := 1; i <= 500; i++ {
			room.Publish(t.Context(), foyer.Text, fmt.Append(nil, "m", i))
		}
		client, server := foyertest.Pair(t, &foyer.Handler{})
		m, err := room.Join(t.Context(), server, JoinOptions{Since: Position{"stream", 3}})
		if err != nil || !m.Recovered() {
			t.Fatal(err, m.Recovered())
		}
		hear(t, client) // welcome
		for i := 2; i <= 600; i++ {
			if i == 400 { // the rest comes while it still catches up, and not so much that it is too slow
				go func() {
					for i := 501; i <= 600; i++ {
						room.Publish(t.Context(), foyer.Text, fmt.Append(nil, "m", i))
					}
				}()
			}
			if got, want := hear(t, client), fmt.Sprint(Position{"stream", uint64(3 * i)}, " m", i); got != want {
				t.Fatalf("policy %d: %q, want %q", policy, got, want)
			}
		}
	}
}

// TestComingBackToANewMachine is for a history that is longer than a page, and a room that was not open here.
func TestComingBackToANewMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, policy := range []SlowPolicy{Close, Skip, Resync} {
			for _, forgotten := range []int{0, 100} {
				backend := &store{}
				earlier := Hub{Backend: backend}
				for i := 1; i <= 300; i++ {
					earlier.Room("x").Publish(t.Context(), foyer.Text, fmt.Append(nil, "m", i))
				}
				earlier.Shutdown(t.Context())
				hub := Hub{Backend: backend, Encode: numbered, Slow: policy}
				client, server := blocked(t)
				m, err := hub.Room("x").Join(t.Context(), server, JoinOptions{Since: Position{"stream", 3}})
				if err != nil || !m.Recovered() {
					t.Fatal(err)
				}
				backend.forget("x", forgotten)
				hub.Room("x").Publish(t.Context(), foyer.Text, []byte("m301"))
				hear(t, client)
				got := rest(t, client)
				synctest.Wait() // the socket is closing once the close frame was sent
				last := got[len(got)-1]
				switch {
				case forgotten == 0 && (len(got) != 301 || last != "stream-903 m301"):
					t.Errorf("policy %d: %d messages, the last is %q", policy, len(got), last)
				case forgotten > 0 && policy == Close && server.State() == foyer.StateOpen:
					t.Errorf("%q, and the socket is open", last)
				case forgotten > 0 && policy != Close && !strings.Contains(strings.Join(got, "\n"), " gap "):
					t.Errorf("policy %d: no gap, the last is %q", policy, last)
				}
			}
		}
	})
}

// TestResync has the Backend fill the gap of a member that is too slow.
func TestResync(t *testing.T) {
	hub := Hub{Backend: &store{}, Encode: numbered, HistoryMessages: 1000, HistoryBytes: 500 << 10}
	client, room := slowMember(t, &hub, Resync)
	hear(t, client)
	flood(t, room, 300)
	for i := 1; i <= 300; i++ {
		got := hear(t, client)
		if want := fmt.Sprint(Position{"stream", uint64(3 * i)}); got[:len(want)] != want {
			t.Fatalf("%.30q instead of %s", got, want)
		}
	}
	if hub.Stats().Slow == 0 {
		t.Error("never too slow")
	}
}

func TestBackendThatFails(t *testing.T) {
	backend := &store{broken: errors.New("not there")}
	hub := Hub{Backend: backend}
	client, server := foyertest.Pair(t, &foyer.Handler{})
	if _, err := hub.Room("x").Join(t.Context(), server, JoinOptions{}); !errors.Is(err, backend.broken) {
		t.Error(err)
	}
	if _, err := hub.Room("x").Publish(t.Context(), foyer.Text, nil); !errors.Is(err, backend.broken) {
		t.Error(err)
	}
	if st := hub.Stats(); st.Rooms != 0 || st.Members != 0 {
		t.Errorf("%+v", st)
	}
	backend.broken = nil
	m, err := hub.Room("x").Join(t.Context(), server, JoinOptions{})
	if err != nil {
		t.Fatal(err)
	}
	backend.mu.Lock()
	backend.broken = errors.New("gone")
	backend.mu.Unlock()
	if _, err := m.Publish(t.Context(), foyer.Text, nil); !errors.Is(err, backend.broken) {
		t.Error(err)
	}
	_, other := foyertest.Pair(t, &foyer.Handler{})
	if _, err := hub.Room("x").Join(t.Context(), other, JoinOptions{Since: Position{"old", 1}}); !errors.Is(err, backend.broken) {
		t.Error(err)
	}
	backend.mu.Lock()
	backend.broken = nil
	backend.mu.Unlock()
	m.Publish(t.Context(), foyer.Text, []byte("again"))
	if got := hear(t, client); got != "again" {
		t.Errorf("%q", got)
	}
}

// TestOneAsksForMany has many members come back at once to a machine that does not know the room. One asks the Backend, the
// others find in the ring what it has got.
func TestOneAsksForMany(t *testing.T) {
	backend := &store{}
	earlier := Hub{Backend: backend}
	for i := 1; i <= 40; i++ {
		earlier.Room("x").Publish(t.Context(), foyer.Text, fmt.Append(nil, "m", i))
	}
	earlier.Shutdown(t.Context())
	for name, test := range map[string]struct {
		o     JoinOptions
		first int
		limit int
	}{
		"since":   {JoinOptions{Since: Position{"stream", 30}}, 11, 0},
		"history": {JoinOptions{History: 20}, 21, 0},
		"limited": {JoinOptions{History: 20}, 31, 10},
	} {
		t.Run(name, func(t *testing.T) {
			backend.asked = 0
			hub := Hub{Backend: backend, Encode: numbered, HistoryMessages: test.limit}
			var joined sync.WaitGroup
			for range 30 {
				client, server := foyertest.Pair(t, &foyer.Handler{})
				joined.Go(func() {
					if _, err := hub.Room("x").Join(t.Context(), server, test.o); err != nil {
						t.Error(err)
					}
					hear(t, client) // welcome
					for i := test.first; i <= 40; i++ {
						if got, want := hear(t, client), fmt.Sprint(Position{"stream", uint64(3 * i)}, " m", i); got != want {
							t.Errorf("%q, want %q", got, want)
							return
						}
					}
				})
			}
			joined.Wait()
			if backend.asked != 1 {
				t.Errorf("asked %d times", backend.asked)
			}
		})
	}
}

// TestGapOfABackend is for messages that the Backend has lost on the way to everybody.
func TestGapOfABackend(t *testing.T) {
	backend := &store{}
	hub := Hub{Backend: backend, Encode: numbered}
	room := hub.Room("x")
	client, server := foyertest.Pair(t, &foyer.Handler{})
	room.Join(t.Context(), server, JoinOptions{})
	hear(t, client)
	before, _ := room.Publish(t.Context(), foyer.Text, []byte("m1"))
	backend.mu.Lock()
	backend.messages["x"] = nil
	backend.offset += 30
	sink := backend.sinks["x"]
	backend.mu.Unlock()
	at := Position{"stream", 33}
	sink.Deliver(&Message{Kind: Gap, Room: "x", Position: at, Missed: 10})
	sink.Flush()
	after, _ := room.Publish(t.Context(), foyer.Text, []byte("m12"))
	for _, want := range []string{fmt.Sprint(before, " m1"), fmt.Sprint(at, " gap 10"), fmt.Sprint(after, " m12")} {
		if got := hear(t, client); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for since, recovers := range map[Position]bool{before: false, at: true, after: true} {
		_, other := foyertest.Pair(t, &foyer.Handler{})
		m, err := room.Join(t.Context(), other, JoinOptions{Since: since})
		if err != nil || m.Recovered() != recovers {
			t.Errorf("%v: %v, %v", since, m.Recovered(), err)
		}
	}
}

// TestNoPositions has a Backend that gives none, such as one that stores nothing.
func TestNoPositions(t *testing.T) {
	backend := &store{}
	hub := Hub{Backend: backend}
	room := hub.Room("x")
	client, server := foyertest.Pair(t, &foyer.Handler{})
	room.Join(t.Context(), server, JoinOptions{})
	for i := range 3 {
		backend.sinks["x"].Deliver(&Message{Room: "x", Type: foyer.Text, Data: fmt.Append(nil, i), Time: time.Now()})
		backend.sinks["x"].Flush()
		if got := hear(t, client); got != fmt.Sprint(i) {
			t.Errorf("%q", got)
		}
	}
	late, server := foyertest.Pair(t, &foyer.Handler{})
	if m, err := room.Join(t.Context(), server, JoinOptions{Since: Position{"x", 1}, History: 2}); err != nil || m.Recovered() {
		t.Error(m.Recovered(), err)
	}
	for i := 1; i < 3; i++ {
		if got := hear(t, late); got != fmt.Sprint(i) {
			t.Errorf("%q", got)
		}
	}
}

// TestPresenceElsewhere has users in other processes, too.
func TestPresenceElsewhere(t *testing.T) {
	backend := &store{}
	hub := Hub{Backend: backend, Encode: JSON}
	room := hub.Room("x")
	client, server := foyertest.Pair(t, &foyer.Handler{})
	m, err := room.Join(t.Context(), server, JoinOptions{Key: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	_, stays := foyertest.Pair(t, &foyer.Handler{})
	room.Join(t.Context(), stays, JoinOptions{})
	hearEvent(t, client) // welcome
	hearEvent(t, client) // herself
	sink := backend.sinks["x"]
	sink.Present("b", []Presence{{"bob", "Bob", 1}, {"alice", "", 2}}, false)
	sink.Present("b", []Presence{{"", "", 5}}, false)
	sink.Present("c", []Presence{{"bob", "Bob", 1}}, false)
	sink.Present("c", []Presence{{"bob", "Bob", 1}}, true) // said once more
	if members, keys := room.Count(); members != 11 || keys != 2 || fmt.Sprint(room.Members()) != "[{alice  3} {bob Bob 2}]" {
		t.Error(members, keys, room.Members())
	}
	if e := hearEvent(t, client); e.Type != "joined" || e.Key != "bob" || e.Info != "Bob" {
		t.Errorf("%+v", e)
	}
	sink.Present("b", nil, true)
	sink.Present("never there", nil, true)
	if members, keys := room.Count(); members != 3 || keys != 2 {
		t.Error(members, keys)
	}
	sink.Present("c", []Presence{{"bob", "Bob", 0}}, false)
	if e := hearEvent(t, client); e.Type != "left" || e.Key != "bob" || e.Info != "Bob" {
		t.Errorf("%+v", e)
	}
	sink.Present("c", []Presence{{"alice", "", 1}}, false)
	m.Leave()
	if members, keys := room.Count(); members != 2 || keys != 1 {
		t.Error(members, keys)
	}
	if want := []Presence{{"alice", "", 1}, {"", "", 1}, {"alice", "", 0}}; !slices.Equal(backend.told, want) {
		t.Error(backend.told)
	}
}

// TestDeliveredAfterHistory has a message come between the answer of the Backend and the member's place.
func TestDeliveredAfterHistory(t *testing.T) {
	backend := &late{store: &store{}}
	hub := Hub{Backend: backend, Encode: numbered}
	client, server := foyertest.Pair(t, &foyer.Handler{})
	m, err := hub.Room("x").Join(t.Context(), server, JoinOptions{Since: Position{"stream", 50}})
	if err != nil || !m.Recovered() {
		t.Fatal(err)
	}
	hear(t, client) // welcome
	if got := hear(t, client); got != "stream-160 m160" {
		t.Error(got)
	}
}

// A late is a Backend whose last message was published before it was asked, and delivered after that.
type late struct{ *store }

func (b *late) Open(ctx context.Context, room string, sink Sink) (Channel, error) {
	c, err := b.store.Open(ctx, room, sink)
	return &lateChannel{c, sink}, err
}

type lateChannel struct {
	Channel
	sink Sink
}

func (c *lateChannel) Last() Position { return Position{"stream", 150} }

func (c *lateChannel) History(context.Context, Position, int) ([]*Message, bool, error) {
	c.sink.Deliver(&Message{Room: "x", Position: Position{"stream", 160}, Type: foyer.Text, Data: []byte("m160"), Time: time.Now()})
	c.sink.Flush()
	return nil, true, nil
}
