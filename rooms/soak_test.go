package rooms

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/foyerws/foyer"
)

// TestSoak has 200 members disconnect and come back at random while 20 publish, with the limits that a program gets which
// sets none. What each hears is complete, or a gap is reported; nothing comes twice. FOYER_SOAK is how long.
func TestSoak(t *testing.T) {
	duration := 3 * time.Second
	if d, err := time.ParseDuration(os.Getenv("FOYER_SOAK")); err == nil {
		duration = d
	} else if testing.Short() {
		t.Skip("slow")
	}
	hub := Hub{Encode: numbered, Slow: Skip}
	url := serve(t, &hub)
	room := hub.Room("x")
	keeper := drained(dial(t, url+"/x"))
	eventually(t, "the room", func() bool { return members(&hub, "x") == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	var heard, recovered, lost, gaps, published atomic.Int64
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for ctx.Err() == nil {
				if _, err := room.Publish(t.Context(), foyer.Text, []byte("x")); err != nil {
					t.Error(err)
					return
				}
				published.Add(1)
				time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
			}
		})
	}
	for i := range 200 {
		all.Go(func() {
			var at Position
			for ctx.Err() == nil && !t.Failed() {
				time.Sleep(time.Duration(rand.IntN(rand.IntN(2000)+1)) * time.Millisecond)
				if err := visit(ctx, url, &at, &heard, &recovered, &lost, &gaps); err != nil && ctx.Err() == nil {
					t.Errorf("member %d: %v", i, err)
				}
			}
		})
	}
	all.Wait()
	keeper.Abort()
	t.Logf("%d published, %d heard, came back: %d recovered, %d were told that they lost something, %d gaps", published.Load(), heard.Load(), recovered.Load(), lost.Load(), gaps.Load())
	if recovered.Load() == 0 {
		t.Error("nobody came back")
	}
}

// visit joins, listens for a while, and vanishes. at is the position that the member knows.
func visit(ctx context.Context, url string, at *Position, heard, recovered, lost, gaps *atomic.Int64) error {
	s, _, err := foyer.Dial(ctx, url+"/x?since="+at.String(), nil)
	if err != nil {
		return err
	}
	defer s.Abort()
	stay, cancel := context.WithTimeout(ctx, time.Duration(rand.IntN(1000))*time.Millisecond)
	defer cancel()
	for {
		_, p, err := s.Read(stay)
		if stay.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		text, rest, _ := strings.Cut(string(p), " ")
		position, err := ParsePosition(text)
		if err != nil {
			return err
		}
		switch {
		case rest == "welcome true":
			recovered.Add(1)
		case rest == "welcome false":
			if at.Epoch != "" {
				lost.Add(1)
			}
			*at = position
		case strings.HasPrefix(rest, "gap "):
			gaps.Add(1)
			*at = position
		case position.Epoch == at.Epoch && position.Offset == at.Offset+1:
			heard.Add(1)
			*at = position
		default:
			return fmt.Errorf("%q behind %v", p, *at)
		}
	}
}
