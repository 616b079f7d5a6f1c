// Package crowd has many clients come to a program at once, as they do after a restart.
package crowd

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/foyerws/foyer"
)

// Size is how many clients come at once.
const Size = 100

// limit is how long a client may take for all that it does.
const limit = 30 * time.Second

// Come dials url Size times at the same moment. Each client talks, and then closes its socket in order. A client that is
// refused, or that does not hear what it expects, fails the test.
func Come(t testing.TB, url string, o *foyer.DialOptions, talk func(ctx context.Context, s *foyer.Socket) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var clients sync.WaitGroup
	for range Size {
		clients.Go(func() {
			s, _, err := foyer.Dial(ctx, url, o)
			if err != nil {
				t.Error(err)
				return
			}
			if err := talk(ctx, s); err != nil {
				t.Error(err)
			}
			s.Close(foyer.CloseNormalClosure, "")
			<-s.Done()
		})
	}
	clients.Wait()
}

// Echo is a talk with a program that says greeting first, unless that is empty, and then echoes.
func Echo(greeting string) func(ctx context.Context, s *foyer.Socket) error {
	return func(ctx context.Context, s *foyer.Socket) error {
		if err := s.SendText(ctx, "hello"); err != nil {
			return err
		}
		for _, want := range []string{greeting, "hello"} {
			if want == "" {
				continue
			}
			if err := Hear(ctx, s, want); err != nil {
				return err
			}
		}
		return nil
	}
}

// Hear expects a message.
func Hear(ctx context.Context, s *foyer.Socket, want string) error {
	if _, p, err := s.Read(ctx); err != nil || string(p) != want {
		return fmt.Errorf("heard %q instead of %q, %w", p, want, err)
	}
	return nil
}
