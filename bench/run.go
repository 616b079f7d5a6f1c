//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The cores of the two sides.
const (
	serverCore = 0
	loadCore   = 1
)

// A bench is one run: every workload against every server, rounds times in turn.
type bench struct {
	rounds    int
	seconds   float64
	idle      int
	profile   string
	servers   []server
	workloads []workload

	results map[string]map[string][]result // by workload and server
	date    time.Time
}

// read reads the results of an earlier run from what that has printed.
func (b *bench) read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	b.date = info.ModTime()
	b.results = make(map[string]map[string][]result)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var workload, server string
		var round int
		var r result
		if n, _ := fmt.Sscanf(lines.Text(), "%s %s round %d: {Rate:%g CPU:%g P99:%g Bytes:%g After:%g Refused:%g Threads:%d}",
			&workload, &server, &round, &r.Rate, &r.CPU, &r.P99, &r.Bytes, &r.After, &r.Refused, &r.Threads); n != 10 {
			continue
		}
		if b.results[workload] == nil {
			b.results[workload] = make(map[string][]result)
		}
		b.results[workload][server] = append(b.results[workload][server], r)
		b.rounds = max(b.rounds, round)
	}
	return nil
}

// A result is what one measurement gave. What a workload does not measure is 0.
type result struct {
	Rate    float64 // units of work a second
	CPU     float64 // microseconds of the server's CPU time a unit
	P99     float64 // microseconds
	Bytes   float64 // resident, a connection, before anything was said
	After   float64 // the same after one echo
	Refused float64 // clients that were not served
	Threads int     // goroutines of an idle server
	Broker  float64 // microseconds of the broker's CPU time a unit
	Median  float64 // microseconds
}

func (b *bench) run() error {
	b.date = time.Now()
	b.results = make(map[string]map[string][]result)
	for _, w := range b.workloads {
		b.results[w.name] = make(map[string][]result)
		for round := range b.rounds {
			if w.name == "idle" && round > 0 {
				break // it is steady, and slow
			}
			for _, s := range b.servers {
				if !s.can(w.name) {
					continue
				}
				r, err := b.measure(w, s)
				if errors.Is(err, errNotInstalled) {
					fmt.Fprintf(os.Stderr, "%-10s %-14s %v\n", w.name, s.name, err)
					continue
				}
				if err != nil {
					return fmt.Errorf("%s, %s: %w", w.name, s.name, err)
				}
				fmt.Fprintf(os.Stderr, "%-10s %-14s round %d: %+v\n", w.name, s.name, round+1, r)
				b.results[w.name][s.name] = append(b.results[w.name][s.name], r)
			}
		}
	}
	return nil
}

// measure runs one server under one load.
func (b *bench) measure(w workload, s server) (r result, err error) {
	p, err := b.start(s, w.name, "", s.name)
	if err != nil {
		return r, err
	}
	defer end(p.cmd)
	if r, err = b.load(w, s, 0, p); err != nil {
		return r, err
	}
	for len(p.goroutines) > 0 {
		r.Threads = <-p.goroutines
	}
	return r, nil
}

// A process is a server that was started.
type process struct {
	cmd        *exec.Cmd
	port       string
	goroutines chan int // what it says each time it has given back memory
}

// start starts a server. Its CPU profile, if one is wanted, is called by the workload and name.
func (b *bench) start(s server, workload, broker, name string) (*process, error) {
	cmd, err := s.command(workload, broker)
	if err != nil {
		return nil, err
	}
	if b.profile != "" {
		cmd.Env = append(os.Environ(), "BENCH_PROFILE="+b.profile+"/"+workload+"-"+name+".pprof")
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	if err := startOn(cmd, serverCore); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() {
		end(cmd)
		return nil, errors.New("the server did not say where it listens")
	}
	p := &process{cmd, lines.Text(), make(chan int, 16)}
	go func() {
		for lines.Scan() {
			if n, ok := strings.CutPrefix(lines.Text(), "gc goroutines="); ok {
				count, _ := strconv.Atoi(n)
				p.goroutines <- count
			}
		}
	}()
	return p, nil
}

// end ends a process, and waits for that.
func end(cmd *exec.Cmd) {
	cmd.Process.Signal(unix.SIGTERM)
	killed := time.AfterFunc(3*time.Second, func() { cmd.Process.Kill() })
	cmd.Wait()
	killed.Stop()
}

// load puts a load on the nodes of a server. broker is the process between them, or 0.
func (b *bench) load(w workload, s server, broker int, nodes ...*process) (r result, err error) {
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	args := []string{"load", w.name, s.name, strconv.FormatFloat(b.seconds, 'f', -1, 64), strconv.Itoa(b.idle), strconv.Itoa(broker)}
	for _, n := range nodes {
		args = append(args, fmt.Sprintf("%s:%d", n.port, n.cmd.Process.Pid))
	}
	cmd := exec.Command(self, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := startOn(cmd, loadCore); err != nil {
		return r, err
	}
	if err := cmd.Wait(); err != nil {
		return r, err
	}
	return r, json.Unmarshal([]byte(out.String()), &r)
}

// startOn starts cmd on one core: a child inherits the set of the thread that forked it.
func startOn(cmd *exec.Cmd, core int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	set.Set(core)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return err
	}
	defer unix.SchedSetaffinity(0, &before)
	return cmd.Start()
}

// median returns the median of what get finds in rs, and 0 when nothing was measured.
func median(rs []result, get func(result) float64) float64 {
	var values []float64
	for _, r := range rs {
		values = append(values, get(r))
	}
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)/2]
}
