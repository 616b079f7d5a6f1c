//go:build linux

package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
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

// A group is columns that make a table.
type group struct {
	title   string
	columns []column
}

// The groups of the report, at most five columns each.
var groups = []group{
	{"Short messages", []column{
		{"pingpong", "ping-pong, rate", func(r result) float64 { return r.Rate }, true, false, false},
		{"pingpong", "p99", func(r result) float64 { return r.P99 }, true, true, false},
		{"pipelined", "pipelined, rate", func(r result) float64 { return r.Rate }, true, false, false},
		{"pipelined", "CPU", func(r result) float64 { return r.CPU }, true, true, false},
		{"tls", "TLS ping-pong, rate", func(r result) float64 { return r.Rate }, true, false, false},
	}},
	{"Long, fragmented and compressed messages", []column{
		{"large", "large, rate", func(r result) float64 { return r.Rate }, true, false, false},
		{"long", "long, CPU", func(r result) float64 { return r.CPU }, true, true, false},
		{"fragmented", "fragmented, CPU", func(r result) float64 { return r.CPU }, true, true, false},
		{"compressed", "compressed, rate", func(r result) float64 { return r.Rate }, true, false, false},
	}},
	{"Many clients", []column{
		{"broadcast", "broadcast, deliveries per CPU second", func(r result) float64 { return inverse(r.CPU) }, true, false, false},
		{"crowd", "crowd, CPU", func(r result) float64 { return r.CPU }, true, true, false},
		{"idle", "idle, bytes", func(r result) float64 { return r.Bytes }, false, true, false},
		{"idle", "after one echo", func(r result) float64 { return r.After }, false, true, false},
	}},
	{"Rooms", []column{
		{"broadcast", "p99", func(r result) float64 { return r.P99 }, true, true, false},
		{"broadcast4k", "broadcast of 4 KiB, deliveries per CPU second", func(r result) float64 { return inverse(r.CPU) }, true, false, false},
		{"broadcast10k", "to 10,000", func(r result) float64 { return inverse(r.CPU) }, true, false, false},
		{"slow", "with clients that do not read", func(r result) float64 { return inverse(r.CPU) }, true, false, false},
		{"slow", "bytes for each of those", func(r result) float64 { return r.Bytes }, false, true, false},
	}},
	{"Connecting", []column{
		{"handshake", "handshake, CPU", func(r result) float64 { return r.CPU }, true, true, false},
		{"storm", "storm, clients per CPU second", func(r result) float64 { return inverse(r.CPU) }, true, false, false},
		{"storm", "refused", func(r result) float64 { return r.Refused }, false, true, true},
	}},
}

// summary is what the README shows.
var summary = group{"", []column{groups[0].columns[0], groups[0].columns[2], groups[1].columns[0], groups[2].columns[0], groups[2].columns[2]}}

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

// report returns what was measured in Markdown.
func (b *bench) report() string {
	var s strings.Builder
	for _, g := range groups {
		if table := b.table(g); table != "" {
			fmt.Fprintf(&s, "\n## %s\n\n%s", g.title, table)
		}
	}
	fmt.Fprintf(&s, "\n## What was measured\n\n%s\n\n", b.conditions())
	for _, w := range b.workloads {
		fmt.Fprintf(&s, "- **%s**: %s\n", w.name, w.about)
	}
	return s.String()
}

// conditions says how the figures came about.
func (b *bench) conditions() string {
	return fmt.Sprintf("Values are medians of %d rounds, relative to gorilla, but for bytes. Refused connections are those of the worst round. "+
		"Measured %s on an %s. The server has one core, the load generator another.",
		b.rounds, b.date.Format("2006-01-02"), machine())
}

// table returns a group of columns in Markdown, "" when none of them was measured.
func (b *bench) table(g group) string {
	var columns []column
	for _, c := range g.columns {
		if b.results[c.workload] != nil {
			columns = append(columns, c)
		}
	}
	if len(columns) == 0 {
		return ""
	}
	var s strings.Builder
	s.WriteString("| |")
	for _, c := range columns {
		s.WriteString(" " + c.head + " |")
	}
	s.WriteString("\n| --- |" + strings.Repeat(" ---: |", len(columns)) + "\n")
	for _, srv := range b.servers {
		var row strings.Builder
		measured := false
		for _, c := range columns {
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
