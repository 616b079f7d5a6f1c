//go:build linux

package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/rooms"
	"github.com/foyerws/foyer/rooms/natsrooms"
)

// A roomCost is what many rooms cost one node with natsrooms.JetStream, and NATS. This process is the node.
type roomCost struct {
	rooms         int
	patience      time.Duration // with what the node does from time to time
	broker        broker
	subscriptions int // that NATS has for the rooms, and two for the node
	steps         []step
}

// A step is something that was done once for each room, or measured for all of them. The costs are those of one room.
type step struct {
	name                 string
	rate                 float64 // rooms a second
	nodeCPU, natsCPU     float64 // microseconds
	nodeBytes, natsBytes float64 // of live memory, more than before
	messages, bytes      float64 // that NATS has sent
}

// The names of the steps.
const (
	stepOpen      = "open it"
	stepPresent   = "tell of a user"
	stepPublish   = "publish 128 B"
	stepCompare   = "compare the head"
	stepClose     = "close it"
	stepJoin      = "open it with a Hub, join, tell"
	stepElsewhere = "a member elsewhere, in the Hub"
)

// measureRooms opens n rooms, at first without a Hub. Then it waits at most so long for the node to compare heads.
func measureRooms(n int, patience time.Duration) (*roomCost, error) {
	k, err := startBroker("nats")
	if err != nil {
		return nil, err
	}
	defer k.end()
	nc, err := nats.Connect(k.addr)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	c := &roomCost{rooms: n, patience: patience, broker: k}
	if err := c.openAll(nc); err != nil {
		return nil, err
	}
	return c, c.joinAll(nc)
}

// openAll measures rooms without members.
func (c *roomCost) openAll(nc *nats.Conn) error {
	ctx := context.Background()
	b := natsrooms.JetStream(nc)
	defer b.Close()
	if err := b.Ready(ctx); err != nil { // this creates the stream
		return err
	}
	before, err := c.broker.state()
	if err != nil {
		return err
	}
	channels := make([]rooms.Channel, c.rooms)
	err = c.step(stepOpen, func(i int) (err error) {
		channels[i], err = b.Open(ctx, roomName(i), deaf{})
		return err
	})
	if err != nil {
		return err
	}
	after, err := c.broker.state()
	if err != nil {
		return err
	}
	c.subscriptions = after.Subscriptions - before.Subscriptions
	err = c.step(stepPresent, func(i int) error {
		channels[i].Present(rooms.Presence{Key: "user-of-" + roomName(i), Sockets: 1})
		if i%atOnce == 0 {
			time.Sleep(atOnce * time.Millisecond) // the node hears its own changes: more than 64,000 a second are too many for it
		}
		return nil
	})
	if err != nil {
		return err
	}
	message := text(128)
	err = c.step(stepPublish, func(i int) error {
		_, err := channels[i].Publish(ctx, &rooms.Message{Kind: rooms.Published, Type: foyer.Text, Data: message, Time: time.Now()})
		return err
	})
	if err != nil {
		return err
	}
	compared := sync.OnceValue(c.compared)
	if err := c.step(stepCompare, func(int) error { return compared() }); err != nil {
		return err
	}
	return c.step(stepClose, func(i int) error { return channels[i].Close() })
}

// compared waits until NATS has sent the heads of all rooms, which the node compares every 30 s.
func (c *roomCost) compared() error {
	begin, err := c.broker.state()
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(c.patience); time.Now().Before(deadline); time.Sleep(time.Second) {
		now, err := c.broker.state()
		if err != nil || now.OutMessages-begin.OutMessages >= int64(c.rooms) {
			return err
		}
	}
	return nil
}

// joinAll measures the same rooms with a Hub, each with one member. They are all of one socket, which costs next to nothing then.
func (c *roomCost) joinAll(nc *nats.Conn) error {
	ctx := context.Background()
	s, hangUp, err := socket(ctx)
	if err != nil {
		return err
	}
	defer hangUp()
	tap := &tap{Backend: natsrooms.JetStream(nc)}
	hub := &rooms.Hub{Backend: tap, MaxRooms: c.rooms, MaxRoomsPerSocket: c.rooms}
	defer tap.Close()
	defer hub.Shutdown(ctx)
	err = c.step(stepJoin, func(i int) error {
		_, err := hub.Room(roomName(i)).Join(ctx, s, rooms.JoinOptions{Key: "user-of-" + roomName(i)})
		return err
	})
	if err != nil {
		return err
	}
	return c.step(stepElsewhere, func(i int) error {
		tap.sinks[i].Present("another-node", []rooms.Presence{{Key: "another-of-" + roomName(i), Sockets: 1}}, false)
		return nil
	})
}

func roomName(i int) string { return fmt.Sprintf("room-%06d", i) }

// socket returns the server's side of a connection inside this process.
func socket(ctx context.Context) (s *foyer.Socket, hangUp func(), err error) {
	h := new(foyer.Handler)
	srv := &foyer.Server{Handler: h}
	if err := srv.Listen("tcp4", "127.0.0.1:0"); err != nil {
		return nil, nil, err
	}
	hangUp = func() { srv.Close() }
	if _, _, err = foyer.Dial(ctx, "ws://"+srv.Addr().String(), nil); err == nil {
		s, err = h.Accept(ctx)
	}
	if err != nil {
		hangUp()
	}
	return s, hangUp, err
}

// A tap remembers the Sinks that the Hub has made.
type tap struct {
	*natsrooms.Backend
	mu    sync.Mutex // guards:
	sinks []rooms.Sink
}

func (t *tap) Open(ctx context.Context, room string, sink rooms.Sink) (rooms.Channel, error) {
	t.mu.Lock()
	t.sinks = append(t.sinks, sink)
	t.mu.Unlock()
	return t.Backend.Open(ctx, room, sink)
}

// deaf is a Sink without members.
type deaf struct{}

func (deaf) Deliver(*rooms.Message)                 {}
func (deaf) Present(string, []rooms.Presence, bool) {}
func (deaf) Flush()                                 {}

// atOnce is how many rooms something is done for at the same time.
const atOnce = 64

// step calls f for each room, and notes what that costs.
func (c *roomCost) step(name string, f func(i int) error) error {
	before, err := c.live()
	if err != nil {
		return err
	}
	began, err := c.used()
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i := range c.rooms {
		g.Go(func() error { return f(i) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	took := time.Since(began.at)
	ended, err := c.quiet()
	if err != nil {
		return err
	}
	after, err := c.live()
	if err != nil {
		return err
	}
	n := int64(c.rooms)
	s := step{
		name:      name,
		rate:      float64(n) / took.Seconds(),
		nodeCPU:   microseconds(ended.node-began.node, n),
		natsCPU:   microseconds(ended.nats-began.nats, n),
		nodeBytes: float64(after.node-before.node) / float64(n),
		natsBytes: float64(after.nats-before.nats) / float64(n),
		messages:  float64(ended.OutMessages-began.OutMessages) / float64(n),
		bytes:     float64(ended.OutBytes-began.OutBytes) / float64(n),
	}
	fmt.Fprintf(os.Stderr, "%+v\n", s)
	c.steps = append(c.steps, s)
	return nil
}

// memory is the bytes that are left after the garbage was collected.
type memory struct{ node, nats int64 }

func (c *roomCost) live() (m memory, err error) {
	runtime.GC()
	runtime.GC() // what pools held is garbage only now
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	m.node = int64(stats.HeapAlloc)
	m.nats, err = c.broker.heap()
	return m, err
}

// spent is the CPU time that was used up to a time, and what NATS told then.
type spent struct {
	at         time.Time
	node, nats time.Duration
	natsState
}

func (c *roomCost) used() (u spent, err error) {
	u.at = time.Now()
	if u.node, err = cpuTime(os.Getpid()); err != nil {
		return u, err
	}
	if u.nats, err = cpuTime(c.broker.pid()); err != nil {
		return u, err
	}
	u.natsState, err = c.broker.state()
	return u, err
}

// quiet waits until NATS sends nothing more.
func (c *roomCost) quiet() (u spent, err error) {
	for last := int64(-1); err == nil && last != u.OutMessages; {
		last = u.OutMessages
		time.Sleep(200 * time.Millisecond)
		u, err = c.used()
	}
	return u, err
}

// table returns the costs in Markdown.
func (c *roomCost) table() string {
	var s strings.Builder
	s.WriteString("| a room | a second | CPU of node, µs | CPU of NATS, µs | bytes in node | bytes in NATS |\n| --- | ---: | ---: | ---: | ---: | ---: |\n")
	for _, x := range c.steps {
		fmt.Fprintf(&s, "| %s | %.0f | %.1f | %.1f | %+.0f | %+.0f |\n", x.name, x.rate, x.nodeCPU, x.natsCPU,
			math.Round(x.nodeBytes)+0, math.Round(x.natsBytes)+0) // no -0
	}
	fmt.Fprintf(&s, "\nOne node with natsrooms.JetStream and %d rooms, %s. The first five steps are without a Hub; a "+
		"node does the fourth for 10,000 rooms every 30 s. All members of the Hub are one socket.\n", c.rooms, machine())
	return s.String()
}

// anotherMember is the bytes of a member of a room that has one already, from docs/rooms.md.
const anotherMember = 640

// forecast says what the costs come to for so many members in so many rooms on so many nodes, if the members of a room are
// spread at random.
func (c *roomCost) forecast(members, rooms, nodes float64) string {
	by := make(map[string]step)
	for _, s := range c.steps {
		by[s.name] = s
	}
	among := func(members float64) float64 { return 1 - math.Pow(1-1/nodes, members) } // the chance that one of them is on a node
	each := members / rooms
	open, local := rooms*among(each), members/nodes // rooms and members of a node
	elsewhere := open*each - local                  // members of its rooms that are on other nodes
	all := open * nodes                             // rooms of all nodes
	here := open*by[stepJoin].nodeBytes + (local-open)*anotherMember
	there := elsewhere * by[stepElsewhere].nodeBytes

	const coming, check = 300.0, 30.0 // seconds
	percent := func(microseconds, seconds float64) float64 { return microseconds / 1e4 / seconds }
	heard := members * (1 + (nodes-1)*among(each-1)) // changes, by nodes that hear of one, its own among them
	asked := all * (all/rooms - 1) / 2               // questions when rooms are opened; on average half of the nodes are there
	telling := by[stepPresent]

	var s strings.Builder
	fmt.Fprintf(&s, "What %.0f members in %.0f rooms on %.0f nodes would cost, the members of a room spread at random, from the costs of %d rooms. "+
		"Memory is live; a Go process has up to twice as much. Sockets and messages are not in it.\n\n", members, rooms, nodes, c.rooms)
	fmt.Fprintf(&s, "- A room is open on %.1f nodes. A node has %.0f rooms, as many subscriptions, and %.0f members.\n", all/rooms, open, local)
	fmt.Fprintf(&s, "- NATS has %.0f subscriptions. They take at most %.0f MB, and one message in each room %.0f MB more.\n",
		all, all*by[stepOpen].natsBytes/1e6, rooms*by[stepPublish].natsBytes/1e6)
	fmt.Fprintf(&s, "- A node needs %.0f MB for its rooms and members, and %.0f MB for the %.0f members of its rooms that are elsewhere.\n",
		here/1e6, there/1e6, elsewhere)
	fmt.Fprintf(&s, "- When all come within 5 minutes, NATS takes %.0f changes a second and passes on %.0f. Rooms that are opened make %.0f questions "+
		"and answers a second. All that takes %.0f %% of a core of NATS, and the opening another %.0f %%; of a node it takes %.0f %%.\n",
		members/coming, heard/coming, 2*asked/coming, percent((heard+2*asked)*telling.natsCPU, coming), percent(all*by[stepOpen].natsCPU, coming),
		percent(open*by[stepJoin].nodeCPU+(heard+2*asked)/nodes*telling.nodeCPU, coming))
	const atOnce, question = 10_000, 70.0 // rooms that natsrooms compares at once; about the bytes of a question about a room
	compared := nodes * min(open, atOnce)
	fmt.Fprintf(&s, "- Every 30 s each node compares the heads of %.0f rooms, and of all after it was disconnected. If each has a message, NATS sends %.0f messages "+
		"and %.1f MB a second for it. That takes %.0f %% of a core of NATS, and %.1f %% of a node.\n", min(open, atOnce), compared*by[stepCompare].messages/check,
		compared*by[stepCompare].bytes/check/1e6, percent(compared*by[stepCompare].natsCPU, check), percent(compared/nodes*by[stepCompare].nodeCPU, check))
	fmt.Fprintf(&s, "- When NATS was away, each node asks each other one about all of its rooms, with the versions that it knows: %.0f MB of questions. "+
		"They are answered where something has changed. The comparison of all heads then takes %.0f s of a core of NATS. This breaks first.\n",
		all*(nodes-1)*question/1e6, all*by[stepCompare].natsCPU/1e6)
	return s.String()
}
