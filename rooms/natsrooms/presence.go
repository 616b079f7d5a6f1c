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
	last  uint64                    // the same, also if nobody is here any more
	parts uint64                    // how many parts of answers have had versions below it

	heard sync.Mutex        // held while the room is told; guards:
	peers map[string]*known // of other processes
}

// A known is what is known of a room in another process.
type known struct {
	have  uint64           // the version
	users []rooms.Presence // those of an answer whose last part has not come
	asked bool             // it was asked, because a change is missing
	later []*change        // what came meanwhile
}

// maxLater is how many changes are kept while one is missing.
const maxLater = 256

// A change says how many sockets users have in a room, in one process. "Version" is larger than that of the change before,
// which is "Previous"; 0 says that these are all users, or the first of them.
type change struct {
	Node     string           `json:"node"`
	Room     string           `json:"room,omitempty"` // escaped; where the subject does not say it
	Previous uint64           `json:"previous,omitempty"`
	Version  uint64           `json:"version,omitempty"`
	Users    []rooms.Presence `json:"users,omitempty"`
	More     bool             `json:"more,omitempty"` // further parts of an answer follow

	Ask  bool   `json:"ask,omitempty"`  // who is there?
	Have []told `json:"have,omitempty"` // in these rooms, if that is not what is known

	Answers []change `json:"answers,omitempty"`
}

// sizeOfChange is about how many bytes a change has in JSON, at most.
func sizeOfChange(d change) (n int) {
	for _, p := range d.Users {
		n += sizeOfUser(p)
	}
	return n + sizeOfName(d.Room) + 150
}

// sizeOfUser is about how many bytes a user has in JSON, at most.
func sizeOfUser(p rooms.Presence) int { return 6*(len(p.Key)+len(p.Info)) + 50 }

// versionStep is the distance of versions. Between them is room for the parts of an answer.
const versionStep = 1 << 16

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

// telling is the rooms with changes that have not been told, and what was told lately.
type telling struct {
	mu     sync.Mutex // a leaf; guards:
	rooms  []*channel
	lately map[string]lately // by room

	wake chan struct{} // has room for one
}

// A lately is the version that was told last of a room, and when.
type lately struct {
	version uint64
	at      time.Time
}

// Beats say what was told lately, so that a process to which it did not come asks: for long enough that three beats have it, and not before
// it must have come.
const (
	latelyFrom  = time.Second
	latelyUntil = latelyFrom + 3*beatInterval
)

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
				b.telling.mu.Lock()
				b.telling.lately[c.token] = lately{d.Version, time.Now()}
				b.telling.mu.Unlock()
			}
		}
	}
}

// toldLately returns what was told lately.
func (b *Backend) toldLately() (all []told) {
	b.telling.mu.Lock()
	defer b.telling.mu.Unlock()
	for token, l := range b.telling.lately {
		switch age := time.Since(l.at); {
		case age > latelyUntil:
			delete(b.telling.lately, token)
		case age > latelyFrom:
			all = append(all, told{token, l.version})
		}
	}
	return all
}

// changes returns what has changed since the last call.
func (c *channel) changes() (all []change) {
	c.presence.mu.Lock()
	defer c.presence.mu.Unlock()
	var users []rooms.Presence
	for key := range c.dirty {
		p := c.here[key]
		p.Key = key
		users = append(users, p)
	}
	clear(c.dirty)
	for part := range parts(users, sizeOfUser) {
		d := change{Node: c.backend.node, Previous: c.told, Version: c.backend.newVersion(), Users: part}
		if c.told == 0 {
			c.backend.peopled.Add(1)
		}
		c.told, c.presence.last, c.parts = d.Version, d.Version, 0
		all = append(all, d)
	}
	if len(c.here) == 0 && c.told != 0 {
		c.told = 0
		c.backend.peopled.Add(-1)
	}
	return all
}

// everybody returns all that are here, in parts. The last has the version that was told last. The others have versions of their own, so
// that parts of two answers, which differ, do not make one.
func (c *channel) everybody() (all []change, version uint64) {
	c.presence.mu.Lock()
	defer c.presence.mu.Unlock()
	if c.told == 0 {
		return nil, c.presence.last // the first change will tell
	}
	previous := uint64(0)
	for part := range parts(slices.Collect(maps.Values(c.here)), sizeOfUser) {
		c.parts = c.parts%(versionStep-1) + 1
		version := c.told - versionStep + c.parts
		all = append(all, change{Room: c.token, Previous: previous, Version: version, Users: part, More: true})
		previous = version
	}
	if last := len(all) - 1; last >= 0 {
		all[last].Version, all[last].More = c.told, false
	}
	return all, c.presence.last
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

// askNode asks another process about all rooms that are open here. It answers where something is not known.
func (b *Backend) askNode(node string) {
	var have []told
	for _, c := range b.channels() {
		c.heard.Lock()
		t := told{Room: c.token}
		if k := c.peers[node]; k != nil {
			t.Version = k.have
		}
		c.heard.Unlock()
		have = append(have, t)
	}
	b.askAbout(node, have)
}

func (b *Backend) askAbout(node string, have []told) {
	for part := range parts(have, sizeOfTold) {
		b.send(b.o.Prefix+".node."+node, &change{Node: b.node, Ask: true, Have: part})
	}
}

// heardPresence takes what another process says in a room.
func (c *channel) heardPresence(msg *nats.Msg) {
	var d change
	if json.Unmarshal(msg.Data, &d) != nil || d.Node == "" || d.Node == c.backend.node {
		return
	}
	if d.Ask {
		all, _ := c.everybody()
		c.backend.answer(d.Node, all)
		return
	}
	c.heardChange(&d)
}

func (b *Backend) answer(node string, all []change) {
	for part := range parts(all, sizeOfChange) {
		b.send(b.o.Prefix+".node."+node, &change{Node: b.node, Answers: part})
	}
}

// heardChange takes a change.
func (c *channel) heardChange(d *change) {
	c.heard.Lock()
	defer c.heard.Unlock()
	c.backend.peers.see(d.Node) // with the lock, see forget
	c.use(c.knownOf(d.Node), d)
}

// knownOf returns what is known of another process. The caller has c.heard.
func (c *channel) knownOf(node string) *known {
	k := c.peers[node]
	if k == nil {
		if c.peers == nil {
			c.peers = make(map[string]*known)
		}
		k = new(known)
		c.peers[node] = k
	}
	return k
}

// use takes a change, unless it is old, or another is missing before it. Then it is kept, and the process is asked, once: a room in
// which much happens must not be asked for with each change. The caller has c.heard.
func (c *channel) use(k *known, d *change) {
	switch {
	case d.Version <= k.have:
		return
	case d.Previous == 0:
		k.users = append([]rooms.Presence{}, d.Users...)
	case d.Previous != k.have:
		if len(k.later) < maxLater {
			k.later = append(k.later, d)
		}
		c.askAbout(d.Node, k)
		return
	case k.users != nil:
		k.users = append(k.users, d.Users...)
	}
	k.have = d.Version
	if d.More {
		return
	}
	if k.users != nil {
		c.sink.Present(d.Node, k.users, true)
	} else {
		c.sink.Present(d.Node, d.Users, false)
	}
	later := k.later
	k.users, k.later = nil, nil
	if k.asked {
		k.asked = false
		c.backend.answered(question{c, d.Node})
	}
	for _, d := range later {
		c.use(k, d)
	}
}

// heardOf compares what is known with a version that another process has told lately.
func (c *channel) heardOf(node string, version uint64) {
	c.heard.Lock()
	defer c.heard.Unlock()
	if k := c.knownOf(node); k.have < version {
		c.askAbout(node, k)
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

// askAbout asks another process about the room, unless that was done, until there is an answer. The caller has c.heard.
func (c *channel) askAbout(node string, k *known) {
	if !k.asked {
		k.asked = true
		c.askOnce(node)
	}
}

func (c *channel) askOnce(node string) {
	q := &c.backend.questions
	q.mu.Lock()
	q.asked[question{c, node}] = time.Now()
	q.mu.Unlock()
	c.backend.askAbout(node, []told{{Room: c.token, Version: 1}}) // which no room has: it is answered
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
			q.c.askOnce(q.node)
		}
	}
}

// asked takes what is sent to this process alone: questions and answers.
func (b *Backend) asked(msg *nats.Msg) {
	var d change
	if json.Unmarshal(msg.Data, &d) != nil || d.Node == "" || d.Node == b.node {
		return
	}
	for i := range d.Answers {
		if c := b.channel(d.Answers[i].Room); c != nil {
			d.Answers[i].Node = d.Node
			c.heardChange(&d.Answers[i])
		}
	}
	var all []change
	for _, t := range d.Have {
		all = append(all, b.answerTo(t)...)
	}
	b.answer(d.Node, all)
}

// answerTo returns who is in a room here, if that is not what the other process has.
func (b *Backend) answerTo(have told) []change {
	nobody := change{Room: have.Room, Version: b.newVersion()} // older than the next change
	var all []change
	if c := b.channel(have.Room); c != nil {
		var version uint64
		if all, version = c.everybody(); version == have.Version {
			return nil
		}
	}
	if len(all) == 0 && have.Version != 0 {
		all = []change{nobody}
	}
	return all
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

	beating sync.Mutex // held while a beat is sent, so that they come in order; guards:
	beats   uint64     // of this process

	patience time.Duration // with a process that is silent
}

// A beat says that a process is there, or what it has told lately.
type beat struct {
	Node  string `json:"node"`
	Count uint64 `json:"count,omitempty"` // one more each time; 0 if it is no beat
	Bye   bool   `json:"bye,omitempty"`
	Rooms int64  `json:"rooms,omitempty"` // where it has members
	Told  []told `json:"told,omitempty"`
}

// A told is the version that was told last of a room.
type told struct {
	Room    string `json:"room"`
	Version uint64 `json:"version,omitempty"`
}

func sizeOfTold(t told) int { return sizeOfName(t.Room) + 50 }

// beat tells all processes that this one is there, or about to go, and what it has told lately.
func (b *Backend) beat(bye bool) {
	subject := b.o.Prefix + ".node"
	b.peers.beating.Lock()
	b.peers.beats++
	b.send(subject, &beat{Node: b.node, Count: b.peers.beats, Bye: bye, Rooms: b.peopled.Load()})
	b.peers.beating.Unlock()
	for part := range parts(b.toldLately(), sizeOfTold) {
		b.send(subject, &beat{Node: b.node, Told: part})
	}
}

// heardBeat takes the beat of another process.
func (b *Backend) heardBeat(msg *nats.Msg) {
	var d beat
	if json.Unmarshal(msg.Data, &d) != nil || d.Node == "" || d.Node == b.node {
		return
	}
	for _, t := range d.Told {
		if c := b.channel(t.Room); c != nil {
			c.heardOf(d.Node, t.Version)
		}
	}
	switch {
	case d.Bye:
		b.forget(d.Node)
	case d.Count > 0:
		isNew, missed := b.peers.heard(&d)
		if isNew {
			b.beat(false) // so that it knows of this one soon
		}
		if missed || isNew && d.Rooms > 0 {
			b.askNode(d.Node)
		}
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

// forget drops all that a process has said. What it says meanwhile makes it known again.
func (b *Backend) forget(node string) {
	b.peers.mu.Lock()
	delete(b.peers.known, node)
	b.peers.mu.Unlock()
	for _, c := range b.channels() {
		c.heard.Lock()
		if c.peers[node] != nil {
			delete(c.peers, node)
			c.backend.answered(question{c, node})
			c.sink.Present(node, nil, true)
		}
		c.heard.Unlock()
	}
}
