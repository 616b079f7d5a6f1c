package rooms

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
)

// TestManyLeaveAtOnce has a process go with most of the users. The others can read all of that.
func TestManyLeaveAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // time passes only once the client has read
		backend := &store{}
		hub := Hub{Backend: backend, Encode: JSON}
		client, server := foyertest.Pair(t, &foyer.Handler{})
		if _, err := hub.Room("x").Join(t.Context(), server, JoinOptions{}); err != nil {
			t.Fatal(err)
		}
		const users = 6000
		heard := make(chan map[string]int, 1)
		go func() {
			all := map[string]int{}
			for all["joined"] < users || all["left"] < users {
				var e event1
				if foyer.ReadJSON(t.Context(), client, &e) != nil {
					break
				}
				all[e.Type]++
			}
			heard <- all
		}()
		var there []Presence
		for i := range users {
			there = append(there, Presence{fmt.Sprint("user", i), "somebody", 1})
		}
		begin := time.Now()
		backend.sinks["x"].Present("b", there, true)
		backend.sinks["x"].Present("b", there, true) // nothing changes
		backend.sinks["x"].Present("b", nil, true)
		if waited := time.Since(begin); waited != 0 {
			t.Error("the Backend had to wait", waited)
		}
		if got := <-heard; got["joined"] != users || got["left"] != users {
			t.Error(got, server.Err())
		}
	})
}

// TestWrongClocks has messages of processes whose clocks are wrong, by hours. They age where they arrive.
func TestWrongClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := &store{}
		hub := Hub{Backend: backend, HistoryAge: time.Minute}
		_, server := foyertest.Pair(t, &foyer.Handler{})
		m, err := hub.Room("x").Join(t.Context(), server, JoinOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i, wrong := range []time.Duration{-5 * time.Hour, 5 * time.Hour} {
			backend.sinks["x"].Deliver(&Message{Room: "x", Position: Position{"stream", uint64(i + 1)}, Type: foyer.Text, Data: []byte("hi"), Time: time.Now().Add(wrong)})
		}
		kept := &hub.existing("x").ring
		time.Sleep(55 * time.Second)
		if n := kept.history(); n != 2 {
			t.Errorf("%d messages after 55 seconds", n)
		}
		time.Sleep(10 * time.Second)
		if n := kept.history(); n != 0 {
			t.Errorf("%d messages after 65 seconds", n)
		}
		m.Leave()
		hub.Shutdown(t.Context())
	})
}
