package natsrooms

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
	"github.com/foyerws/foyer/rooms"
)

// TestJoiningWhileOthersPublish opens rooms here while messages are published elsewhere. Whoever comes back gets each once.
func TestJoiningWhileOthersPublish(t *testing.T) {
	t.Parallel()
	_, a, b := twoNodes(t, JetStream, Options{})
	publish(t, a, "before", "something")
	many := 200
	if testing.Short() {
		many = 20
	}
	for n := range many {
		room := fmt.Sprint("room ", n)
		var since rooms.Position
		if n%2 == 0 {
			epoch, seen, _ := a.backend.stream.state()
			since = rooms.Position{Epoch: epoch, Offset: seen} // of a room in which nothing was published
		} else {
			since = publish(t, a, room, "m0")
		}
		var publishing sync.WaitGroup
		publishing.Go(func() { publish(t, a, room, texts(1, 6)...) })
		c, m, _ := b.join(t, room, rooms.JoinOptions{Since: since})
		if !m.Recovered() {
			t.Fatal("not recovered")
		}
		expect(t, c, texts(1, 6)...)
		publishing.Wait()
		publish(t, a, room, "m7")
		expect(t, c, "m7")
		m.Leave()
	}
}

// TestRemovedMessages are not recovered silently, whatever has removed them.
func TestRemovedMessages(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(t *testing.T, s jetstream.Stream) error{
		"a limit that the node does not know": func(*testing.T, jetstream.Stream) error { return nil },
		"a purge that keeps some": func(t *testing.T, s jetstream.Stream) error {
			return s.Purge(t.Context(), jetstream.WithPurgeSubject("rooms.log.x"), jetstream.WithPurgeKeep(5))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := runServer(t, t.TempDir())
			a := newNode(t, connect(t, s), JetStream, Options{MaxMessages: 20})
			publish(t, a, "other", "first")
			at := publish(t, a, "x", "m1")
			publish(t, a, "x", texts(2, 50)...)
			stream, err := a.backend.stream.js.Stream(t.Context(), "rooms")
			if err != nil {
				t.Fatal(err)
			}
			if err := remove(t, stream); err != nil {
				t.Fatal(err)
			}
			b := newNode(t, connect(t, s), JetStream, Options{})
			if _, m, welcome := b.join(t, "x", rooms.JoinOptions{Since: at}); m.Recovered() {
				t.Error(welcome)
			}
			c, _, _ := b.join(t, "x", rooms.JoinOptions{History: 3})
			expect(t, c, texts(48, 50)...)
		})
	}
}

// TestRemovedForOthers has the stream remove messages that did not get through here, because of what other rooms publish.
func TestRemovedForOthers(t *testing.T) {
	t.Parallel()
	o := Options{MaxBytes: 20_000}
	_, a, b := twoNodes(t, JetStream, o)
	c, _, _ := b.join(t, "x", rooms.JoinOptions{})
	publish(t, a, "x", "m1")
	expect(t, c, "m1")
	b.deaf(t, "x", func() {
		publish(t, a, "x", "m2", "m3")
		for range 30 {
			publish(t, a, "other", strings.Repeat("x", 1000))
		}
	})
	publish(t, a, "x", "m4")
	if got := hear(t, c); !strings.HasPrefix(got, "gap ") {
		t.Fatal(got)
	}
	expect(t, c, "m4")
}

// TestNewestMessageIsDeleted, by a program: joining with a history goes on.
func TestNewestMessageIsDeleted(t *testing.T) {
	t.Parallel()
	s := runServer(t, t.TempDir())
	a := newNode(t, connect(t, s), JetStream, Options{})
	a.join(t, "x", rooms.JoinOptions{})
	at := publish(t, a, "x", texts(1, 20)...)
	stream, err := a.backend.stream.js.Stream(t.Context(), "rooms")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), at.Offset); err != nil {
		t.Fatal(err)
	}
	a.compare(t)
	a.join(t, "x", rooms.JoinOptions{History: 50})
}

// TestRoomOpenedAfterTheStreamWasDeleted creates it again.
func TestRoomOpenedAfterTheStreamWasDeleted(t *testing.T) {
	t.Parallel()
	s := runServer(t, t.TempDir())
	a := newNode(t, connect(t, s), JetStream, Options{})
	before := publish(t, a, "x", "m1")
	if err := a.backend.stream.js.DeleteStream(t.Context(), "rooms"); err != nil {
		t.Fatal(err)
	}
	c, _, _ := a.join(t, "y", rooms.JoinOptions{})
	if at := publish(t, a, "y", "m2"); at.Epoch == before.Epoch {
		t.Error("the same epoch")
	}
	expect(t, c, "m2")
}

// TestHistoryWhileNATSIsAway fails at once.
func TestHistoryWhileNATSIsAway(t *testing.T) {
	t.Parallel()
	s := runServer(t, t.TempDir())
	a := newNode(t, connect(t, s), JetStream, Options{})
	a.join(t, "x", rooms.JoinOptions{})
	s.Shutdown()
	eventually(t, "disconnected", func() bool { return !a.backend.nc.IsConnected() })
	begin := time.Now()
	for range 10 {
		_, server := foyertest.Pair(t, &foyer.Handler{})
		if _, err := a.Room("x").Join(t.Context(), server, rooms.JoinOptions{History: 5}); !errors.Is(err, rooms.ErrUnavailable) {
			t.Error(err)
		}
	}
	if took := time.Since(begin); took > time.Second {
		t.Error(took)
	}
}

// TestOpenWaitsNoLongerThanItsContext though JetStream does not answer.
func TestOpenWaitsNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	s := runServer(t, t.TempDir())
	nc := connect(t, s)
	mute, err := nc.Subscribe("$JS.API.>", func(*nats.Msg) {})
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Unsubscribe()
	if err := s.DisableJetStream(); err != nil {
		t.Fatal(err)
	}
	a := newNode(t, connect(t, s), JetStream, Options{})
	var opening sync.WaitGroup
	for i := range 10 {
		opening.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			begin := time.Now()
			if _, err := a.backend.Open(ctx, fmt.Sprint(i), &record{}); err == nil || time.Since(begin) > time.Second {
				t.Error(err, time.Since(begin))
			}
		})
	}
	opening.Wait()
}

// TestTextThatIsNone comes from another program: browsers would close their connections.
func TestTextThatIsNone(t *testing.T) {
	t.Parallel()
	s := runServer(t, t.TempDir())
	nc := connect(t, s)
	a := newNode(t, connect(t, s), JetStream, Options{})
	client, server := foyertest.Pair(t, &foyer.Handler{})
	a.Encode = rooms.Raw
	if _, err := a.Room("x").Join(t.Context(), server, rooms.JoinOptions{}); err != nil {
		t.Fatal(err)
	}
	nc.Publish("rooms.log.x", []byte("\xff\xfe"))
	if kind, p, err := client.Read(t.Context()); err != nil || kind != foyer.Binary || string(p) != "\xff\xfe" {
		t.Error(kind, p, err)
	}
}

// TestChangeThatGetsLost between two beats is asked for.
func TestChangeThatGetsLost(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes seconds")
	}
	_, a, b := twoNodes(t, Core, Options{})
	var r record
	c, err := a.backend.Open(t.Context(), "x", &record{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.backend.Open(t.Context(), "x", &r); err != nil {
		t.Fatal(err)
	}
	c.Present(rooms.Presence{Key: "alice", Sockets: 1})
	c.Present(rooms.Presence{Key: "bob", Sockets: 1})
	eventually(t, "both", func() bool { return r.users() == 2 })
	b.deaf(t, "x", func() {
		c.Present(rooms.Presence{Key: "alice"})
		time.Sleep(100 * time.Millisecond)
	})
	eventually(t, "alice has left", func() bool { return r.users() == 1 })
}

// TestGoodbyeDuringAChange leaves no users behind of a process that is not known.
func TestGoodbyeDuringAChange(t *testing.T) {
	t.Parallel()
	s := runServer(t, t.TempDir())
	b := newNode(t, connect(t, s), Core, Options{}).backend
	var r record
	opened, err := b.Open(t.Context(), "x", &r)
	if err != nil {
		t.Fatal(err)
	}
	c := opened.(*coreChannel).channel
	for i := range 500 {
		node := fmt.Sprint("node", i)
		b.peers.see(node)
		var both sync.WaitGroup
		both.Go(func() {
			c.heardChange(&change{Node: node, Version: 5, Users: []rooms.Presence{{Key: "ghost", Sockets: 1}}})
		})
		both.Go(func() { b.forget(node) })
		both.Wait()
		if r.users() > 0 && !b.peers.has(node) {
			t.Fatal("a ghost")
		}
		b.forget(node)
	}
}

// TestManyLongNames are told in several messages.
func TestManyLongNames(t *testing.T) {
	t.Parallel()
	s := runServer(t, t.TempDir())
	a, b := newNode(t, connect(t, s), Core, Options{}).backend, newNode(t, connect(t, s), Core, Options{}).backend
	var r record
	if _, err := b.Open(t.Context(), "x", &r); err != nil {
		t.Fatal(err)
	}
	c, err := a.Open(t.Context(), "x", &record{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		c.Present(rooms.Presence{Key: fmt.Sprintf("%s%04d", strings.Repeat("<", 124), i), Info: strings.Repeat("<", 128), Sockets: 1})
	}
	eventually(t, "everybody", func() bool { return r.users() == 1000 })
	b.forget(a.node)
	if r.users() != 0 {
		t.Error("not forgotten")
	}
	a.beat(false)
	eventually(t, "everybody again", func() bool { return r.users() == 1000 })
}

// TestAskedOnce has a change get lost in a room where much happens.
func TestAskedOnce(t *testing.T) {
	t.Parallel()
	s, a, b := twoNodes(t, Core, Options{})
	var r record
	if _, err := b.backend.Open(t.Context(), "x", &r); err != nil {
		t.Fatal(err)
	}
	c, err := a.backend.Open(t.Context(), "x", &record{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5000 {
		c.Present(rooms.Presence{Key: fmt.Sprint("user", i), Sockets: 1})
	}
	eventually(t, "everybody", func() bool { return r.users() == 5000 })
	var mu sync.Mutex
	asked := 0
	connect(t, s).Subscribe("rooms.node."+a.backend.node, func(*nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		asked++
	})
	b.deaf(t, "x", func() {
		c.Present(rooms.Presence{Key: "missed", Sockets: 1})
		time.Sleep(50 * time.Millisecond)
	})
	for i := range 200 {
		c.Present(rooms.Presence{Key: fmt.Sprint("later", i), Sockets: 1})
		time.Sleep(time.Millisecond)
	}
	eventually(t, "all of them", func() bool { return r.users() == 5201 })
	mu.Lock()
	defer mu.Unlock()
	if asked > 10 {
		t.Errorf("asked %d times", asked)
	}
}
