package rooms

import (
	"slices"
	"time"
)

// A Presence is somebody who is in a room.
type Presence struct {
	Key, Info string
	Sockets   int // with this key
}

// A presence is a Presence with the part of its sockets that is here.
type presence struct {
	Presence
	here int
}

// arrivals are users who come to another process, or leave it.
type arrivals struct {
	node  string
	users []Presence
	all   bool // these are all users that are there
}

// arrivalsAtOnce is how many users come or go before the members are sent that, and arrivalsPause how long they may then take to
// read: a process with thousands of users that is lost must not make the others too slow.
const (
	arrivalsAtOnce = 200
	arrivalsPause  = 5 * time.Millisecond
)

// Present implements Sink. It does not wait: what is more than the members can read at once they are told later.
func (s *sink) Present(node string, users []Presence, all bool) {
	r := (*room)(s)
	r.mu.Lock()
	r.coming = append(r.coming, arrivals{node, users, all})
	telling := r.telling
	r.telling = true
	r.mu.Unlock()
	if !telling && r.tellArrivals() {
		go r.tellLater()
	}
}

// tellLater tells the members the rest.
func (r *room) tellLater() {
	for {
		select {
		case <-time.After(arrivalsPause):
		case <-r.hub.whenClosed():
			return
		}
		if !r.tellArrivals() {
			return
		}
	}
}

// tellArrivals tells the members of the next arrivals, and reports whether there are more. Only one goroutine does that at a time.
func (r *room) tellArrivals() (more bool) {
	announced := false
	r.mu.Lock()
	for n := 0; len(r.coming) > 0 && n < arrivalsAtOnce; {
		next := &r.coming[0]
		if next.all {
			next.users, next.all = append(slices.Clip(next.users), r.others(next.node, next.users)...), false
		}
		part := next.users[:min(len(next.users), arrivalsAtOnce-n)]
		next.users = next.users[len(part):]
		n += len(part)
		announced = r.setAway(next.node, part) || announced
		if len(next.users) == 0 {
			r.coming = r.coming[1:]
		}
	}
	if r.telling = len(r.coming) > 0; !r.telling {
		r.coming = nil
	}
	more = r.telling
	r.mu.Unlock()
	if announced {
		r.flushLater()
	}
	return more
}

// others returns those who are in the room in another process as far as is known here, and not among users, with no
// sockets. The caller has r.mu.
func (r *room) others(node string, users []Presence) (gone []Presence) {
	there := make(map[string]bool, len(users))
	for _, p := range users {
		there[p.Key] = true
	}
	for key := range r.nodes[node] {
		if !there[key] {
			gone = append(gone, Presence{Key: key})
		}
	}
	return gone
}

// setAway sets how many sockets users have in another process, and reports whether members are to be told. The caller has r.mu.
func (r *room) setAway(node string, users []Presence) (announced bool) {
	there := r.nodes[node]
	if there == nil {
		if r.nodes == nil {
			r.nodes = make(map[string]map[string]int)
		}
		there = make(map[string]int)
		r.nodes[node] = there
	}
	for _, p := range users {
		d := p.Sockets - there[p.Key]
		if there[p.Key] = p.Sockets; p.Sockets == 0 {
			delete(there, p.Key)
		}
		r.away += d
		announced = r.count(p.Key, p.Info, d) || announced
	}
	if len(there) == 0 {
		delete(r.nodes, node)
	}
	return announced
}

// announce tells the members that a user has come or gone. The caller has r.mu, so that the order is that of the comings
// and goings, and flushes after that.
func (r *room) announce(kind Kind, key, info string) {
	r.add(&Message{Kind: kind, Room: r.name, Key: key, Info: info, Time: time.Now()})
}

// count changes the number of a user's sockets, and announces the first and the end of the last. The caller has r.mu, and
// flushes if it returns true.
func (r *room) count(key, info string, d int) (announced bool) {
	if key == "" || d == 0 {
		return false
	}
	p := r.present[key]
	if p == nil {
		if r.present == nil {
			r.present = make(map[string]*presence)
		}
		p = &presence{Presence: Presence{Key: key, Info: info}}
		r.present[key] = p
	}
	p.Sockets += d
	switch p.Sockets {
	case 0:
		delete(r.present, key)
		r.announce(Left, key, p.Info)
		return true
	case d:
		r.announce(Joined, key, p.Info)
		return true
	}
	return false
}

// countHere is count for a member, of which the Backend is told. The caller has r.mu.
func (r *room) countHere(m *Member, d int) (announced bool) {
	if m.key == "" {
		r.nameless += d
		r.channel.Present(Presence{Sockets: r.nameless})
		return false
	}
	announced = r.count(m.key, m.info, d)
	here := 0
	if p := r.present[m.key]; p != nil {
		p.here += d
		here = p.here
	}
	r.channel.Present(Presence{m.key, m.info, here})
	return announced
}
