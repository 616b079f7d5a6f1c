//go:build linux

// Cluster runs the rooms of several processes over real NATS servers, breaks one thing or another, and measures what clients
// notice of it: messages that were acknowledged and did not arrive, or arrived twice, and how long it takes until all is
// right again. All traffic stays on the loopback interface.
//
//	go run ./e2e/cluster [-runs 10] [-faults "node killed,leader killed"]
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) > 1 && os.Args[1] == "node" {
		if err := node(os.Args[2:]); err != nil {
			log.Fatal(err)
		}
		return
	}
	runs := flag.Int("runs", 1, "how often each fault is made")
	only := flag.String("faults", "", "names of faults, separated by commas; all by default")
	flag.Parse()
	if err := run(*runs, *only); err != nil {
		log.Fatal(err)
	}
}

// maxPresence is how long it may take until it is known again who is where.
const maxPresence = 15 * time.Second

func run(runs int, only string) error {
	names := strings.Split(only, ",")
	fmt.Println("| fault | runs | acknowledged | refused | reconnects | lost silently | twice | told of a loss | fetched later | longest without an acknowledgment | presence right after |")
	fmt.Println("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
	var failures []string
	for _, f := range faults {
		if only != "" && !slices.Contains(names, f.name) {
			continue
		}
		var sum result
		for range runs {
			r, err := measure(&f)
			if err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			sum.add(r)
		}
		fmt.Printf("| %s | %d | %d | %d | %d | %d | %d | %d | %d | %.1f s | %.1f s |\n", f.name, runs, sum.acknowledged, sum.refused, sum.reconnects,
			sum.lost, sum.twice, sum.told, sum.fetched, sum.silence.Seconds(), sum.presence.Seconds())
		if sum.lost > 0 || sum.twice > 0 || sum.presence > maxPresence {
			failures = append(failures, f.name)
		}
	}
	if len(failures) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(failures, ", "))
	}
	return nil
}

// A result is what was seen in some runs.
type result struct {
	acknowledged, refused int // messages
	reconnects            int
	lost, twice, told     int           // of the messages that clients must get
	fetched               int           // messages that nodes had missed
	silence               time.Duration // the longest time without an acknowledgment
	presence              time.Duration // until it was right, at most
}

func (r *result) add(o result) {
	r.acknowledged += o.acknowledged
	r.refused += o.refused
	r.reconnects += o.reconnects
	r.lost += o.lost
	r.twice += o.twice
	r.told += o.told
	r.fetched += o.fetched
	r.silence = max(r.silence, o.silence)
	r.presence = max(r.presence, o.presence)
}
