//go:build linux

// Cluster runs the rooms of several processes over real NATS servers, breaks one thing or another, and measures what clients
// notice of it: messages that were acknowledged and did not arrive, or arrived twice, and how long it takes until all is
// right again. All traffic stays on the loopback interface, or in network namespaces that the program makes: for that it must
// be run by root.
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
	chosen, err := choose(*only)
	if err != nil {
		log.Fatal(err)
	}
	if os.Getenv(inside) == "" && slices.ContainsFunc(chosen, func(f fault) bool { return f.wired }) {
		err = runInside()
	} else {
		err = run(chosen, *runs)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// choose returns the faults with some names.
func choose(only string) (chosen []fault, err error) {
	if only == "" {
		return faults, nil
	}
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(faults, func(f fault) bool { return f.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no fault %q", name)
		}
		chosen = append(chosen, faults[i])
	}
	return chosen, nil
}

// maxPresence is how long it may take until it is known again who is where.
const maxPresence = 15 * time.Second

func run(chosen []fault, runs int) error {
	folder, err := os.MkdirTemp("", "foyer-cluster")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	t, err := findTools(folder)
	if err != nil {
		return err
	}
	jumping := *t
	fmt.Println("| fault | runs | acknowledged | refused | reconnects | lost silently | twice | told of a loss | fetched later | longest without an acknowledgment | presence right after |")
	fmt.Println("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
	var failures []string
	for _, f := range chosen {
		programs := t
		if f.jumping {
			if err := jumping.compile(); err != nil {
				return err
			}
			programs = &jumping
		}
		var sum result
		for range runs {
			r, err := measure(programs, &f)
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
