//go:build linux

// Bench measures foyer beside its peers: each server is a process of its own on one core, the load generator another on
// the other core. It speaks raw frames and compares every byte that comes back.
//
//	go run ./bench run
//
// The command cluster measures rooms on several nodes, each a process of its own, and what rooms cost in NATS:
//
//	go run ./bench cluster
//
// The command subjects measures what streams cost NATS that have many rooms:
//
//	go run ./bench subjects
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
)

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	var err error
	switch args := os.Args[2:]; os.Args[1] {
	case "run":
		err = runCommand(args)
	case "cluster":
		err = clusterCommand(args)
	case "subjects":
		err = subjectsCommand(args)
	case "serve":
		err = serveCommand(args)
	case "load":
		err = loadCommand(args)
	default:
		usage()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, `usage: bench run [-rounds n] [-seconds s] [-servers a,b] [-workloads a,b] [-readme file] [-report file] [-svg file]
       bench cluster [-rounds n] [-seconds s] [-servers a,b] [-nodes n] [-rooms n]
       bench subjects [-rooms n,m]`)
	os.Exit(2)
}

// runCommand measures, and prints a table.
func runCommand(args []string) error {
	flags := flag.NewFlagSet("run", flag.ExitOnError)
	rounds := flags.Int("rounds", 5, "rounds; the result is the median")
	seconds := flags.Float64("seconds", 2, "seconds a measurement takes, but for idle and handshake")
	only := flags.String("servers", "", "the servers to measure, separated by commas (default: all)")
	which := flags.String("workloads", "", "the workloads, separated by commas (default: all)")
	conns := flags.Int("idle", 20000, "connections of the workload idle")
	from := flags.String("from", "", "do not measure, but read what an earlier run has printed")
	readme := flags.String("readme", "", "a document to put the most important columns into, between the comments bench and /bench")
	report := flags.String("report", "", "a document to put all tables into, between the same comments")
	svg := flags.String("svg", "", "a file to draw the chart into")
	profile := flags.String("profile", "", "write a CPU profile of each Go server into this folder")
	flags.Parse(args)

	b := &bench{rounds: *rounds, seconds: *seconds, idle: *conns, profile: *profile}
	for _, s := range servers {
		if *only == "" || contains(*only, s.name) {
			b.servers = append(b.servers, s)
		}
	}
	for _, w := range workloads {
		if *which == "" || contains(*which, w.name) {
			b.workloads = append(b.workloads, w)
		}
	}
	if *from == "" {
		if err := b.run(); err != nil {
			return err
		}
	} else if err := b.read(*from); err != nil {
		return err
	}
	fmt.Print(b.report())
	if *svg != "" {
		if err := os.WriteFile(*svg, []byte(b.chart()), 0o644); err != nil {
			return err
		}
	}
	if *readme != "" {
		if err := insert(*readme, b.table(summary)+"\n"+b.conditions()+"\n"); err != nil {
			return err
		}
	}
	if *report != "" {
		return insert(*report, b.report())
	}
	return nil
}

// insert puts table between the comments of a document.
func insert(path, table string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	const begin, end = "<!-- bench -->\n", "<!-- /bench -->"
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no place for the table", path)
	}
	text = []byte(before + begin + table + end + after)
	return os.WriteFile(path, text, 0o644)
}

func contains(list, name string) bool {
	for s := range strings.SplitSeq(list, ",") {
		if s == name {
			return true
		}
	}
	return false
}
