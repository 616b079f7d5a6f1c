//go:build linux

package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/rooms"
	"github.com/foyerws/foyer/rooms/natsrooms"
)

// A streamSize is what a stream with one message of 128 bytes in each of many rooms costs NATS, and how fast it is.
type streamSize struct {
	rooms               int
	fillCPU             float64 // microseconds a message
	live, resident      float64 // bytes a room of NATS's memory
	disk                float64 // the same, on the disk
	publish, slow, open time.Duration
	history             time.Duration // a page of 64 messages
	heads               time.Duration // of 10,000 rooms
	headsCPU            time.Duration
	restart             time.Duration
}

// subjectsCommand measures streams of some sizes, and prints a table.
func subjectsCommand(args []string) error {
	flags := flag.NewFlagSet("subjects", flag.ExitOnError)
	sizes := flags.String("rooms", "1000,100000,1000000", "how many rooms streams have, separated by commas")
	flags.Parse(args)
	var all []*streamSize
	for size := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil {
			return err
		}
		s, err := measureStream(n)
		if err != nil {
			return fmt.Errorf("%d rooms: %w", n, err)
		}
		fmt.Fprintf(os.Stderr, "%+v\n", *s)
		all = append(all, s)
	}
	rows := []struct {
		name string
		of   func(s *streamSize) string
	}{
		{"rooms with a message", func(s *streamSize) string { return strconv.Itoa(s.rooms) }},
		{"CPU of NATS to store one, µs", func(s *streamSize) string { return fmt.Sprintf("%.1f", s.fillCPU) }},
		{"live memory of NATS a room, bytes", func(s *streamSize) string { return fmt.Sprintf("%.0f", s.live) }},
		{"resident memory of NATS a room, bytes", func(s *streamSize) string { return fmt.Sprintf("%.0f", s.resident) }},
		{"disk a room, bytes", func(s *streamSize) string { return fmt.Sprintf("%.0f", s.disk) }},
		{"publish, median (p99), ms", func(s *streamSize) string { return milliseconds(s.publish) + " (" + milliseconds(s.slow) + ")" }},
		{"open a room, ms", func(s *streamSize) string { return milliseconds(s.open) }},
		{"64 messages of history, ms", func(s *streamSize) string { return milliseconds(s.history) }},
		{"newest messages of 10,000 rooms, ms", func(s *streamSize) string { return milliseconds(s.heads) }},
		{"CPU of NATS for that, ms", func(s *streamSize) string { return milliseconds(s.headsCPU) }},
		{"killed, until it takes a message again, ms", func(s *streamSize) string { return milliseconds(s.restart) }},
	}
	for i, row := range rows {
		fmt.Printf("| %s |", row.name)
		for _, s := range all {
			fmt.Printf(" %s |", row.of(s))
		}
		fmt.Println()
		if i == 0 {
			fmt.Println("| --- |" + strings.Repeat(" ---: |", len(all)))
		}
	}
	fmt.Printf("\nOne server with its defaults and natsrooms.JetStream with its own, %s.\n", machine())
	return nil
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()*1e3) }

// measureStream fills a stream, and uses it.
func measureStream(n int) (s *streamSize, err error) {
	k, err := startBroker("nats")
	if err != nil {
		return nil, err
	}
	defer func() { k.end() }()
	nc, err := nats.Connect(k.addr, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	b := natsrooms.JetStream(nc)
	defer b.Close()
	if err := b.Ready(ctx); err != nil { // this creates the stream
		return nil, err
	}
	s = &streamSize{rooms: n}
	for _, f := range []func(context.Context, *broker, *nats.Conn, *natsrooms.Backend) error{s.fill, s.use, s.findHeads, s.startAgain} {
		if err := f(ctx, &k, nc, b); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// fill publishes one message in each room.
func (s *streamSize) fill(ctx context.Context, k *broker, nc *nats.Conn, _ *natsrooms.Backend) error {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1000))
	if err != nil {
		return err
	}
	memory, err := k.memory()
	if err != nil {
		return err
	}
	began, err := cpuTime(k.pid())
	if err != nil {
		return err
	}
	message := text(128)
	for i := range s.rooms {
		if _, err := js.PublishAsync("rooms.log."+roomName(i), message); err != nil {
			return err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	}
	ended, err := cpuTime(k.pid())
	if err != nil {
		return err
	}
	full, err := k.memory()
	if err != nil {
		return err
	}
	disk, err := size(k.folder)
	n := float64(s.rooms)
	s.fillCPU = microseconds(ended-began, int64(s.rooms))
	s.live, s.resident, s.disk = float64(full.live-memory.live)/n, float64(full.resident-memory.resident)/n, float64(disk)/n
	return err
}

// use measures what a node does with a stream that is full.
func (s *streamSize) use(ctx context.Context, _ *broker, _ *nats.Conn, b *natsrooms.Backend) error {
	message := &rooms.Message{Kind: rooms.Published, Type: foyer.Text, Data: text(128), Time: time.Now()}
	var opened, published, read []time.Duration
	for range 500 {
		begin := time.Now()
		c, err := b.Open(ctx, roomName(rand.IntN(s.rooms)), deaf{})
		if err != nil {
			return err
		}
		opened = append(opened, time.Since(begin))
		for range 4 {
			begin = time.Now()
			if _, err = c.Publish(ctx, message); err != nil {
				return err
			}
			published = append(published, time.Since(begin))
		}
		if err := c.Close(); err != nil {
			return err
		}
	}
	c, err := b.Open(ctx, roomName(0), deaf{})
	if err != nil {
		return err
	}
	defer c.Close()
	for range 64 {
		if _, err := c.Publish(ctx, message); err != nil {
			return err
		}
	}
	for range 200 {
		begin := time.Now()
		page, _, err := c.History(ctx, rooms.Position{}, 64)
		if err != nil || len(page) != 64 {
			return fmt.Errorf("%d messages of history: %w", len(page), err)
		}
		read = append(read, time.Since(begin))
	}
	slices.Sort(opened)
	slices.Sort(published)
	slices.Sort(read)
	s.open, s.history = opened[len(opened)/2], read[len(read)/2]
	s.publish, s.slow = published[len(published)/2], published[len(published)*99/100]
	return nil
}

// findHeads asks for the newest messages of rooms as natsrooms does, 512 at a time.
func (s *streamSize) findHeads(ctx context.Context, k *broker, nc *nats.Conn, _ *natsrooms.Backend) error {
	const all, atOnce = 10_000, 512
	began, err := cpuTime(k.pid())
	if err != nil {
		return err
	}
	begin := time.Now()
	for first := 0; first < all; first += atOnce {
		var subjects []string
		for i := first; i < min(first+atOnce, all); i++ {
			subjects = append(subjects, "rooms.log."+roomName(rand.IntN(s.rooms)))
		}
		slices.Sort(subjects)
		subjects = slices.Compact(subjects)
		if err := heads(ctx, nc, subjects); err != nil {
			return err
		}
	}
	s.heads = time.Since(begin)
	ended, err := cpuTime(k.pid())
	s.headsCPU = ended - began
	return err
}

// heads gets the newest messages of some subjects.
func heads(ctx context.Context, nc *nats.Conn, subjects []string) error {
	data, err := json.Marshal(map[string]any{"multi_last": subjects})
	if err != nil {
		return err
	}
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer sub.Unsubscribe()
	if err := nc.PublishRequest("$JS.API.DIRECT.GET.rooms", inbox, data); err != nil {
		return err
	}
	for n := 0; ; n++ {
		msg, err := sub.NextMsgWithContext(ctx)
		switch {
		case err != nil:
			return err
		case msg.Header.Get("Status") == "204" && n == len(subjects):
			return nil
		case msg.Header.Get("Status") != "":
			return fmt.Errorf("%d of %d newest messages, then %v", n, len(subjects), msg.Header)
		}
	}
}

// startAgain kills NATS, and measures how long a message has to wait for it.
func (s *streamSize) startAgain(ctx context.Context, k *broker, nc *nats.Conn, _ *natsrooms.Backend) error {
	k.cmd.Process.Kill()
	k.cmd.Wait()
	k.cmd = nil
	_, port, _ := strings.Cut(k.addr, ":")
	begin := time.Now()
	if err := k.runNATS(port); err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	for {
		try, cancel := context.WithTimeout(ctx, time.Second)
		_, err := js.Publish(try, "rooms.log."+roomName(0), []byte("there"))
		cancel()
		if err == nil {
			s.restart = time.Since(begin)
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A brokerMemory is the memory of NATS: what is left after the garbage was collected, and all that it has.
type brokerMemory struct{ live, resident int64 }

func (b *broker) memory() (m brokerMemory, err error) {
	if m.live, err = b.heap(); err != nil {
		return m, err
	}
	n, err := resident(b.pid())
	m.resident = int64(n)
	return m, err
}

// size returns how many bytes the files below a folder have.
func size(folder string) (n int64, err error) {
	err = filepath.WalkDir(folder, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}
