package roomstest_test

import (
	"testing"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/rooms"
	"github.com/foyerws/foyer/rooms/roomstest"
)

func TestTwoMembers(t *testing.T) {
	var hub rooms.Hub
	room := hub.Room("attic")
	alice, m := roomstest.Join(t, room, rooms.JoinOptions{Key: "alice"})
	bob, _ := roomstest.Join(t, room, rooms.JoinOptions{Key: "bob"})
	if _, err := m.Publish(t.Context(), foyer.Text, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if a, b := roomstest.Hear(t, alice), roomstest.Hear(t, bob); a != "hello" || b != "hello" {
		t.Errorf("%q, %q", a, b)
	}
	if members, keys := room.Count(); members != 2 || keys != 2 {
		t.Error(members, keys)
	}
}
