//go:build linux

package main

import (
	"errors"
	"flag"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"time"
)

// clusterServers are measured by the command cluster, besides one node without a broker.
var clusterServers = []server{
	{name: "foyer-core", about: "natsrooms.Core", serve: serveFoyerCore, broker: "nats"},
	{name: "foyer-jetstream", about: "natsrooms.JetStream", serve: serveFoyerJetStream, broker: "nats"},
	{name: "centrifuge-nats", about: "centrifugal/centrifuge 0.40.1, NATS", serve: serveCentrifugeNATS, broker: "nats"},
	{name: "centrifuge-redis", about: "centrifugal/centrifuge 0.40.1, Redis", serve: serveCentrifugeRedis, broker: "redis"},
}

// clusterCommand measures rooms on several nodes, and prints tables.
func clusterCommand(args []string) error {
	flags := flag.NewFlagSet("cluster", flag.ExitOnError)
	rounds := flags.Int("rounds", 3, "rounds; the result is the median")
	seconds := flags.Float64("seconds", 2, "seconds that messages are sent for")
	only := flags.String("servers", "", "the servers to measure, separated by commas (default: all)")
	nodes := flags.Int("nodes", 3, "the most nodes")
	rooms := flags.Int("rooms", 100_000, "the rooms whose cost is measured; 0 for none")
	profile := flags.String("profile", "", "write a CPU profile of each node into this folder")
	flags.Parse(args)

	all := slices.DeleteFunc(slices.Clone(servers), func(s server) bool { return s.name != "foyer-rooms" })
	all = slices.DeleteFunc(append(all, clusterServers...), func(s server) bool { return *only != "" && !contains(*only, s.name) })
	b := &bench{rounds: *rounds, seconds: *seconds, profile: *profile, servers: all, date: time.Now()}
	report, err := b.cluster(*nodes)
	fmt.Print(report)
	if err != nil || *rooms == 0 {
		return err
	}
	cost, err := measureRooms(*rooms, time.Minute)
	if err != nil {
		return err
	}
	fmt.Printf("\n%s\n%s", cost.table(), cost.forecast(1_000_000, 100_000, 20))
	return nil
}

// cluster measures each server on up to so many nodes, and returns a table in Markdown.
func (b *bench) cluster(most int) (string, error) {
	name := func(s server, nodes int) string { return fmt.Sprintf("%s, nodes: %d", s.name, nodes) }
	results := make(map[string][]result) // by name
	for round := range b.rounds {
		for s, nodes := range b.clusters(most) {
			name := name(s, nodes)
			r, err := b.measureCluster(s, nodes)
			if errors.Is(err, errNotInstalled) {
				fmt.Fprintf(os.Stderr, "%s: %s is %v\n", name, s.broker, err)
				continue
			}
			if err != nil {
				return "", fmt.Errorf("%s: %w", name, err)
			}
			fmt.Fprintf(os.Stderr, "%s, round %d: %+v\n", name, round+1, r)
			results[name] = append(results[name], r)
		}
	}
	var table strings.Builder
	table.WriteString("| | nodes | CPU of nodes, µs | CPU of broker, µs | median, ms | p99, ms |\n| --- | ---: | ---: | ---: | ---: | ---: |\n")
	for s, nodes := range b.clusters(most) {
		if rs := results[name(s, nodes)]; len(rs) > 0 {
			of := func(get func(result) float64) float64 { return median(rs, get) }
			fmt.Fprintf(&table, "| %s | %d | %.2f | %.3f | %.2f | %.2f |\n", s.title(), nodes,
				of(func(r result) float64 { return r.CPU }), of(func(r result) float64 { return r.Broker }),
				of(func(r result) float64 { return r.Median })/1e3, of(func(r result) float64 { return r.P99 })/1e3)
		}
	}
	fmt.Fprintf(&table, "\nCPU time is for one delivery, in all nodes together: %s. The times are those of one message at a time "+
		"from the first node to the last, with one receiver on each. Medians of %d rounds, %s; %s; nodes and broker on one core, the load on another.\n",
		clusterWorkload.about, b.rounds, b.date.Format("2006-01-02"), machine())
	return table.String(), nil
}

// clusters goes through the servers, each with 1 to so many nodes. Without a broker there is one.
func (b *bench) clusters(most int) iter.Seq2[server, int] {
	return func(yield func(server, int) bool) {
		for _, s := range b.servers {
			for nodes := 1; nodes <= most && (nodes == 1 || s.broker != ""); nodes++ {
				if !yield(s, nodes) {
					return
				}
			}
		}
	}
}

// measureCluster runs one server on some nodes.
func (b *bench) measureCluster(s server, nodes int) (r result, err error) {
	k, err := startBroker(s.broker)
	if err != nil {
		return r, err
	}
	defer k.end()
	var all []*process
	for i := range nodes {
		p, err := b.start(s, clusterWorkload.name, k.addr, fmt.Sprintf("%s-%d-of-%d", s.name, i+1, nodes))
		if err != nil {
			return r, err
		}
		defer end(p.cmd)
		all = append(all, p)
	}
	return b.load(clusterWorkload, s, k.pid(), all...)
}
