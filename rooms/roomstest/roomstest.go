// Package roomstest has members of rooms for tests.
package roomstest

import (
	"context"
	"testing"
	"time"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
	"github.com/foyerws/foyer/rooms"
)

// limit is how long a test waits for a message.
const limit = 10 * time.Second

// Join makes a new socket a member of a room. It returns the client's end, which hears what is published in the room, and
// the member. If it cannot join, it fails the test. Both ends are gone when the test is over.
func Join(t testing.TB, room *rooms.Room, o rooms.JoinOptions) (client *foyer.Socket, m *rooms.Member) {
	t.Helper()
	client, server := foyertest.Pair(t, &foyer.Handler{})
	m, err := room.Join(context.Background(), server, o)
	if err != nil {
		t.Fatalf("roomstest: %v", err)
	}
	t.Cleanup(m.Leave)
	return client, m
}

// Hear returns the next message that a client hears. It fails the test if there is none within 10 seconds.
func Hear(t testing.TB, client *foyer.Socket) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	_, p, err := client.Read(ctx)
	if err != nil {
		t.Fatalf("roomstest: %v", err)
	}
	return string(p)
}
