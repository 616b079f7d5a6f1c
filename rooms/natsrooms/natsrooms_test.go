package natsrooms

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
	"github.com/foyerws/foyer/rooms"
	"github.com/foyerws/foyer/rooms/roomstest"
)

// runServer runs a NATS server inside this process. Its folder may be that of one that was shut down.
func runServer(t testing.TB, folder string) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: folder, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s
}

func connect(t testing.TB, s *server.Server, o ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("", append(o, nats.InProcessServer(s))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// A node is what one process would have.
type node struct {
	*rooms.Hub
	backend *Backend
}

func newNode(t testing.TB, nc *nats.Conn, make func(*nats.Conn, ...Options) *Backend, o Options) *node {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	b := make(nc, o)
	n := &node{&rooms.Hub{Backend: b, Encode: numbered}, b}
	t.Cleanup(func() {
		n.Shutdown(context.Background())
		b.Close()
	})
	return n
}

// twoNodes returns two nodes on a server.
func twoNodes(t testing.TB, make func(*nats.Conn, ...Options) *Backend, o Options) (s *server.Server, a, b *node) {
	t.Helper()
	s = runServer(t, t.TempDir())
	return s, newNode(t, connect(t, s), make, o), newNode(t, connect(t, s), make, o)
}

// numbered is for Hub.Encode.
func numbered(m *rooms.Message) (foyer.MessageType, []byte) {
	switch m.Kind {
	case rooms.Welcome:
		return foyer.Text, fmt.Appendf(nil, "welcome %v %v", m.Position, m.Recovered)
	case rooms.Gap:
		return foyer.Text, fmt.Appendf(nil, "gap %v", m.Position)
	case rooms.Published:
		return foyer.Text, fmt.Appendf(nil, "%s %s", m.Data, m.Key)
	}
	return 0, nil
}

// join returns a client that is in a room of a node, and the Welcome it has got.
func (n *node) join(t testing.TB, room string, o rooms.JoinOptions) (c *foyer.Socket, m *rooms.Member, welcome string) {
	t.Helper()
	client, m := roomstest.Join(t, n.Room(room), o)
	return client, m, hear(t, client)
}

func hear(t testing.TB, c *foyer.Socket) string {
	t.Helper()
	return strings.TrimSpace(roomstest.Hear(t, c))
}

func expect(t testing.TB, c *foyer.Socket, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := hear(t, c); got != w {
			t.Fatalf("%q, want %q", got, w)
		}
	}
}

// silent fails if a client gets something.
func silent(t testing.TB, c *foyer.Socket) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, p, err := c.Read(ctx); err == nil {
		t.Fatalf("%q", p)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: " + what)
		}
	}
}

func publish(t testing.TB, n *node, room string, texts ...string) (p rooms.Position) {
	t.Helper()
	for _, text := range texts {
		var err error
		if p, err = n.Room(room).Publish(t.Context(), foyer.Text, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func texts(from, to int) (all []string) {
	for i := from; i <= to; i++ {
		all = append(all, fmt.Sprint("m", i))
	}
	return all
}

// backends are the two kinds, which have much in common.
var backends = map[string]func(*nats.Conn, ...Options) *Backend{"core": Core, "jetstream": JetStream}

func TestTwoNodes(t *testing.T) {
	t.Parallel()
	for name, make := range backends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, a, b := twoNodes(t, make, Options{})
			const room = "a room. *with* > everything/ä%2E+"
			alice, one, _ := a.join(t, room, rooms.JoinOptions{Key: "alice"})
			bob, two, _ := b.join(t, room, rooms.JoinOptions{Key: "bob"})
			other, _, _ := b.join(t, "other", rooms.JoinOptions{})
			for i := range 20 {
				m := []*rooms.Member{one, two}[i%2]
				if _, err := m.Publish(t.Context(), foyer.Text, fmt.Append(nil, "m", i)); err != nil {
					t.Fatal(err)
				}
				for _, c := range []*foyer.Socket{alice, bob} {
					expect(t, c, fmt.Sprint("m", i, " ", m.Key()))
				}
			}
			if _, err := a.Room(room).PublishMessage(t.Context(), &rooms.Message{Type: foyer.Binary, Data: []byte{}, Transient: true, Key: "alice"}); err != nil {
				t.Fatal(err)
			}
			expect(t, alice, "alice")
			expect(t, bob, "alice")
			silent(t, alice)
			silent(t, bob)
			silent(t, other)
			one.Leave()
			two.Leave()
		})
	}
}

func TestNamesAreReversible(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, name := range []string{"a", "A", "a b", "a+b", "a.b", "a%2Eb", "*", ">", "ä", "%", "a/b", "日本", strings.Repeat("ä", 64)} {
		token := escape(name)
		if strings.ContainsAny(token, ".*> ") {
			t.Errorf("%q is no token", token)
		}
		if back, err := url.QueryUnescape(token); err != nil || back != name {
			t.Errorf("%q became %q", name, back)
		}
		if other, ok := seen[token]; ok {
			t.Errorf("%q and %q are one", name, other)
		}
		seen[token] = name
	}
}

// TestCore stores nothing, and says so.
func TestCore(t *testing.T) {
	t.Parallel()
	_, a, b := twoNodes(t, Core, Options{})
	if p := publish(t, a, "x", "m1"); p != (rooms.Position{}) {
		t.Error(p)
	}
	a.backend.nc.Flush() // or else b might hear it
	c, m, welcome := b.join(t, "x", rooms.JoinOptions{Since: rooms.Position{Epoch: "x", Offset: 1}, History: 5})
	if welcome != "welcome  false" || m.Recovered() {
		t.Error(welcome)
	}
	silent(t, c)
}

// TestOneOrder has both nodes publish at once. All members see one order.
func TestOneOrder(t *testing.T) {
	t.Parallel()
	s := runServer(t, t.TempDir())
	nodes := []*node{newNode(t, connect(t, s), JetStream, Options{}), newNode(t, connect(t, s), JetStream, Options{})}
	var clients []*foyer.Socket
	for i := range 4 {
		c, _, _ := nodes[i%2].join(t, "x", rooms.JoinOptions{})
		clients = append(clients, c)
	}
	const each = 100
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for k := range each {
				publish(t, nodes[i%2], "x", fmt.Sprint(i, "-", k))
			}
		})
	}
	heard := make([][]string, len(clients))
	for i, c := range clients {
		all.Go(func() {
			for range 4 * each {
				heard[i] = append(heard[i], hear(t, c))
			}
		})
	}
	all.Wait()
	for i := range heard {
		if !slices.Equal(heard[i], heard[0]) {
			t.Errorf("client %d has seen another order", i)
		}
	}
	next := map[string]int{}
	for _, m := range heard[0] {
		var who, k int
		fmt.Sscanf(m, "%d-%d", &who, &k)
		if next[fmt.Sprint(who)] != k {
			t.Fatalf("%s out of order", m)
		}
		next[fmt.Sprint(who)]++
	}
}

// TestComingBackToAnotherNode is for a client that has lost its connection, or its node.
func TestComingBackToAnotherNode(t *testing.T) {
	t.Parallel()
	s := runServer(t, t.TempDir())
	a := newNode(t, connect(t, s), JetStream, Options{MaxMessages: 100})
	_, _, nothing := a.join(t, "x", rooms.JoinOptions{})
	publish(t, a, "other", texts(1, 10)...)
	at := make([]rooms.Position, 301)
	at[0], _ = rooms.ParsePosition(strings.Fields(nothing)[1])
	for i := 1; i <= 90; i++ {
		at[i] = publish(t, a, "x", fmt.Sprint("m", i))
		publish(t, a, "other", "between")
	}
	for _, test := range []struct {
		o         rooms.JoinOptions
		recovered bool
		first     int // that it gets; 91 for none
	}{
		{rooms.JoinOptions{}, false, 91},
		{rooms.JoinOptions{Since: at[50]}, true, 51},
		{rooms.JoinOptions{Since: at[90]}, true, 91},
		{rooms.JoinOptions{Since: at[1]}, true, 2},
		{rooms.JoinOptions{Since: at[0]}, true, 1}, // from when nothing had been published
		{rooms.JoinOptions{History: 7}, false, 84},
		{rooms.JoinOptions{Since: rooms.Position{Epoch: "other", Offset: at[50].Offset}, History: 7}, false, 84},
		{rooms.JoinOptions{Since: rooms.Position{Epoch: at[1].Epoch, Offset: at[90].Offset + 1000}}, false, 91},
	} {
		b := newNode(t, connect(t, s), JetStream, Options{MaxMessages: 100}) // has never seen the room
		c, m, welcome := b.join(t, "x", test.o)
		if m.Recovered() != test.recovered {
			t.Errorf("%+v: %s", test.o, welcome)
		}
		expect(t, c, texts(test.first, 90)...)
		silent(t, c)
	}
	publish(t, a, "x", texts(91, 150)...) // so that the first 50 are removed
	b := newNode(t, connect(t, s), JetStream, Options{MaxMessages: 100})
	for since, recovered := range map[int]bool{0: false, 50: false, 51: true, 90: true} {
		if _, m, welcome := b.join(t, "x", rooms.JoinOptions{Since: at[since]}); m.Recovered() != recovered {
			t.Errorf("%d: %s", since, welcome)
		}
	}
}

// compare does at once what is done every 30 s.
func (n *node) compare(t testing.TB) {
	t.Helper()
	if err := n.backend.stream.compareAll(); err != nil {
		t.Fatal(err)
	}
}

// deaf has a room of a node miss what f does.
func (n *node) deaf(t testing.TB, room string, f func()) {
	t.Helper()
	c := n.backend.channel(escape(room))
	c.mu.Lock()
	sub := c.sub
	c.mu.Unlock()
	sub.Unsubscribe()
	f()
	if err := c.subscribe(); err != nil {
		t.Fatal(err)
	}
	if err := n.backend.nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// TestGapsAreFilled is for messages that did not get through.
func TestGapsAreFilled(t *testing.T) {
	t.Parallel()
	_, a, b := twoNodes(t, JetStream, Options{})
	c, _, _ := b.join(t, "x", rooms.JoinOptions{})
	publish(t, a, "x", "m1")
	expect(t, c, "m1")
	for round, next := range []func(){
		func() { publish(t, a, "x", "next") }, // which shows the gap
		func() { b.compare(t) },               // nothing else does
		func() { publish(t, b, "x", "next") }, // of the node itself
	} {
		b.deaf(t, "x", func() {
			publish(t, a, "x", texts(2, 40)...)
			publish(t, a, "y", "something else")
		})
		next()
		expect(t, c, texts(2, 40)...)
		if round != 1 {
			expect(t, c, "next")
		}
	}
	b.deaf(t, "x", func() { publish(t, b, "x", "own") }) // Publish waits until it was fetched
	expect(t, c, "own")
	silent(t, c)
	if st := b.backend.Stats(); st.Gaps == 0 || st.Filled < 3*39 || st.Lost != 0 {
		t.Errorf("%+v", st)
	}
}

// TestLossIsTold is for a gap whose messages are not in the stream any more.
func TestLossIsTold(t *testing.T) {
	t.Parallel()
	o := Options{MaxMessages: 10}
	_, a, b := twoNodes(t, JetStream, o)
	c, _, _ := b.join(t, "x", rooms.JoinOptions{})
	at := publish(t, a, "x", "m1")
	expect(t, c, "m1")
	b.deaf(t, "x", func() { publish(t, a, "x", texts(2, 40)...) })
	publish(t, a, "x", "m41")
	if got := hear(t, c); !strings.HasPrefix(got, "gap ") {
		t.Fatal(got)
	}
	expect(t, c, texts(32, 41)...)
	if _, m, _ := b.join(t, "x", rooms.JoinOptions{Since: at}); m.Recovered() {
		t.Error("recovered over what is lost")
	}
	if st := b.backend.Stats(); st.Lost != 1 {
		t.Errorf("%+v", st)
	}
}

// TestExpiredHistory is for rooms that were quiet for longer than their messages are kept: the stream says of the next one that nothing was
// before it.
func TestExpiredHistory(t *testing.T) {
	t.Parallel()
	o := Options{MaxAge: 200 * time.Millisecond}
	s, a, b := twoNodes(t, JetStream, o)
	c, _, _ := b.join(t, "x", rooms.JoinOptions{})
	at := publish(t, a, "x", "m0")
	publish(t, a, "x", "m1")
	expect(t, c, "m0", "m1")
	gone := func() bool {
		info, err := a.backend.stream.info(t.Context())
		return err == nil && info.State.Msgs == 0
	}
	eventually(t, "the message is removed", gone)
	b.compare(t) // every 30 s
	publish(t, a, "x", "m2")
	expect(t, c, "m2")
	fresh := newNode(t, connect(t, s), JetStream, o)
	if _, m, _ := fresh.join(t, "x", rooms.JoinOptions{Since: at}); m.Recovered() {
		t.Error("recovered, though nobody can know")
	}
	b.deaf(t, "x", func() { // for longer than anything is kept
		publish(t, a, "x", "lost")
		eventually(t, "the messages are removed", gone)
	})
	publish(t, a, "x", "m3")
	if got := hear(t, c); !strings.HasPrefix(got, "gap ") {
		t.Fatal(got)
	}
	expect(t, c, "m3")
}

// TestStreamThatIsMadeAnew has another epoch, also if it has as many messages.
func TestStreamThatIsMadeAnew(t *testing.T) {
	t.Parallel()
	s, a, b := twoNodes(t, JetStream, Options{})
	c, _, _ := b.join(t, "x", rooms.JoinOptions{})
	at := publish(t, a, "x", texts(1, 5)...)
	expect(t, c, texts(1, 5)...)
	if err := a.backend.stream.js.DeleteStream(t.Context(), "rooms"); err != nil {
		t.Fatal(err)
	}
	publish(t, a, "x", texts(6, 12)...)
	b.compare(t)
	if got := hear(t, c); !strings.HasPrefix(got, "gap ") || strings.Contains(got, at.Epoch) {
		t.Fatal(got)
	}
	expect(t, c, texts(6, 12)...)
	publish(t, a, "x", "m13")
	expect(t, c, "m13")
	for _, n := range []*node{a, b, newNode(t, connect(t, s), JetStream, Options{})} {
		if _, m, _ := n.join(t, "x", rooms.JoinOptions{Since: at}); m.Recovered() {
			t.Error("recovered")
		}
	}
	if st := b.backend.Stats(); st.Reset != 1 {
		t.Errorf("%+v", st)
	}
}

// TestRetriesStoreOnce has an answer get lost.
func TestRetriesStoreOnce(t *testing.T) {
	t.Parallel()
	s := runServer(t, t.TempDir())
	a := newNode(t, connect(t, s), JetStream, Options{})
	c, _, _ := a.join(t, "x", rooms.JoinOptions{})
	msg := encode(a.backend.logSubject("x"), &rooms.Message{Type: foyer.Text, Data: []byte("once")}, "")
	msg.Header.Set(idHeader, "id")
	first, err := a.backend.stream.store(t.Context(), msg)
	second, again := a.backend.stream.store(t.Context(), msg)
	if err != nil || again != nil || first != second {
		t.Fatal(first, second, err, again)
	}
	expect(t, c, "once")
	silent(t, c)
}

// TestNATSAway has the server go and come back.
func TestNATSAway(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for name, make := range backends {
		for _, when := range []WhenDown{Refuse, Local} {
			t.Run(fmt.Sprint(name, when), func(t *testing.T) {
				t.Parallel()
				folder := t.TempDir()
				var mu sync.Mutex
				s := runServer(t, folder)
				dial := func() (net.Conn, error) {
					mu.Lock()
					defer mu.Unlock()
					return s.InProcessConn()
				}
				away := func() *nats.Conn {
					nc, err := nats.Connect("", nats.SetCustomDialer(dialer(dial)), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(nc.Close)
					return nc
				}
				o := Options{WhenDown: when, PublishTimeout: 300 * time.Millisecond}
				a, b := newNode(t, away(), make, o), newNode(t, away(), make, o)
				alice, _, _ := a.join(t, "x", rooms.JoinOptions{})
				bob, _, _ := b.join(t, "x", rooms.JoinOptions{})
				publish(t, a, "x", "m1")
				expect(t, alice, "m1")
				expect(t, bob, "m1")
				s.Shutdown()
				s.WaitForShutdown()
				eventually(t, "disconnected", func() bool { return !a.backend.nc.IsConnected() && !b.backend.nc.IsConnected() })
				if err := a.backend.Ready(t.Context()); !errors.Is(err, rooms.ErrUnavailable) {
					t.Error(err)
				}
				_, err := a.Room("x").Publish(t.Context(), foyer.Text, []byte("meanwhile"))
				if when == Refuse {
					if !errors.Is(err, rooms.ErrUnavailable) {
						t.Error(err)
					}
				} else if err != nil {
					t.Error(err)
				} else {
					expect(t, alice, "meanwhile")
				}
				_, other := foyertest.Pair(t, &foyer.Handler{})
				if _, err := a.Room("new").Join(t.Context(), other, rooms.JoinOptions{}); errors.Is(err, rooms.ErrUnavailable) != (when == Refuse) {
					t.Error(err)
				}
				mu.Lock()
				s = runServer(t, folder)
				mu.Unlock()
				eventually(t, "ready", func() bool { return a.backend.Ready(t.Context()) == nil && b.backend.Ready(t.Context()) == nil })
				publish(t, a, "x", "m2")
				expect(t, alice, "m2")
				expect(t, bob, "m2")
				if when == Local {
					c, _ := roomstest.Join(t, a.Room("new"), rooms.JoinOptions{})
					hear(t, c)
					eventually(t, "the room that was opened meanwhile is the others', too", func() bool {
						publish(t, b, "new", "hello")
						ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
						defer cancel()
						_, _, err := c.Read(ctx)
						return err == nil
					})
				}
			})
		}
	}
}

type dialer func() (net.Conn, error)

func (d dialer) Dial(string, string) (net.Conn, error) { return d() }

// A record is a Sink that counts who is where.
type record struct {
	mu    sync.Mutex
	nodes map[string]map[string]int
	texts []string
}

func (r *record) Deliver(m *rooms.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.texts = append(r.texts, string(m.Data))
}

func (r *record) Flush() {}

func (r *record) Present(node string, users []rooms.Presence, all bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.nodes == nil {
		r.nodes = make(map[string]map[string]int)
	}
	if r.nodes[node] == nil || all {
		r.nodes[node] = make(map[string]int)
	}
	for _, p := range users {
		if r.nodes[node][p.Key] = p.Sockets; p.Sockets == 0 {
			delete(r.nodes[node], p.Key)
		}
	}
}

// users returns how many there are elsewhere.
func (r *record) users() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, users := range r.nodes {
		n += len(users)
	}
	return n
}

// TestPresenceOfFiveNodes has 10,000 users, who come before and after the room is opened elsewhere.
func TestPresenceOfFiveNodes(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes seconds")
	}
	s := runServer(t, t.TempDir())
	const nodes, each = 5, 2000
	var all [nodes]struct {
		b *Backend
		c rooms.Channel
		r record
	}
	for i := range all {
		n := &all[i]
		n.b = newNode(t, connect(t, s), Core, Options{}).backend
		c, err := n.b.Open(t.Context(), "x", &n.r)
		if err != nil {
			t.Fatal(err)
		}
		n.c = c
		for k := range each {
			c.Present(rooms.Presence{Key: fmt.Sprint(i, "-", k), Info: "somebody", Sockets: 1})
		}
	}
	complete := func(want int) func() bool {
		return func() bool {
			for i := range all {
				if got := all[i].r.users(); got != want && all[i].c != nil {
					return false
				}
			}
			return true
		}
	}
	eventually(t, "everybody is known everywhere", complete((nodes-1)*each))
	for i := range all { // half of them leave and come back, at random
		for range each {
			k, n := rand.IntN(each), rand.IntN(2)
			all[i].c.Present(rooms.Presence{Key: fmt.Sprint(i, "-", k), Sockets: n})
		}
		for k := range each / 2 {
			all[i].c.Present(rooms.Presence{Key: fmt.Sprint(i, "-", k)})
			all[i].c.Present(rooms.Presence{Key: fmt.Sprint(i, "-", k+each/2), Sockets: 2})
		}
	}
	eventually(t, "half of them have left", complete((nodes-1)*each/2))

	// A process says goodbye, and another does not.
	all[0].b.Close()
	all[0].c = nil
	eventually(t, "one has said goodbye", complete((nodes-2)*each/2))
	for i := range all[1:] {
		all[1+i].b.peers.mu.Lock()
		all[1+i].b.peers.patience = 2 * time.Second
		all[1+i].b.peers.mu.Unlock()
	}
	all[1].b.nc.Close()
	all[1].c = nil
	for i := range all[2:] {
		n := &all[2+i]
		go func() {
			for range 50 {
				n.b.beat(false)
				time.Sleep(100 * time.Millisecond)
			}
		}()
	}
	eventually(t, "one was killed", complete((nodes-3)*each/2))
	if got := all[2].b.Stats().Nodes; got != 2 {
		t.Error(got)
	}
}

// TestPresenceThatWasMissed has changes get lost.
func TestPresenceThatWasMissed(t *testing.T) {
	t.Parallel()
	_, a, b := twoNodes(t, Core, Options{})
	var r record
	c, err := a.backend.Open(t.Context(), "x", &record{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.backend.Open(t.Context(), "x", &r); err != nil {
		t.Fatal(err)
	}
	set := func(key string, n int) {
		c.Present(rooms.Presence{Key: key, Sockets: n})
		eventually(t, "it is told", func() bool {
			c := c.(*coreChannel).channel
			c.presence.mu.Lock()
			defer c.presence.mu.Unlock()
			return len(c.dirty) == 0
		})
		a.backend.nc.Flush()
	}
	set("alice", 1)
	eventually(t, "alice", func() bool { return r.users() == 1 })
	b.deaf(t, "x", func() { set("bob", 1) })
	set("carol", 1) // which shows that something is missing
	eventually(t, "bob and carol", func() bool { return r.users() == 3 })
	b.deaf(t, "x", func() {
		for _, key := range []string{"alice", "bob", "carol"} {
			set(key, 0)
		}
	})
	a.backend.peers.beating.Lock()
	a.backend.peers.beats++ // one that b has not got either
	a.backend.peers.beating.Unlock()
	a.backend.beat(false)
	eventually(t, "nobody", func() bool { return r.users() == 0 })
	b.deaf(t, "x", func() { set("dave", 1) })
	b.backend.catchUp() // the connection was away
	eventually(t, "dave", func() bool { return r.users() == 1 })
}

// TestHostileMessages are what others may send where they have permission.
func TestHostileMessages(t *testing.T) {
	t.Parallel()
	s := runServer(t, t.TempDir())
	nc := connect(t, s)
	a := newNode(t, connect(t, s), JetStream, Options{})
	c, _, _ := a.join(t, "x", rooms.JoinOptions{})
	for _, subject := range []string{"rooms.room.x.m", "rooms.room.x.t", "rooms.room.x.p", "rooms.room.x.other", "rooms.node", a.backend.subject, "rooms.room.x.m"} {
		for _, data := range []string{"", "{", "null", "[]", `{"node":"` + strings.Repeat("x", 1000) + `","version":18446744073709551615}`, `{"node":"b","ask":true,"rooms":[""]}`} {
			if strings.HasSuffix(subject, ".t") {
				continue // any text is fine there
			}
			if err := nc.PublishMsg(&nats.Msg{Subject: subject, Data: []byte(data), Header: nats.Header{sequenceHeader: {"-1"}, aboutHeader: {"{"}}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	nc.Publish("rooms.log.x", []byte("from another program"))
	nc.Flush()
	expect(t, c, "from another program")
}

// TestPermissions runs nodes with the permissions of docs/cluster.md, and no others.
func TestPermissions(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/cluster.md")
	if err != nil {
		t.Fatal(err)
	}
	_, config, _ := strings.Cut(string(text), "```nats\n")
	config, _, _ = strings.Cut(config, "```")
	folder := t.TempDir()
	file := filepath.Join(folder, "nats-server.conf")
	config = strings.NewReplacer("127.0.0.1:4222", "127.0.0.1:-1", "/var/lib/nats", folder).Replace(config)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	o.NoSigs, o.NoLog = true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	refused := make(chan error, 100)
	connect := func() *nats.Conn {
		nc, err := nats.Connect(s.ClientURL(), nats.UserInfo("node", "a secret"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	a, b := newNode(t, connect(), JetStream, Options{}), newNode(t, connect(), JetStream, Options{})
	alice, m, _ := a.join(t, "x", rooms.JoinOptions{Key: "alice"})
	bob, _, _ := b.join(t, "x", rooms.JoinOptions{Key: "bob"})
	eventually(t, "presence", func() bool { return len(a.Room("x").Members()) == 2 && len(b.Room("x").Members()) == 2 })
	m.Publish(t.Context(), foyer.Text, []byte("hello"))
	expect(t, alice, "hello alice")
	expect(t, bob, "hello alice")
	at := publish(t, b, "x", "m1")
	b.deaf(t, "x", func() { publish(t, a, "x", "m2") })
	b.compare(t)
	expect(t, bob, "m1", "m2")
	if _, m, _ := newNode(t, connect(), JetStream, Options{}).join(t, "x", rooms.JoinOptions{Since: at}); !m.Recovered() {
		t.Error("not recovered")
	}
	if err := a.backend.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	select {
	case err := <-refused:
		t.Error(err)
	default:
	}
	a.backend.nc.Publish("rooms.room.x.m", []byte("forged"))
	a.backend.nc.Flush()
	if err := <-refused; !errors.Is(err, nats.ErrPermissionViolation) {
		t.Error(err)
	}
}
