//go:build linux

// Hostile attacks a foyer server in many ways and measures what a well-behaved client notices of it. The server is a
// process of its own; all traffic stays on the loopback interface, and every attack ends by itself.
//
//	go run ./e2e/hostile [-seconds 5] [-scale 1]
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		if err := serve(os.Args[2:]); err != nil {
			log.Fatal(err)
		}
		return
	}
	seconds := flag.Float64("seconds", 5, "how long each attack lasts")
	scale := flag.Float64("scale", 1, "how large the attacks are, 1 being what the names say")
	flag.Parse()
	if err := run(time.Duration(*seconds*float64(time.Second)), *scale); err != nil {
		log.Fatal(err)
	}
}

// bound is what a good client may notice of an attack.
const bound = 100 * time.Millisecond

// recovery is how long it may take until all is as before.
const recovery = 5 * time.Second

func run(d time.Duration, scale float64) error {
	fmt.Println("| attack | echo p99 before | during it | memory at most | allowed | back to normal after |")
	fmt.Println("| --- | ---: | ---: | ---: | ---: | ---: |")
	var failures []string
	for _, a := range attacks {
		r, err := a.run(d, scale)
		if err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		fmt.Printf("| %s | %.1f ms | %.1f ms | %d MiB | %d MiB | %.1f s |\n", a.name, ms(r.before), ms(r.during), r.memory>>20, a.memory>>20, r.recovered.Seconds())
		if r.during > bound || r.memory > a.memory || r.recovered > recovery {
			failures = append(failures, a.name)
		}
	}
	if len(failures) > 0 {
		return fmt.Errorf("too much: %s", strings.Join(failures, ", "))
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// A result is what an attack has done.
type result struct {
	before, during time.Duration // 99th percentile of the good client's echo
	memory         int           // resident bytes of the server, at most
	recovered      time.Duration // until the server's sockets and goroutines were as before
}

// run starts a server, measures, attacks, and waits for the server to recover.
func (a *attack) run(d time.Duration, scale float64) (result, error) {
	var r result
	s, err := start(a.server...)
	if err != nil {
		return r, err
	}
	defer s.stop()
	good, err := newGoodClient(s.addr)
	if err != nil {
		return r, err
	}
	defer good.close()
	if a.newcomers {
		r.before, err = newcomers(s.addr, time.Second)
	} else {
		r.before, err = good.measure(time.Second)
	}
	if err != nil {
		return r, err
	}
	calm, err := s.stats()
	if err != nil {
		return r, err
	}

	stop, sampled := make(chan struct{}), make(chan int)
	go s.watchMemory(stop, sampled)
	attacked := make(chan error, 1)
	go func() { attacked <- a.attack(s.addr, d, scale) }()
	if a.newcomers {
		r.during, err = newcomers(s.addr, d)
	} else {
		r.during, err = good.measure(d)
	}
	close(stop)
	r.memory = <-sampled
	if err != nil {
		return r, fmt.Errorf("the good client: %w", err)
	}
	if err := <-attacked; err != nil {
		return r, fmt.Errorf("the attack: %w", err)
	}

	begin := time.Now()
	for {
		now, err := s.stats()
		if err != nil {
			return r, err
		}
		r.recovered = time.Since(begin)
		if now.Open <= calm.Open && now.Goroutines <= calm.Goroutines+5 && now.Files <= calm.Files+5 || r.recovered > 2*recovery {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	another, err := newGoodClient(s.addr) // new clients get in, too
	if err != nil {
		return r, err
	}
	defer another.close()
	_, err = another.measure(100 * time.Millisecond)
	return r, err
}

// A server is the process that is attacked.
type server struct {
	cmd  *exec.Cmd
	in   *json.Encoder
	out  *bufio.Scanner
	addr string
}

// start runs this program as a server.
func start(args ...string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, append([]string{"serve"}, args...)...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{cmd: cmd, in: json.NewEncoder(in), out: bufio.NewScanner(out)}
	if !s.out.Scan() {
		s.stop()
		return nil, fmt.Errorf("the server did not say where it listens")
	}
	s.addr = s.out.Text()
	return s, nil
}

func (s *server) stop() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

// stats asks the server how it is.
func (s *server) stats() (st stats, err error) {
	if err := s.in.Encode("stats"); err != nil {
		return st, err
	}
	if !s.out.Scan() {
		return st, fmt.Errorf("the server is gone")
	}
	return st, json.Unmarshal(s.out.Bytes(), &st)
}

// watchMemory sends the most memory that the server has had until stop.
func (s *server) watchMemory(stop <-chan struct{}, most chan<- int) {
	var seen []int
	for {
		select {
		case <-stop:
			most <- slices.Max(append(seen, 0))
			return
		case <-time.After(20 * time.Millisecond):
			seen = append(seen, resident(s.cmd.Process.Pid))
		}
	}
}

// resident returns the resident memory of a process in bytes.
func resident(pid int) (bytes int) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	var size int
	fmt.Sscan(string(status), &size, &bytes)
	return bytes * os.Getpagesize()
}
