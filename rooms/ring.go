package rooms

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/foyerws/foyer"
)

// A ring is what a room keeps of its messages, in order. Its lock is a leaf: nothing is called with it.
type ring struct {
	mu      sync.Mutex // guards:
	entries []entry    // a circle; grows up to the limit
	first   uint64     // the sequence number of the oldest entry
	next    uint64     // that of the next one
	origin  uint64     // that of the oldest entry there ever was
	bytes   int        // of the entries
	lost    Position   // of the newest published message that was dropped
	gap     Position   // behind which the Backend has lost nothing
	last    Position   // of the newest published message
	others  []uint64   // the newest entries that were dropped and not published, in order
	closed  bool       // nothing is added any more

	subjects map[string]subject // the last message of each
	retained int                // bytes of those that are entries no more
}

// newRing returns a ring that can be extended: there are sequence numbers below the first.
func newRing() ring {
	const origin = 1 << 40
	return ring{first: origin, next: origin, origin: origin}
}

// A subject is the last message of those that replace each other.
type subject struct {
	seq     uint64
	message *foyer.Prepared
	time    time.Time
}

// maxSubjects is how many subjects a ring remembers.
const maxSubjects = 1000

// An entry is a message in a ring.
type entry struct {
	message  *foyer.Prepared // nil if it is not sent
	position Position        // of a published message; the one before it for others
	history  bool            // it was published
	replaces string
	time     time.Time
}

// entryOverhead is about what an entry takes besides its message.
const entryOverhead = 256

func (e *entry) size() int {
	if e.message == nil {
		return 0
	}
	return len(e.message.Payload()) + entryOverhead
}

// seenBy reports whether a member that has seen what is at a position has seen e, which was published.
func (e *entry) seenBy(at Position) bool {
	return at != (Position{}) && e.position.Epoch == at.Epoch && e.position.Offset <= at.Offset
}

func (r *ring) at(seq uint64) *entry { return &r.entries[seq%uint64(len(r.entries))] }

// maxOthers is how many of the dropped entries a ring knows that were not published.
const maxOthers = 1024

// append adds e, and drops what is beyond the limits. An entry that was not published gets the position of the published one
// before it; one without a message is only the new last position. It returns by how many bytes the ring has grown.
func (r *ring) append(e entry, maxMessages, maxBytes int) (grown int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0
	}
	if e.history {
		r.last = e.position
	}
	if e.message == nil {
		return 0
	}
	e.position = r.last
	before := r.bytes + r.retained
	for r.first < r.next && (int(r.next-r.first) >= maxMessages || r.bytes+e.size() > maxBytes) {
		r.drop()
	}
	if n := int(r.next - r.first); n == len(r.entries) {
		bigger := make([]entry, min(max(8, 2*n), maxMessages))
		for seq := r.first; seq < r.next; seq++ {
			bigger[seq%uint64(len(bigger))] = *r.at(seq)
		}
		r.entries = bigger
	}
	if e.replaces != "" {
		r.remember(&e)
	}
	*r.at(r.next) = e
	r.next++
	r.bytes += e.size()
	for r.retained > maxBytes {
		r.forget()
	}
	return r.bytes + r.retained - before
}

// forget gives up the oldest message of a subject that is no entry any more, and reports false if there is none. The caller
// has the lock.
func (r *ring) forget() bool {
	oldest, found := "", false
	for name, s := range r.subjects {
		if s.seq < r.first && (!found || s.seq < r.subjects[oldest].seq) {
			oldest, found = name, true
		}
	}
	if found {
		r.retained -= len(r.subjects[oldest].message.Payload()) + entryOverhead
		delete(r.subjects, oldest)
	}
	return found
}

// remember makes e, which is about to be appended, the last message of its subject. The caller has the lock.
func (r *ring) remember(e *entry) {
	old, known := r.subjects[e.replaces]
	switch {
	case known && old.seq < r.first:
		r.retained -= len(old.message.Payload()) + entryOverhead
	case known:
	case len(r.subjects) >= maxSubjects:
		e.replaces = "" // it is delivered as any other
		return
	case r.subjects == nil:
		r.subjects = make(map[string]subject)
	}
	r.subjects[e.replaces] = subject{r.next, e.message, e.time}
}

// drop drops the oldest entry. If it is the last message of its subject, that is retained. The caller has the lock.
func (r *ring) drop() {
	e := r.at(r.first)
	r.bytes -= e.size()
	if e.history {
		r.lost = e.position
	} else {
		if len(r.others) == maxOthers {
			r.others = r.others[:copy(r.others, r.others[maxOthers/2:])]
		}
		r.others = append(r.others, r.first)
	}
	if s, ok := r.subjects[e.replaces]; ok && s.seq == r.first {
		r.retained += e.size()
	}
	*e = entry{}
	r.first++
}

// dropSome drops the oldest message of a subject that is no entry any more, or else the oldest entry if there are several. It
// returns by how many bytes the ring has shrunk.
func (r *ring) dropSome() (shrunk int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.bytes + r.retained
	for !r.forget() && r.next-r.first > 1 && r.bytes+r.retained == before {
		r.drop() // which may retain it
	}
	return before - r.bytes - r.retained
}

// expire drops what is older than t, and returns by how many bytes the ring has shrunk, and whether it is empty.
func (r *ring) expire(t time.Time) (shrunk int, empty bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.bytes + r.retained
	for r.first < r.next && r.at(r.first).time.Before(t) {
		r.drop()
	}
	for name, s := range r.subjects {
		if s.seq < r.first && s.time.Before(t) {
			r.retained -= len(s.message.Payload()) + entryOverhead
			delete(r.subjects, name)
		}
	}
	if r.first == r.next {
		r.entries = nil
	}
	return before - r.bytes - r.retained, r.first == r.next
}

// A step is what a member has behind it once it has a message.
type step struct {
	next     uint64 // the sequence number of what follows
	position Position
}

// read appends up to max messages from seq on, but none from upto on, and a step for each if steps is not nil. It returns the sequence
// number of the first message, or where to go on if there is none; whether there are more; and false if the one at seq was dropped.
//
// Below fresh it leaves out what is not history: it was for those who were there. Nor does it append what the member has seen already,
// because the Backend had it before it was delivered here. For a member to which either may happen, steps is not nil.
func (r *ring) read(messages []*foyer.Prepared, seq, upto, fresh uint64, seen Position, max int, steps *[]step) (_ []*foyer.Prepared, first uint64, more, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if seq < r.first {
		return messages, seq, false, false
	}
	upto = min(upto, r.next)
	if seq >= upto {
		return messages, seq, false, true
	}
	first = seq
	begin := len(messages)
	for i := int(seq % uint64(len(r.entries))); seq < upto && max > 0; seq++ {
		e := &r.entries[i]
		if i++; i == len(r.entries) {
			i = 0
		}
		if !e.history && seq < fresh || e.history && e.seenBy(seen) {
			if len(messages) == begin {
				first = seq + 1
			} else {
				(*steps)[len(*steps)-1].next = seq + 1
			}
			continue
		}
		messages = append(messages, e.message)
		if steps != nil {
			*steps = append(*steps, step{seq + 1, e.position})
		}
		max--
	}
	return messages, first, seq < upto, true
}

// clear drops everything, and returns by how many bytes the ring has shrunk.
func (r *ring) clear() (shrunk int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	shrunk = r.bytes + r.retained
	r.entries, r.subjects, r.bytes, r.retained = nil, nil, 0, 0
	r.first, r.closed = r.next, true
	return shrunk
}

// begin says that what was published up to last is not in the ring, unless it was delivered meanwhile.
func (r *ring) begin(last Position) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == (Position{}) {
		r.last = last
	}
	if r.lost == (Position{}) {
		r.lost = last
	}
}

// bounds returns the sequence numbers of the oldest entry and of the next one.
func (r *ring) bounds() (first, next uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.first, r.next
}

// A start is where a member begins.
type start struct {
	seq     uint64   // of what it gets first
	arrived uint64   // what the ring had
	before  Position // of the last published message before seq
	last    Position // of the newest published message
}

// start finds the place of a member: behind since, if the ring has all that was published after it, and then it returns true;
// or else so that n published messages follow.
func (r *ring) start(since Position, n int) (s start, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s = start{arrived: r.next, last: r.last}
	if s.seq, ok = r.after(since); ok {
		s.before = since
		return s, true
	}
	s.seq = r.next
	for seq := r.next; seq > r.first && n > 0; seq-- {
		if r.at(seq - 1).history {
			n--
			s.seq = seq - 1
		}
	}
	s.before = r.lost
	for seq := s.seq; seq > r.first; seq-- {
		if e := r.at(seq - 1); e.history {
			s.before = e.position
			break
		}
	}
	return s, false
}

// follows returns the sequence number of what follows the message at a position, as start does.
func (r *ring) follows(since Position) (seq uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.after(since)
}

// after is follows for a caller that has the lock. It reports false if something after since was dropped, or the ring knows
// nothing of the position.
func (r *ring) after(since Position) (seq uint64, ok bool) {
	if since.Epoch != r.last.Epoch || since.Offset > r.last.Offset || since.before(r.lost) || since.before(r.gap) {
		return 0, false
	}
	for seq = r.next; seq > r.first; seq-- {
		if e := r.at(seq - 1); e.history && (e.position.Offset <= since.Offset || e.position.Epoch != since.Epoch) {
			break
		}
	}
	return seq, true
}

// interrupt says that the Backend has lost messages before a position.
func (r *ring) interrupt(at Position) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gap, r.last = at, at
}

// extend puts published messages before those that the ring has, if it has dropped none and nothing is missing in between, as
// far as there is room. after is the position before the first of them. It returns by how many bytes the ring has grown.
func (r *ring) extend(after Position, older []entry, maxMessages, maxBytes int) (grown int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(older) > 0 && r.lost.before(older[len(older)-1].position) {
		older = older[:len(older)-1] // the ring has it
	}
	if len(older) == 0 || older[len(older)-1].position != r.lost || r.closed || r.first != r.origin || r.gap != (Position{}) {
		return 0
	}
	n := int(r.next - r.first)
	begin := len(older)
	for begin > 0 && n+len(older)-begin < maxMessages && r.bytes+grown+older[begin-1].size() <= maxBytes { // the newest
		begin--
		grown += older[begin].size()
	}
	if begin > 0 {
		after = older[begin-1].position
	}
	older = older[begin:]
	if len(older) == 0 {
		return 0
	}
	r.lost = after
	entries := make([]entry, min(max(8, n+len(older)), maxMessages))
	for seq := r.first; seq < r.next; seq++ {
		entries[seq%uint64(len(entries))] = *r.at(seq)
	}
	r.entries = entries
	for _, e := range slices.Backward(older) {
		r.first--
		e.replaces = "" // what replaces it is not known here
		*r.at(r.first) = e
	}
	r.origin = r.first
	r.bytes += grown
	return grown
}

// history returns how many published messages there are.
func (r *ring) history() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for seq := r.first; seq < r.next; seq++ {
		if r.at(seq).history {
			n++
		}
	}
	return n
}

// skip returns where a member goes on that wanted the entry at seq, which was dropped: the oldest entry, the position before
// it, how many published messages it has missed, and up to where it conflates if it does. It reports false if the entry is
// there after all.
func (r *ring) skip(seq uint64, conflates bool) (to uint64, before Position, missed, end uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if seq >= r.first {
		return r.first, r.lost, 0, r.next, false
	}
	missed = r.first - seq
	for _, other := range r.others {
		if other >= seq {
			missed--
		}
	}
	if conflates {
		for _, s := range r.subjects {
			if seq <= s.seq && s.seq < r.first {
				missed-- // that one it gets
			}
		}
		for s := r.first; s < r.next; s++ {
			if e := r.at(s); e.replaces != "" && r.subjects[e.replaces].seq != s {
				missed++
			}
		}
	}
	return r.first, r.lost, missed, r.next, true
}

// latest is read for a member that conflates: of each subject it appends the last message only, also if that is no entry any
// more. It returns where the member goes on if there is none.
func (r *ring) latest(messages []*foyer.Prepared, seq, upto uint64, max int, steps *[]step) (_ []*foyer.Prepared, from uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	begin, oldest := len(messages), r.first
	if seq > oldest {
		oldest = seq
	}
	add := func(m *foyer.Prepared, s uint64) {
		messages = append(messages, m)
		*steps = append(*steps, step{next: s + 1})
	}
	var dropped []subject
	for _, s := range r.subjects {
		if seq <= s.seq && s.seq < r.first {
			dropped = append(dropped, s)
		}
	}
	slices.SortFunc(dropped, func(a, b subject) int { return cmp.Compare(a.seq, b.seq) })
	for _, s := range dropped[:min(len(dropped), max)] {
		add(s.message, s.seq)
	}
	for s := oldest; s < min(upto, r.next) && len(messages)-begin < max; s++ {
		if e := r.at(s); e.replaces == "" || r.subjects[e.replaces].seq == s {
			add(e.message, s)
		}
	}
	if len(messages) == begin {
		return messages, upto
	}
	return messages, seq
}
