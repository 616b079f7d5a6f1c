//go:build linux

package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// A column is something that a workload measures.
type column struct {
	workload string
	head     string
	get      func(result) float64
	relative bool // to gorilla
	less     bool // is better
	count    bool // 0 says something, too; the most of all rounds
}

var columns = []column{
	{"pingpong", "ping-pong, rate", func(r result) float64 { return r.Rate }, true, false, false},
	{"pingpong", "p99", func(r result) float64 { return r.P99 }, true, true, false},
	{"pipelined", "pipelined, rate", func(r result) float64 { return r.Rate }, true, false, false},
	{"pipelined", "CPU", func(r result) float64 { return r.CPU }, true, true, false},
	{"large", "large, rate", func(r result) float64 { return r.Rate }, true, false, false},
	{"long", "long, CPU", func(r result) float64 { return r.CPU }, true, true, false},
	{"fragmented", "fragmented, CPU", func(r result) float64 { return r.CPU }, true, true, false},
	{"crowd", "crowd, CPU", func(r result) float64 { return r.CPU }, true, true, false},
	{"broadcast", "broadcast, deliveries a CPU second", func(r result) float64 { return inverse(r.CPU) }, true, false, false},
	{"handshake", "handshake, CPU", func(r result) float64 { return r.CPU }, true, true, false},
	{"storm", "storm, clients a CPU second", func(r result) float64 { return inverse(r.CPU) }, true, false, false},
	{"storm", "refused", func(r result) float64 { return r.Refused }, false, true, true},
	{"tls", "TLS ping-pong, rate", func(r result) float64 { return r.Rate }, true, false, false},
	{"compressed", "compressed, rate", func(r result) float64 { return r.Rate }, true, false, false},
	{"idle", "idle, bytes", func(r result) float64 { return r.Bytes }, false, true, false},
	{"idle", "after one echo", func(r result) float64 { return r.After }, false, true, false},
}

func inverse(x float64) float64 {
	if x == 0 {
		return 0
	}
	return 1 / x
}

// value returns what the table says of a server, and false if there is nothing to say.
func (b *bench) value(c column, server string) (float64, bool) {
	rs := b.results[c.workload]
	if c.count {
		v := 0.0
		for _, r := range rs[server] {
			v = max(v, c.get(r))
		}
		return v, len(rs[server]) > 0
	}
	v := median(rs[server], c.get)
	if c.relative {
		v /= median(rs["gorilla"], c.get)
	}
	return v, v > 0 && !math.IsInf(v, 0) && !math.IsNaN(v)
}

// format writes a value of the column.
func (c column) format(v float64) string {
	switch {
	case c.relative:
		return significant(v)
	case c.count:
		return strconv.Itoa(int(v))
	}
	return thousands(v)
}

// table returns what was measured in Markdown.
func (b *bench) table() string {
	var s strings.Builder
	s.WriteString("| |")
	for _, c := range columns {
		if b.results[c.workload] != nil {
			s.WriteString(" " + c.head + " |")
		}
	}
	s.WriteString("\n| --- |")
	for _, c := range columns {
		if b.results[c.workload] != nil {
			s.WriteString(" ---: |")
		}
	}
	s.WriteString("\n")
	for _, srv := range b.servers {
		var row strings.Builder
		measured := false
		for _, c := range columns {
			if b.results[c.workload] == nil {
				continue
			}
			if v, ok := b.value(c, srv.name); ok {
				row.WriteString(" " + c.format(v))
				measured = true
			}
			row.WriteString(" |")
		}
		if measured {
			fmt.Fprintf(&s, "| %s |%s\n", srv.title(), row.String())
		}
	}
	fmt.Fprintf(&s, "\nRatios to gorilla, medians of %d rounds, of refusals the most, %s; %s; %s. ", b.rounds, time.Now().Format("2006-01-02"), machine(), "server on one core, load on another")
	for i, w := range b.workloads {
		if i > 0 {
			s.WriteString("; ")
		}
		fmt.Fprintf(&s, "%s: %s", w.name, w.about)
	}
	s.WriteString(".\n")
	return s.String()
}

func (s *server) title() string {
	if strings.HasPrefix(s.name, "foyer") {
		return "**foyer**, " + s.about
	}
	return s.about
}

// significant formats a ratio.
func significant(v float64) string {
	switch {
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// thousands formats a number of bytes.
func thousands(v float64) string {
	n := int(v+5) / 10 * 10
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}
