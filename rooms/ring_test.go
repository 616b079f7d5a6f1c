package rooms

import (
	"testing"

	"github.com/foyerws/foyer"
)

// TestReadPassesOver has a member that is not sent what is transient be behind it all the same: dropping that is no loss for it.
func TestReadPassesOver(t *testing.T) {
	r := newRing()
	begin := r.next
	for i, published := range []bool{false, true, false, true, false, false} {
		e := entry{message: foyer.Prepare(foyer.Text, []byte{'a' + byte(i)}), history: published}
		if published {
			e.position = Position{"x", uint64(i)}
		}
		r.append(e, 100, 1<<20)
	}
	for max, want := range map[int]struct {
		texts string
		next  uint64
		more  bool
	}{
		1: {"b", begin + 2, true},
		2: {"bd", begin + 4, true},
		3: {"bd", begin + 6, false},
	} {
		var steps []step
		messages, first, more, ok := r.read(nil, begin, r.next, r.next, Position{}, max, &steps)
		var texts string
		for _, m := range messages {
			texts += string(m.Payload())
		}
		if texts != want.texts || first != begin+1 || more != want.more || !ok || steps[len(steps)-1].next != want.next {
			t.Errorf("max %d: %q, from %d on, more %v, ok %v, steps %v", max, texts, first-begin, more, ok, steps)
		}
	}
}
