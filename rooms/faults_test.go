package rooms

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
)

// TestCrowdThatReads is 200 clients that each say several things at once. They read as fast as they can, so none is too slow.
func TestCrowdThatReads(t *testing.T) {
	const clients, each = 200, 5
	var hub Hub
	url := serve(t, &hub)
	var sockets []*foyer.Socket
	for range clients {
		sockets = append(sockets, dial(t, url+"/x"))
	}
	eventually(t, "members", func() bool { return members(&hub, "x") == clients })
	var all sync.WaitGroup
	for _, s := range sockets {
		all.Go(func() {
			for i := range each {
				if err := s.SendText(t.Context(), fmt.Sprint("hello", i)); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			for n := range clients * each {
				if _, _, err := s.Read(ctx); err != nil {
					t.Errorf("after %d messages: %v", n, err)
					return
				}
			}
		})
	}
	all.Wait()
	if st := hub.Stats(); st.Slow != 0 {
		t.Errorf("%+v", st)
	}
}

// TestBurst publishes as fast as it can to clients that read as fast as they can, with the limits that a program gets which sets
// none.
func TestBurst(t *testing.T) {
	for range 10 {
		var hub Hub
		url := serve(t, &hub)
		a, b := dial(t, url+"/x"), dial(t, url+"/x")
		eventually(t, "members", func() bool { return members(&hub, "x") == 2 })
		go func() {
			for i := range 2000 {
				hub.Room("x").Publish(context.Background(), foyer.Text, fmt.Append(nil, i))
			}
		}()
		for i := range 2000 {
			if x, y := hear(t, a), hear(t, b); x != fmt.Sprint(i) || y != x {
				t.Fatal(i, x, y)
			}
		}
	}
}

// TestLeavingWhilePublishing leaves no room and no memory behind.
func TestLeavingWhilePublishing(t *testing.T) {
	hub := Hub{HistoryAge: 100 * time.Millisecond, OnMessage: func(_ context.Context, m *Member, message *Message) error {
		if string(message.Data) == "leave" {
			m.Leave()
		}
		time.Sleep(time.Millisecond)
		return nil
	}}
	url := serve(t, &hub)
	for i := range 300 {
		s := dial(t, fmt.Sprint(url, "/r", i%10))
		s.SendText(t.Context(), []string{"hello", "leave"}[i%2])
		s.Abort()
	}
	eventually(t, "no members", func() bool { return hub.Stats().Members == 0 })
	hub.Shutdown(t.Context())
	eventually(t, "nothing", func() bool { st := hub.Stats(); return st.Rooms == 0 && st.HistoryBytes == 0 })
}

// TestLeaveInOnJoin keeps the member out, and touches no other.
func TestLeaveInOnJoin(t *testing.T) {
	hub := Hub{OnJoin: func(_ context.Context, m *Member) error {
		if m.Key() != "good" {
			m.SetDeadline(time.Now())
			m.Leave()
		}
		if m.Key() == "refused" {
			return errors.New("no")
		}
		return nil
	}}
	client, server := foyertest.Pair(t, &foyer.Handler{})
	if _, err := hub.Room("x").Join(t.Context(), server, JoinOptions{Key: "good"}); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"refused", "left"} {
		if _, err := hub.Room("x").Join(t.Context(), server, JoinOptions{Key: key}); err == nil {
			t.Error(key)
		}
	}
	if _, err := hub.Room("y").Join(t.Context(), nil, JoinOptions{}); err == nil {
		t.Error("joined without a socket")
	}
	hub.Room("x").Publish(t.Context(), foyer.Text, []byte("hello"))
	if got := hear(t, client); got != "hello" || members(&hub, "x") != 1 || len(hub.Rooms()) != 1 {
		t.Error(got, members(&hub, "x"), hub.Rooms())
	}
	server.Abort()
	eventually(t, "all have left", func() bool { return members(&hub, "x") == 0 })
}

// blocked returns a pair whose client seems not to read, until it does. It is for a bubble of synctest: with what follows,
// nothing is written before the client reads.
func blocked(t *testing.T) (client, server *foyer.Socket) {
	client, server = foyertest.Pair(t, &foyer.Handler{})
	server.TryWrite(foyer.Text, make([]byte, 100<<10))
	synctest.Wait() // until it is being written
	return client, server
}

// rest reads until there is nothing for a while, and returns the texts of what was published.
func rest(t *testing.T, client *foyer.Socket) (texts []string) {
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, p, err := client.Read(ctx)
		cancel()
		if err != nil {
			return texts
		}
		texts = append(texts, string(p))
	}
}

// TestResyncLosesNothing of what came between Since and the join, and doubles nothing of what is on its way.
func TestResyncLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := Hub{Backend: &store{}, Encode: numbered, HistoryMessages: 15}
		room := hub.Room("x")
		publish := func(from, to int) {
			for i := from; i <= to; i++ {
				if _, err := room.Publish(t.Context(), foyer.Text, fmt.Append(nil, "m", i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		publish(1, 10)
		client, server := blocked(t)
		if _, err := room.Join(t.Context(), server, JoinOptions{Slow: Resync, Since: Position{"stream", 3 * 4}}); err != nil {
			t.Fatal(err)
		}
		publish(11, 300)
		hear(t, client)
		next := 5
		read := func(until int) {
			for next <= until {
				got := hear(t, client)
				if strings.Contains(got, "welcome true") {
					continue
				}
				if want := fmt.Sprint(Position{"stream", uint64(3 * next)}, " m", next); got != want {
					t.Fatalf("%q, want %q", got, want)
				}
				next++
			}
		}
		for i := range 20 { // reads more slowly than is published
			read(100 + 7*i)
			publish(301+10*i, 310+10*i)
		}
		read(500)
		if more := rest(t, client); more != nil {
			t.Errorf("%q", more)
		}
	})
}

// TestGapsAreCounted without what came and went, and with what a member that conflates gets nevertheless.
func TestGapsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for policy, want := range map[SlowPolicy]string{Skip: "gap 12", Conflate: "gap 19"} {
			told := make(chan uint64, 10)
			hub := Hub{Encode: numbered, HistoryMessages: 8, OnSlow: func(_ *Member, missed uint64) { told <- missed }}
			client, server := blocked(t)
			if _, err := hub.Room("x").Join(t.Context(), server, JoinOptions{Slow: policy}); err != nil {
				t.Fatal(err)
			}
			for i := range 20 {
				hub.Room("x").PublishMessage(t.Context(), &Message{Type: foyer.Text, Data: fmt.Append(nil, i), Replaces: "one"})
			}
			hear(t, client)
			got := rest(t, client)
			if !strings.HasSuffix(got[1], want) || !strings.HasSuffix(got[len(got)-1], "-20 19") || policy == Conflate && len(got) != 3 {
				t.Errorf("%q", got)
			}
			if missed := <-told; fmt.Sprint("gap ", missed) != want {
				t.Error(missed)
			}
		}
		hub := Hub{Encode: JSON, HistoryMessages: 6, Slow: Skip}
		client, server := blocked(t)
		hub.Room("x").Join(t.Context(), server, JoinOptions{})
		hub.Room("x").Publish(t.Context(), foyer.Text, []byte("missed"))
		_, other := foyertest.Pair(t, &foyer.Handler{})
		for range 10 {
			m, _ := hub.Room("x").Join(t.Context(), other, JoinOptions{Key: "k"})
			m.Leave()
		}
		hear(t, client)
		if got := rest(t, client); !strings.Contains(got[1], `"missed":1}`) {
			t.Errorf("%q", got)
		}
	})
}

// TestSubjectsAreBounded like everything else.
func TestSubjectsAreBounded(t *testing.T) {
	hub := Hub{HistoryBytes: 100 << 10, HistoryMemory: 200 << 10}
	for i := range 300 {
		for _, room := range []string{"x", "y", "z"} {
			hub.Room(room).PublishMessage(t.Context(), &Message{Type: foyer.Text, Data: make([]byte, 50<<10), Replaces: fmt.Sprint(i)})
		}
		if n := hub.Stats().HistoryBytes; n > 260<<10 {
			t.Fatalf("%d bytes", n)
		}
	}
}

// TestJoinDuringShutdown is refused, and Shutdown waits for OnLeave.
func TestJoinDuringShutdown(t *testing.T) {
	joining, goOn := make(chan bool), make(chan bool)
	hub := Hub{OnJoin: func(context.Context, *Member) error {
		joining <- true
		<-goOn
		return nil
	}}
	_, server := foyertest.Pair(t, &foyer.Handler{})
	failed := make(chan error, 1)
	go func() {
		_, err := hub.Room("x").Join(t.Context(), server, JoinOptions{})
		failed <- err
	}()
	<-joining
	if err := hub.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	close(goOn)
	if err := <-failed; err != ErrClosed {
		t.Error(err)
	}
	eventually(t, "nothing", func() bool { st := hub.Stats(); return st.Members == 0 && st.Rooms == 0 })

	left := make(chan bool, 10)
	slow := Hub{OnLeave: func(*Member) {
		time.Sleep(50 * time.Millisecond)
		left <- true
	}}
	for range 5 {
		if _, err := slow.Room("x").Join(t.Context(), server, JoinOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	slow.Shutdown(t.Context())
	if len(left) != 5 {
		t.Errorf("%d of 5 OnLeave have returned", len(left))
	}
}

// TestBackendUnderLoad has members with keys come and go while others publish, on a Backend that holds a lock across Deliver and
// Flush, and rooms that are removed and opened again.
func TestBackendUnderLoad(t *testing.T) {
	hub := Hub{Backend: &store{}, Encode: JSON}
	_, server := foyertest.Pair(t, &foyer.Handler{})
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() {
			for range 500 {
				if _, err := hub.Room("x").Publish(t.Context(), foyer.Text, []byte("x")); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() {
			for n := range 500 {
				m, err := hub.Room(fmt.Sprint("x", n%2*i)).Join(t.Context(), server, JoinOptions{Key: fmt.Sprint(i)})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := m.Publish(t.Context(), foyer.Text, []byte("y")); err != nil && err != ErrTooFast {
					t.Error(err)
				}
				m.Leave()
			}
		})
	}
	all.Wait()
}

// TestDeliveredLate is a message that this machine gets after its client has seen it on another one.
func TestDeliveredLate(t *testing.T) {
	backend := &store{late: true}
	hub := Hub{Backend: backend, Encode: numbered}
	room := hub.Room("x")
	client, server := foyertest.Pair(t, &foyer.Handler{})
	keeper, err := room.Join(t.Context(), server, JoinOptions{})
	if err != nil {
		t.Fatal(err)
	}
	hear(t, client)
	for i := 1; i <= 10; i++ {
		room.Publish(t.Context(), foyer.Text, fmt.Append(nil, "m", i))
	}
	backend.deliver("x", 7)
	other, behind := foyertest.Pair(t, &foyer.Handler{})
	m, err := room.Join(t.Context(), behind, JoinOptions{Since: Position{"stream", 30}})
	if err != nil || !m.Recovered() {
		t.Fatal(err)
	}
	hear(t, other)
	backend.deliver("x", 3)
	room.Publish(t.Context(), foyer.Text, []byte("m11"))
	backend.deliver("x", 1)
	if got := hear(t, other); got != "stream-33 m11" {
		t.Errorf("%q", got)
	}
	keeper.Leave()
}

func TestHeadOfEvents(t *testing.T) {
	hub := Hub{MaxMembers: 2}
	url := serveHTTP(t, &hub)
	bare := httptest.NewServer(hub.Events(func(*http.Request) (string, error) { return "x", nil }))
	defer bare.Close()
	for range 5 {
		if resp, err := http.Head(bare.URL); err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
	}
	listen(t, url+"x/events", "")
	_, server := foyertest.Pair(t, &foyer.Handler{})
	if _, err := hub.Room("x").Join(t.Context(), server, JoinOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := hub.Room("x").Join(t.Context(), server, JoinOptions{}); !errors.Is(err, ErrFull) {
		t.Error(err)
	}
}

func TestOddSettings(t *testing.T) {
	tiny := Hub{HistoryMessages: -1, HistoryBytes: -1}
	for range 10 {
		if _, err := tiny.Room("x").Publish(t.Context(), foyer.Text, nil); err != nil {
			t.Error(err)
		}
	}
	var hub Hub
	client, server := foyertest.Pair(t, &foyer.Handler{})
	if _, err := hub.Room("x").Join(t.Context(), server, JoinOptions{History: -1}); err != nil {
		t.Fatal(err)
	}
	for _, p := range [][]byte{nil, {}, []byte("x")} {
		if _, err := hub.Room("x").Publish(t.Context(), foyer.Text, p); err != nil {
			t.Error(err)
		}
		if got := hear(t, client); got != string(p) {
			t.Errorf("%q", got)
		}
	}
}

// TestLargeRoom has several goroutines write to the members, in a room that is large enough for that.
func TestLargeRoom(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const clients, publishers, messages = 5*partSize + 1, 4, 50
	hub := &Hub{PublishRate: -1}
	url := serve(t, hub) + "/large"
	sockets := make([]*foyer.Socket, clients)
	var group sync.WaitGroup
	for i := range sockets {
		sockets[i] = dial(t, url)
	}
	eventually(t, "members", func() bool { return members(hub, "large") == clients })
	for p := range publishers {
		group.Go(func() {
			for i := range messages {
				text := fmt.Appendf(nil, "%d %d", p, i)
				if p%2 == 0 {
					hub.Room("large").Publish(t.Context(), foyer.Text, text)
				} else {
					sockets[p].Write(t.Context(), foyer.Text, text)
				}
			}
		})
	}
	for i, s := range sockets {
		var next [publishers]int
		for range publishers * messages {
			var p, n int
			fmt.Sscan(hear(t, s), &p, &n)
			if n != next[p] {
				t.Fatalf("client %d heard message %d of publisher %d instead of %d", i, n, p, next[p])
			}
			next[p]++
		}
	}
	group.Wait()
}

// TestLeaveDuringAWrite leaves while the network has a member's first message in its hands: its socket stays open.
func TestLeaveDuringAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := Hub{Encode: JSON}
		client, server := foyertest.Pair(t, &foyer.Handler{})
		m, err := hub.Room("x").Join(t.Context(), server, JoinOptions{Slow: Resync})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		m.Leave()
		hear(t, client)
		synctest.Wait()
		server.TryWrite(foyer.Text, []byte("still open"))
		if got := hear(t, client); got != "still open" {
			t.Errorf("%q", got)
		}
	})
}

// TestConflateGoesOn publishes the newest message of a subject while a member that conflates is still given older ones.
func TestConflateGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := Hub{HistoryMessages: 4}
		room := hub.Room("x")
		client, server := blocked(t)
		if _, err := room.Join(t.Context(), server, JoinOptions{Slow: Conflate}); err != nil {
			t.Fatal(err)
		}
		publish := func(text, subject string) {
			room.PublishMessage(t.Context(), &Message{Type: foyer.Text, Data: []byte(text), Replaces: subject})
		}
		for _, text := range []string{"f1", "f2", "f3", "f4"} {
			publish(text, "")
		}
		publish("b", "b")
		publish("c", "c")
		publish("a1", "a")
		hear(t, client) // what has blocked it
		synctest.Wait() // it falls, and conflates; f4 is being written
		publish("a2", "a")
		synctest.Wait()
		if got := rest(t, client); !slices.Equal(got, []string{"f4", "b", "c", "a2"}) {
			t.Errorf("%q", got)
		}
	})
}

// TestStepsAreGivenBack has a member that got history keep nothing of it.
func TestStepsAreGivenBack(t *testing.T) {
	var hub Hub
	for i := range 64 {
		hub.Room("x").Publish(t.Context(), foyer.Text, fmt.Append(nil, i))
	}
	s := dial(t, serve(t, &hub)+"/x?history=64")
	for range 64 {
		hear(t, s)
	}
	m := hub.existing("x").members[0]
	eventually(t, "nothing is kept", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.steps == nil && m.backlog == nil
	})
}
