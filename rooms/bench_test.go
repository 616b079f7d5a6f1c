package rooms

import (
	"runtime"
	"strconv"
	"testing"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
)

// BenchmarkJoin has sockets join a room of many, and tells how much memory an idle member has.
func BenchmarkJoin(b *testing.B) {
	for _, test := range []struct {
		name           string
		sockets, rooms int
	}{
		{"first room of a socket", 2000, 1},
		{"100 rooms of a socket", 200, 100},
	} {
		b.Run(test.name, func(b *testing.B) {
			var sockets []*foyer.Socket
			for range test.sockets {
				_, server := foyertest.Pair(b, &foyer.Handler{})
				sockets = append(sockets, server)
			}
			members := make([]*Member, 0, test.sockets*test.rooms)
			var joins int
			for b.Loop() {
				b.StopTimer()
				var hub Hub
				rooms := make([]*Room, test.rooms)
				for i := range rooms {
					rooms[i] = hub.Room(strconv.Itoa(i))
				}
				before := inUse()
				b.StartTimer()
				for _, s := range sockets {
					for _, room := range rooms {
						m, err := room.Join(b.Context(), s, JoinOptions{})
						if err != nil {
							b.Fatal(err)
						}
						members = append(members, m)
					}
				}
				b.StopTimer()
				b.ReportMetric(float64(inUse()-before)/float64(len(members)), "B/member")
				joins += len(members)
				for _, m := range members {
					m.Leave()
				}
				clear(members) // so that the next measurement does not see them
				members = members[:0]
				b.StartTimer()
			}
			b.ReportMetric(float64(joins)/b.Elapsed().Seconds(), "joins/s")
		})
	}
}

// inUse returns the bytes of the heap and of stacks in use.
func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
