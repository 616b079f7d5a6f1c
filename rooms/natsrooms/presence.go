package natsrooms

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/foyerws/foyer/rooms"
)

// Each process owns its members. It tells those that have the room open, too, of each change, and answers with all of its members when
// it is asked. It is asked when a room is opened, and by a process that may have missed something: because a change says
// that another came before it, because a beat is missing, or because the connection was away.

// A presence is who is in a room.
type presence struct {
	mu sync.Mutex // a leaf; guards:
	// what is here:
	here  map[string]rooms.Presence // by key
	dirty map[string]bool           // keys whose change was not told yet
	told  uint64                    // the version that was told last; 0 if nobody was here
	parts uint64                    // how many parts of answers have had versions below it

	heard sync.Mutex        // held while the room is told; guards:
	peers map[string]*known // of other processes
}

// A known is what is known of a room in another process.
type known struct {
	have   uint64 // the version
	missed uint64 // a newer one that could not be used, because another is missing before it; 0 for none
}

// A change says how many sockets a user has in a room, in one process. "Version" is larger than that of the change before,
// which is "Previous"; 0 says that it does not matter what was before.
type change struct {
	Node     string           `json:"node"`
	Room     string           `json:"room,omitempty"` // escaped; where the subject does not say it
	Previous uint64           `json:"previous,omitempty"`
	Version  uint64           `json:"version,omitempty"`
	Users    []rooms.Presence `json:"users,omitempty"`
	More     bool             `json:"more,omitempty"` // parts of an answer follow

	Ask   bool     `json:"ask,omitempty"`   // who is there?
	Rooms []string `json:"rooms,omitempty"` // in these rooms
	All   bool     `json:"all,omitempty"`   // those where nobody is are to be answered as well
}

// versionStep is the distance of versions. Between them is room for the parts of an answer.
const versionStep = 1 << 16

// maxUsers is how many users a change has at most, so that it fits into a message.
const maxUsers = 1000

// newVersion returns a version that is larger than all before, also than those of rooms that were closed since.
func (b *Backend) newVersion() uint64 {
	now := uint64(time.Since(b.begin)) + 2*versionStep
	for {
		last := b.version.Load()
		next := max(now, last+versionStep)
		if b.version.CompareAndSwap(last, next) {
			return next
		}
	}
}

// telling is the rooms with changes that have not been told.
type telling struct {
	mu    sync.Mutex // a leaf
	rooms []*channel
	wake  chan struct{} // has room for one
}

// Present implements rooms.Channel.
func (c *channel) Present(p rooms.Presence) {
	c.presence.mu.Lock()
	if c.here == nil {
		c.here, c.dirty = make(map[string]rooms.Presence), make(map[string]bool)
	}
	if c.here[p.Key] = p; p.Sockets == 0 {
		delete(c.here, p.Key)
	}
	scheduled := len(c.dirty) > 0
	c.dirty[p.Key] = true
	c.presence.mu.Unlock()
	if scheduled {
		return
	}
	t := &c.backend.telling
	t.mu.Lock()
	t.rooms = append(t.rooms, c)
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// together is how long changes wait for others of the same room.
const together = 5 * time.Millisecond

// tell tells other processes what has changed here.
func (b *Backend) tell() {
	for {
		select {
		case <-b.telling.wake:
		case <-b.end:
			return
		}
		b.after(context.Background(), together)
		b.telling.mu.Lock()
		rooms := b.telling.rooms
		b.telling.rooms = nil
		b.telling.mu.Unlock()
		for _, c := range rooms {
			for _, d := range c.changes() {
				b.send(c.subject(kindPresence), &d)
			}
		}
	}
}

// changes returns what has changed since the last call.
func (c *channel) changes() (all []change) {
	c.presence.mu.Lock()
	defer c.presence.mu.Unlock()
	keys := slices.Collect(maps.Keys(c.dirty))
	clear(c.dirty)
	for part := range slices.Chunk(keys, maxUsers) {
		d := change{Node: c.backend.node, Previous: c.told, Version: c.backend.newVersion()}
		for _, key := range part {
			p := c.here[key]
			p.Key = key
			d.Users = append(d.Users, p)
		}
		c.told, c.parts = d.Version, 0
		all = append(all, d)
	}
	if len(c.here) == 0 {
		c.told = 0
	}
	return all
}

// everybody returns all that are here, in parts. The last has the version that was told last. The others have versions of their own, so
// that parts of two answers, which differ, do not make one.
func (c *channel) everybody() (all []change) {
	c.presence.mu.Lock()
	defer c.presence.mu.Unlock()
	if c.told == 0 {
		return nil // the first change will tell
	}
	node, previous := c.backend.node, uint64(0)
	for part := range slices.Chunk(slices.Collect(maps.Values(c.here)), maxUsers) {
		c.parts = c.parts%(versionStep-1) + 1
		version := c.told - versionStep + c.parts
		all = append(all, change{Node: node, Room: c.token, Previous: previous, Version: version, Users: part, More: true})
		previous = version
	}
	if last := len(all) - 1; last >= 0 {
		all[last].Version, all[last].More = c.told, false
	}
	return all
}

func (b *Backend) send(subject string, v any) {
	data, err := json.Marshal(v)
	if err == nil {
		err = b.nc.Publish(subject, data)
	}
	if err != nil && b.nc.IsConnected() {
		b.log.Warn("natsrooms: other processes cannot be told who is here", "err", err)
	}
}

// ask asks all who have the room open.
func (c *channel) ask() {
	c.backend.send(c.subject(kindPresence), &change{Node: c.backend.node, Ask: true})
}

// askedAtOnce is about how many rooms one process asks another about in one message.
const askedAtOnce = 1000

// askNode asks another process about all rooms that are open here.
func (b *Backend) askNode(node string, all bool) {
	var tokens []string
	for _, c := range b.channels() {
		tokens = append(tokens, c.token)
	}
	for part := range slices.Chunk(tokens, askedAtOnce) {
		b.send(b.o.Prefix+".node."+node, &change{Node: b.node, Ask: true, Rooms: part, All: all})
	}
}

// heardPresence takes what another process says in a room.
func (c *channel) heardPresence(msg *nats.Msg) {
	var d change
	if json.Unmarshal(msg.Data, &d) != nil || d.Node == "" || d.Node == c.backend.node {
		return
	}
	if d.Ask {
		c.backend.answer(d.Node, c.everybody())
		return
	}
	c.heardChange(&d)
}

func (b *Backend) answer(node string, all []change) {
	for _, d := range all {
		b.send(b.o.Prefix+".node."+node, &d)
	}
}

// heardChange takes a change, unless it is old, or another is missing before it. Then the process is asked, once: a room in which much
// happens must not be asked for again with each change.
func (c *channel) heardChange(d *change) {
	c.backend.peers.see(d.Node)
	c.heard.Lock()
	defer c.heard.Unlock()
	k := c.peers[d.Node]
	if k == nil {
		if c.peers == nil {
			c.peers = make(map[string]*known)
		}
		k = new(known)
		c.peers[d.Node] = k
	}
	switch {
	case d.Version <= k.have:
		return
	case d.Previous == k.have:
	case d.Previous == 0:
		c.sink.Absent(d.Node)
	default:
		if k.missed == 0 {
			c.askAbout(d.Node)
		}
		k.missed = max(k.missed, d.Version)
		return
	}
	k.have = d.Version
	for _, p := range d.Users {
		c.sink.Present(d.Node, p)
	}
	switch {
	case d.More || k.missed == 0:
	case k.have >= k.missed:
		k.missed = 0
		c.backend.answered(question{c, d.Node})
	default: // the answer is older than what was missed
		c.askAbout(d.Node)
	}
}

// A question is about a room in another process.
type question struct {
	c    *channel
	node string
}

// questions are those that have no answer yet.
type questions struct {
	mu    sync.Mutex // a leaf
	asked map[question]time.Time
}

// askAbout asks another process about the room, until there is an answer.
func (c *channel) askAbout(node string) {
	q := &c.backend.questions
	q.mu.Lock()
	q.asked[question{c, node}] = time.Now()
	q.mu.Unlock()
	c.backend.send(c.backend.o.Prefix+".node."+node, &change{Node: c.backend.node, Ask: true, Rooms: []string{c.token}, All: true})
}

func (b *Backend) answered(q question) {
	b.questions.mu.Lock()
	defer b.questions.mu.Unlock()
	delete(b.questions.asked, q)
}

// askAgain asks again what has had no answer for a while.
func (b *Backend) askAgain() {
	b.questions.mu.Lock()
	var late []question
	for q, asked := range b.questions.asked {
		if time.Since(asked) > requestTimeout {
			late = append(late, q)
			delete(b.questions.asked, q)
		}
	}
	b.questions.mu.Unlock()
	for _, q := range late {
		if b.channel(q.c.token) == q.c && b.peers.has(q.node) {
			q.c.askAbout(q.node)
		}
	}
}

// asked takes what is sent to this process alone: questions and answers.
func (b *Backend) asked(msg *nats.Msg) {
	var d change
	if json.Unmarshal(msg.Data, &d) != nil || d.Node == "" || d.Node == b.node {
		return
	}
	if !d.Ask {
		if c := b.channel(d.Room); c != nil {
			c.heardChange(&d)
		}
		return
	}
	for _, token := range d.Rooms {
		nobody := []change{{Node: b.node, Room: token, Version: b.newVersion()}} // older than the next change
		var all []change
		if c := b.channel(token); c != nil {
			all = c.everybody()
		}
		if len(all) == 0 && d.All {
			all = nobody
		}
		b.answer(d.Node, all)
	}
}

// A peer is another process.
type peer struct {
	seen time.Time
	beat uint64
}

// peers are the other processes that are there.
type peers struct {
	mu    sync.Mutex // a leaf
	known map[string]*peer
	beats uint64 // of this process

	patience time.Duration // with a process that is silent
}

// A beat says that a process is there.
type beat struct {
	Node  string `json:"node"`
	Count uint64 `json:"count"` // one more each time
	Bye   bool   `json:"bye,omitempty"`
}

// beat tells all processes that this one is there, or about to go.
func (b *Backend) beat(bye bool) {
	b.peers.mu.Lock()
	b.peers.beats++
	d := beat{b.node, b.peers.beats, bye}
	b.peers.mu.Unlock()
	b.send(b.o.Prefix+".node", &d)
}

// heardBeat takes the beat of another process.
func (b *Backend) heardBeat(msg *nats.Msg) {
	var d beat
	if json.Unmarshal(msg.Data, &d) != nil || d.Node == "" || d.Node == b.node {
		return
	}
	if d.Bye {
		b.forget(d.Node)
		return
	}
	isNew, missed := b.peers.heard(&d)
	if isNew {
		b.beat(false) // so that it knows of this one soon
	}
	if isNew || missed {
		b.askNode(d.Node, missed)
	}
}

// heard notes a beat, and reports whether the process was not known, and whether a beat is missing before it.
func (p *peers) heard(d *beat) (isNew, missed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.known[d.Node]
	if known == nil {
		p.known[d.Node] = &peer{time.Now(), d.Count}
		return true, false
	}
	isNew = known.beat == 0 // only a change has come
	missed = !isNew && d.Count != known.beat+1
	known.seen, known.beat = time.Now(), d.Count
	return isNew, missed
}

// see notes that something came from a process.
func (p *peers) see(node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.known[node]; known != nil {
		known.seen = time.Now()
	} else {
		p.known[node] = &peer{seen: time.Now()}
	}
}

// silent returns the processes that have not been heard of for too long.
func (p *peers) silent() (gone []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for node, known := range p.known {
		if time.Since(known.seen) > p.patience {
			gone = append(gone, node)
		}
	}
	return gone
}

func (p *peers) all() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.known))
}

func (p *peers) has(node string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known[node] != nil
}

func (p *peers) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.known)
}

// forget drops all that a process has said.
func (b *Backend) forget(node string) {
	b.peers.mu.Lock()
	delete(b.peers.known, node)
	b.peers.mu.Unlock()
	for _, c := range b.channels() {
		c.heard.Lock()
		if c.peers[node] != nil {
			delete(c.peers, node)
			c.sink.Absent(node)
		}
		c.heard.Unlock()
	}
}
