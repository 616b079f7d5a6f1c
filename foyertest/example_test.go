package foyertest_test

import (
	"context"
	"testing"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
)

// A test of a program's socket function, without a network.
func ExamplePair() {
	shout := func(ctx context.Context, s *foyer.Socket) {
		for {
			_, p, err := s.Read(ctx)
			if err != nil {
				return
			}
			s.SendText(ctx, string(p)+"!")
		}
	}
	_ = func(t *testing.T) { // TestShout
		client, server := foyertest.Pair(t, &foyer.Handler{})
		go shout(t.Context(), server)
		client.SendText(t.Context(), "hello")
		if _, p, err := client.Read(t.Context()); err != nil || string(p) != "hello!" {
			t.Errorf("%q, %v", p, err)
		}
	}
}
