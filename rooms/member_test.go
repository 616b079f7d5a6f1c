package rooms

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
)

// slowMember returns a member whose client does not read, and a client that does.
func slowMember(t *testing.T, hub *Hub, policy SlowPolicy) (slow *foyer.Socket, room *Room) {
	t.Helper()
	hub.Options = func(s *foyer.Socket) JoinOptions { return JoinOptions{Slow: policy} }
	url := serve(t, hub)
	slow = dial(t, url+"/x")
	eventually(t, "the member", func() bool { return members(hub, "x") == 1 })
	return slow, hub.Room("x")
}

// flood publishes n messages of 100 KB, which no kernel buffers.
func flood(t *testing.T, room *Room, n int) {
	t.Helper()
	for i := range n {
		if _, err := room.PublishMessage(t.Context(), &Message{Type: foyer.Text, Data: fmt.Appendf(nil, "%0100000d", i), Replaces: fmt.Sprint("s", i%3)}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSlowMembers(t *testing.T) {
	const sent = 500
	for policy, name := range map[SlowPolicy]string{Close: "close", Skip: "skip", Resync: "resync", Conflate: "conflate"} {
		t.Run(name, func(t *testing.T) {
			var told atomic.Uint64
			hub := Hub{Encode: numbered, OnSlow: func(m *Member, missed uint64) { told.Add(missed) }}
			client, room := slowMember(t, &hub, policy)
			for n := 0; policy == Close && told.Load() == 0 && n < sent; n++ { // it has to read before it is cut off
				flood(t, room, 1)
			}
			if policy != Close {
				flood(t, room, sent)
			}
			last, gaps := 0, uint64(0)
			for policy == Close || last < sent {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				_, p, err := client.Read(ctx)
				cancel()
				if err != nil {
					break
				}
				at, rest, _ := strings.Cut(string(p), " ")
				position, _ := ParsePosition(at)
				switch {
				case strings.HasPrefix(rest, "welcome"):
				case strings.HasPrefix(rest, "gap "):
					var missed uint64
					fmt.Sscan(rest[4:], &missed)
					gaps += missed
					if policy != Conflate && position.Offset != uint64(last)+missed {
						t.Errorf("a gap of %d to %v behind %d", missed, position, last)
					}
					last = int(position.Offset)
				case policy == Conflate && int(position.Offset) > last-3: // the last of each subject may be older than the ring
					last = max(last, int(position.Offset))
				case int(position.Offset) != last+1:
					t.Fatalf("%v behind %d", position, last)
				default:
					last++
				}
			}
			switch {
			case policy == Close:
				if end := foyertest.Ended(t, client); end.Code != foyer.CloseTryAgainLater || end.Reason != "too slow" || told.Load() == 0 {
					t.Error(end, told.Load())
				}
			case last != sent || gaps == 0 || gaps != told.Load():
				t.Errorf("read up to %d, with gaps of %d; told of %d", last, gaps, told.Load())
			}
			if st := hub.Stats(); st.Slow == 0 || st.HistoryBytes > 2<<20 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestSlowMembersTakeNoMemory, and delay nobody.
func TestSlowMembersTakeNoMemory(t *testing.T) {
	hub := Hub{Slow: Skip}
	url := serve(t, &hub)
	for range 100 {
		dial(t, url+"/x")
	}
	fast := dial(t, url+"/x")
	eventually(t, "members", func() bool { return members(&hub, "x") == 101 })
	room := hub.Room("x")
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	p := make([]byte, 50<<10)
	for range 300 {
		if _, err := room.Publish(t.Context(), foyer.Binary, p); err != nil {
			t.Fatal(err)
		}
		hear(t, fast)
	}
	if grown := int64(heap()) - int64(before); grown > 16<<20 { // the ring, and a frame for each
		t.Errorf("%d bytes for 100 members that do not read", grown)
	}
}

func TestPresence(t *testing.T) {
	hub := Hub{Encode: JSON}
	url := serve(t, &hub)
	watcher := dial(t, url+"/x")
	hearEvent(t, watcher)
	room := hub.Room("x")
	var alice []*foyer.Socket
	for n := 1; n <= 3; n++ {
		alice = append(alice, dial(t, url+"/x?key=alice&info=Alice"))
		eventually(t, "presence", func() bool {
			return slices.Equal(room.Members(), []Presence{{"alice", "Alice", n}})
		})
	}
	drained(dial(t, url+"/x?key=Bob"))
	if e := hearEvent(t, watcher); e.Type != "joined" || e.Key != "alice" {
		t.Errorf("%+v", e)
	}
	if e := hearEvent(t, watcher); e.Type != "joined" || e.Key != "Bob" {
		t.Errorf("%+v", e)
	}
	if m, k := room.Count(); m != 5 || k != 2 || len(room.Members()) != 2 || room.Members()[0].Key != "Bob" {
		t.Error(m, k, room.Members())
	}
	if n := len(hub.User("alice").Sockets()); n != 3 {
		t.Errorf("%d sockets", n)
	}
	if n, dropped := hub.User("alice").Send(foyer.Text, []byte(`{"type":"note"}`)); n != 3 || dropped != nil {
		t.Error(n, dropped)
	}
	for _, s := range alice[:2] {
		s.Abort()
	}
	alice[2].Close(foyer.CloseNormalClosure, "")
	if e := hearEvent(t, watcher); e.Type != "left" || e.Key != "alice" || e.Info != "Alice" {
		t.Errorf("%+v", e)
	}
	if n := hub.Disconnect("Bob", 4000, "go away"); n != 1 {
		t.Error(n)
	}
	if e := hearEvent(t, watcher); e.Type != "left" || e.Key != "Bob" {
		t.Errorf("%+v", e)
	}
	eventually(t, "no users", func() bool { return hub.Stats().Users == 0 })
}

// TestPresenceUnderLoad has sockets of a few users come and go, and compares what a member is told with what is true.
func TestPresenceUnderLoad(t *testing.T) {
	hub := Hub{Encode: JSON, HistoryMessages: 10000}
	room := hub.Room("x")
	client, server := foyertest.Pair(t, &foyer.Handler{})
	if _, err := room.Join(t.Context(), server, JoinOptions{Key: "watcher"}); err != nil {
		t.Fatal(err)
	}
	_, visitor := foyertest.Pair(t, &foyer.Handler{})
	var visitors sync.WaitGroup
	for range 4 {
		visitors.Go(func() {
			for i := range 200 {
				m, err := room.Join(t.Context(), visitor, JoinOptions{Key: fmt.Sprint("user", i%3)})
				if err != nil {
					t.Error(err)
					return
				}
				m.Leave()
				m.Leave()
			}
		})
	}
	go func() {
		visitors.Wait()
		room.Publish(t.Context(), foyer.Text, []byte("end"))
	}()
	there := make(map[string]bool)
	for {
		switch e := hearEvent(t, client); e.Type {
		case "joined":
			if there[e.Key] {
				t.Fatalf("%s joined twice", e.Key)
			}
			there[e.Key] = true
		case "left":
			if !there[e.Key] {
				t.Fatalf("%s left twice", e.Key)
			}
			delete(there, e.Key)
		case "message":
			if len(there) != 1 || !there["watcher"] {
				t.Errorf("%v", there)
			}
			return
		}
	}
}

func TestLimits(t *testing.T) {
	hub := Hub{MaxRooms: 3, MaxMembers: 2, MaxRoomsPerSocket: 2, MaxName: 10, HistoryBytes: 1000}
	_, s := foyertest.Pair(t, &foyer.Handler{})
	join := func(room string, o JoinOptions) error {
		_, err := hub.Room(room).Join(t.Context(), s, o)
		return err
	}
	for _, name := range []string{"", "a\nb", "\x00", "a\x7f", "\xff", "12345678901", "a\u2028b", "a\u0085"} {
		if err := join(name, JoinOptions{}); err != ErrName {
			t.Errorf("%q: %v", name, err)
		}
		if name == "" {
			continue
		}
		if err := join("x", JoinOptions{Key: name}); err != ErrName {
			t.Errorf("key %q: %v", name, err)
		}
		if _, err := hub.Room(name).Publish(t.Context(), foyer.Text, nil); err != ErrName {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := hub.Room("x").PublishMessage(t.Context(), &Message{Type: foyer.Text, Replaces: name}); err != ErrName {
			t.Errorf("subject %q: %v", name, err)
		}
	}
	for _, room := range []string{"a", "ä *.>"} {
		if err := join(room, JoinOptions{}); err != nil {
			t.Error(room, err)
		}
	}
	if err := join("c", JoinOptions{}); !errors.Is(err, ErrFull) {
		t.Error(err)
	}
	_, s = foyertest.Pair(t, &foyer.Handler{})
	if err := join("a", JoinOptions{}); err != nil {
		t.Error(err)
	}
	_, s = foyertest.Pair(t, &foyer.Handler{})
	if err := join("a", JoinOptions{}); !errors.Is(err, ErrFull) {
		t.Error(err)
	}
	if err := join("d", JoinOptions{}); err != nil {
		t.Error(err)
	}
	if err := join("e", JoinOptions{}); !errors.Is(err, ErrFull) {
		t.Error(err)
	}
	if _, err := hub.Room("a").Publish(t.Context(), foyer.Text, make([]byte, 1000)); err != ErrTooBig {
		t.Error(err)
	}
	if _, err := hub.Room("a").Publish(t.Context(), 7, nil); err == nil {
		t.Error("a message of no type")
	}
	if st := hub.Stats(); st.Rooms != 3 || st.Members != 4 || st.Refused == 0 {
		t.Errorf("%+v", st)
	}
}

// TestJoiningAndLeavingAtFullSpeed leaves nothing behind.
func TestJoiningAndLeavingAtFullSpeed(t *testing.T) {
	hub := Hub{MaxRooms: 10}
	_, s := foyertest.Pair(t, &foyer.Handler{})
	for i := range 10000 {
		m, err := hub.Room(fmt.Sprint(i)).Join(t.Context(), s, JoinOptions{Key: "me"})
		if err != nil {
			t.Fatal(err)
		}
		m.Leave()
	}
	if st := hub.Stats(); st.Rooms != 0 || st.Members != 0 || st.Users != 0 || st.HistoryBytes != 0 {
		t.Errorf("%+v", st)
	}
}

func TestHistoryMemory(t *testing.T) {
	hub := Hub{HistoryMemory: 100 << 10}
	for i := range 1000 {
		if _, err := hub.Room(fmt.Sprint(i%3)).Publish(t.Context(), foyer.Text, make([]byte, 10<<10)); err != nil {
			t.Fatal(err)
		}
		if n := hub.Stats().HistoryBytes; n > 100<<10 {
			t.Fatalf("%d bytes", n)
		}
	}
}

func TestPublishRate(t *testing.T) {
	hub := Hub{PublishRate: 1, PublishBurst: 5}
	url := serve(t, &hub)
	s := dial(t, url+"/x")
	for range 6 {
		s.SendText(t.Context(), "x")
	}
	if end := foyertest.Ended(t, drained(s)); end.Code != foyer.ClosePolicyViolation || end.Reason != "too many messages" {
		t.Error(end)
	}
	_, server := foyertest.Pair(t, &foyer.Handler{})
	failed := 0
	for range 10 { // joining once more does not help
		m, err := hub.Room("x").Join(t.Context(), server, JoinOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Publish(t.Context(), foyer.Text, nil); err == ErrTooFast {
			failed++
		}
		m.Leave()
		if _, err := m.Publish(t.Context(), foyer.Text, nil); err != ErrLeft {
			t.Error(err)
		}
	}
	if failed != 5 {
		t.Errorf("%d messages were refused", failed)
	}
}

// drained reads what comes.
func drained(s *foyer.Socket) *foyer.Socket {
	go func() {
		for {
			if _, _, err := s.Read(context.Background()); err != nil {
				return
			}
		}
	}()
	return s
}

func TestHooks(t *testing.T) {
	left := make(chan string, 10)
	hub := Hub{
		OnJoin: func(_ context.Context, m *Member) error {
			switch m.Key() {
			case "nobody":
				return &Refusal{"no"}
			case "error":
				return errors.New("secret")
			case "panic":
				panic("in OnJoin")
			}
			return nil
		},
		OnMessage: func(_ context.Context, m *Member, message *Message) error {
			if string(message.Data) == "panic" {
				panic("in OnMessage")
			}
			message.Data = []byte(m.Key() + ": " + string(message.Data))
			return nil
		},
		OnLeave: func(m *Member) {
			left <- m.Key() + " " + m.Info() + " " + m.Room()
			panic("in OnLeave")
		},
	}
	url := serve(t, &hub)
	for key, want := range map[string]string{"nobody": "no", "error": "refused", "panic": "refused"} {
		if end := foyertest.Ended(t, drained(dial(t, url+"/x?key="+key))); end.Code != foyer.ClosePolicyViolation || end.Reason != want {
			t.Error(key, end)
		}
	}
	s := dial(t, url+"/x?key=alice&info=Alice")
	s.SendText(t.Context(), "panic")
	s.SendText(t.Context(), "hello")
	if got := hear(t, s); got != "alice: hello" {
		t.Errorf("%q", got)
	}
	s.Abort()
	if got := <-left; got != "alice Alice x" {
		t.Errorf("%q", got)
	}
	if end := foyertest.Ended(t, drained(dial(t, url+"/"+strings.Repeat("x", 200)))); end.Code != foyer.ClosePolicyViolation || end.Reason != "malformed name" {
		t.Error(end)
	}
}

// An Encode that panics keeps its message from being sent, and nothing else.
func TestPanicInEncode(t *testing.T) {
	hub := Hub{Encode: func(m *Message) (foyer.MessageType, []byte) {
		if string(m.Data) == "panic" {
			panic("in Encode")
		}
		return Raw(m)
	}}
	url := serve(t, &hub)
	s := dial(t, url+"/x")
	s.SendText(t.Context(), "panic")
	s.SendText(t.Context(), "hello")
	if got := hear(t, s); got != "hello" {
		t.Errorf("%q", got)
	}
}

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		expired := make(chan time.Time, 10)
		hub := Hub{OnExpire: func(*Member) { expired <- time.Now() }}
		client, server := foyertest.Pair(t, &foyer.Handler{})
		drained(client)
		drained(server)
		m, err := hub.Room("x").Join(t.Context(), server, JoinOptions{})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		m.SetDeadline(begin.Add(time.Minute))
		if at := <-expired; at.Sub(begin) != time.Minute {
			t.Error(at.Sub(begin))
		}
		time.Sleep(5 * time.Second)
		m.SetDeadline(time.Now().Add(time.Minute)) // renewed
		<-expired
		m.SetDeadline(time.Time{})
		time.Sleep(time.Hour)
		if server.State() != foyer.StateOpen {
			t.Fatal(server.Err())
		}
		m.SetDeadline(time.Now())
		begin = <-expired
		<-client.Done()
		if end := foyertest.Ended(t, client); end.Code != foyer.ClosePolicyViolation || end.Reason != "expired" || time.Since(begin) != 10*time.Second {
			t.Error(end, time.Since(begin))
		}
		synctest.Wait()
		if members(&hub, "x") != 0 {
			t.Error("still a member")
		}
	})
}

func TestHistoryExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := Hub{Encode: numbered}
		room := hub.Room("x")
		first, err := room.Publish(t.Context(), foyer.Text, []byte("old"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * time.Minute)
		second, _ := room.Publish(t.Context(), foyer.Text, []byte("new"))
		time.Sleep(time.Minute + 2*time.Second)
		if first.Epoch != second.Epoch || hub.Stats().Rooms != 1 {
			t.Error(first, second)
		}
		client, server := foyertest.Pair(t, &foyer.Handler{})
		m, err := room.Join(t.Context(), server, JoinOptions{Since: Position{first.Epoch, 0}, History: 10})
		if err != nil || m.Recovered() {
			t.Fatal(err, m.Recovered())
		}
		if a, b := hear(t, client), hear(t, client); a != second.String()+" welcome false" || b != second.String()+" new" {
			t.Errorf("%q %q", a, b)
		}
		m.Leave()
		time.Sleep(5 * time.Minute)
		if st := hub.Stats(); st.Rooms != 0 || st.HistoryBytes != 0 {
			t.Errorf("%+v", st)
		}
		third, _ := room.Publish(t.Context(), foyer.Text, nil)
		if third.Epoch == first.Epoch || third.Offset != 1 {
			t.Error(third)
		}
		hub.Shutdown(t.Context())
		if _, err := room.Publish(t.Context(), foyer.Text, nil); err != ErrClosed {
			t.Error(err)
		}
		if _, err := room.Join(t.Context(), server, JoinOptions{}); err != ErrClosed {
			t.Error(err)
		}
	})
}

// TestMembersHaveNoGoroutine compares the goroutines of sockets with and without rooms.
func TestMembersHaveNoGoroutine(t *testing.T) {
	var hub Hub
	h := &foyer.Handler{MaxPending: -1}
	srv := foyertest.NewServer(t, h)
	var sockets []*foyer.Socket
	for range 50 {
		dial(t, srv.URL)
		s, err := h.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sockets = append(sockets, s)
	}
	before := runtime.NumGoroutine()
	for _, s := range sockets {
		if _, err := hub.Room("x").Join(t.Context(), s, JoinOptions{Key: "k"}); err != nil {
			t.Fatal(err)
		}
	}
	if n := runtime.NumGoroutine() - before; n > 5 {
		t.Errorf("%d goroutines for 50 members", n)
	}
	for _, s := range sockets {
		s.Abort()
	}
	eventually(t, "all leave", func() bool { return members(&hub, "x") == 0 })
}
