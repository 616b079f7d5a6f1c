//go:build linux

package main

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMain has the test run as the server or the load generator: both are this program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "serve" || os.Args[1] == "load") {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	b := &bench{rounds: 1, seconds: 0.1, servers: clusterServers[:2]}
	report, err := b.cluster(2)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"natsrooms.Core | 1 |", "natsrooms.Core | 2 |", "natsrooms.JetStream | 1 |", "natsrooms.JetStream | 2 |"} {
		if !strings.Contains(report, want) {
			t.Errorf("no %q in\n%s", want, report)
		}
	}
}

func TestRoomCost(t *testing.T) {
	if testing.Short() {
		t.Skip("starts NATS")
	}
	const rooms = 500
	cost, err := measureRooms(rooms, 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if cost.subscriptions < rooms || len(cost.steps) != 7 {
		t.Errorf("%+v", cost)
	}
	if forecast := cost.forecast(1_000_000, 100_000, 20); !strings.Contains(forecast, "A room is open on 8.0 nodes") || strings.Contains(forecast, "NaN") {
		t.Error(forecast)
	}
}

func TestABrokerThatIsNotInstalled(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := startBroker("redis"); !errors.Is(err, errNotInstalled) {
		t.Error(err)
	}
}
