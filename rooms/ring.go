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
	bytes   int        // of the entries
	lost    Position   // of the newest published message that was dropped

	subjects map[string]subject // the last message of each
	retained int                // bytes of those that are entries no more
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
	message  *foyer.Prepared
	position Position // of a published message; the one before it for others
	history  bool     // it was published
	replaces string
	time     time.Time
}

// entryOverhead is about what an entry takes besides its message.
const entryOverhead = 256

func (e *entry) size() int { return len(e.message.Payload()) + entryOverhead }

func (r *ring) at(seq uint64) *entry { return &r.entries[seq%uint64(len(r.entries))] }

// append adds e, and drops what is beyond the limits. It returns by how many bytes the ring has grown.
func (r *ring) append(e entry, maxMessages, maxBytes int) (grown int) {
	r.mu.Lock()
	defer r.mu.Unlock()
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
	return r.bytes + r.retained - before
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
	}
	if s, ok := r.subjects[e.replaces]; ok && s.seq == r.first {
		r.retained += e.size()
	}
	*e = entry{}
	r.first++
}

// dropSome drops the oldest entry if there are several, and returns by how many bytes the ring has shrunk.
func (r *ring) dropSome() (shrunk int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next-r.first < 2 {
		return 0
	}
	before := r.bytes + r.retained
	r.drop()
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

// read appends up to max messages from seq on, but none from upto on, and a step for each if steps is not nil. Below fresh it
// leaves out what is not history: it was for those who were there. It returns the sequence number of the first message, and
// false if the one at seq was dropped.
func (r *ring) read(messages []*foyer.Prepared, seq, upto, fresh uint64, max int, steps *[]step) (_ []*foyer.Prepared, from uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if seq < r.first {
		return messages, seq, false
	}
	upto = min(upto, r.next)
	stale := func(s uint64) bool { return s < fresh && !r.at(s).history }
	for seq < upto && stale(seq) {
		seq++
	}
	from = seq
	for ; seq < upto && max > 0; seq++ {
		if stale(seq) {
			continue
		}
		e := r.at(seq)
		messages = append(messages, e.message)
		if steps != nil {
			*steps = append(*steps, step{seq + 1, e.position})
		}
		max--
	}
	return messages, from, true
}

// clear drops everything, and returns by how many bytes the ring has shrunk.
func (r *ring) clear() (shrunk int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	shrunk = r.bytes + r.retained
	r.entries, r.subjects, r.bytes, r.retained = nil, nil, 0, 0
	r.first = r.next
	return shrunk
}

// begin says that what was published up to last is not in the ring.
func (r *ring) begin(last Position) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = last
}

// bounds returns the sequence numbers of the oldest entry and of the next one.
func (r *ring) bounds() (first, next uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.first, r.next
}

// after returns the sequence number of what follows the message at a position. It reports false if something in between
// was dropped, or the ring knows nothing of the position.
func (r *ring) after(since, last Position) (seq uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if since.Epoch != last.Epoch || since.Offset > last.Offset || r.lost.Epoch == last.Epoch && since.Offset < r.lost.Offset {
		return 0, false
	}
	for seq = r.next; seq > r.first; seq-- {
		if e := r.at(seq - 1); e.history && (e.position.Offset <= since.Offset || e.position.Epoch != since.Epoch) {
			break
		}
	}
	return seq, true
}

// recent returns the sequence number from which n published messages follow, or all that there are.
func (r *ring) recent(n int) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	seq := r.next
	for s := r.next; s > r.first && n > 0; s-- {
		if r.at(s - 1).history {
			n--
			seq = s - 1
		}
	}
	return seq
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

// skip returns where a member goes on that wanted the entry at seq, which was dropped: the oldest entry, the position
// before it, and how many entries it has missed.
func (r *ring) skip(seq uint64) (to uint64, before Position, missed uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.first, r.lost, r.first - seq
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
