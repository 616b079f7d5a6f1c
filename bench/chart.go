//go:build linux

package main

import (
	"fmt"
	"math"
	"strings"
)

// The measures of the chart, in pixels.
const (
	chartWidth = 880
	nameWidth  = 190
	barHeight  = 15
	panelGap   = 38
)

// panels are what the chart shows: one for each of these columns.
var panels = []string{"pipelined, rate", "ping-pong, rate", "broadcast, deliveries per CPU second", "storm, clients per CPU second", "large, rate", "idle, bytes"}

// chart draws what was measured as bars, longer is more.
func (b *bench) chart() string {
	var body strings.Builder
	y := 10
	for _, head := range panels {
		for _, g := range groups {
			for _, c := range g.columns {
				if c.head == head && b.results[c.workload] != nil {
					y = b.panel(&body, c, y)
				}
			}
		}
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">
<rect width="100%%" height="100%%" fill="#ffffff"/>
%s</svg>
`, chartWidth, y, chartWidth, y, body.String())
}

// panel draws one column and returns where it ends.
func (b *bench) panel(s *strings.Builder, c column, y int) int {
	most := 0.0
	for _, srv := range b.servers {
		if v, ok := b.value(c, srv.name); ok {
			most = max(most, v)
		}
	}
	note := "times gorilla, more is better"
	if c.less {
		note = "less is better"
	}
	// The note is part of the heading's text, for how wide that is only the font knows.
	fmt.Fprintf(s, "<text x=\"8\" y=\"%d\" font-weight=\"bold\">%s<tspan dx=\"10\" font-weight=\"normal\" fill=\"#666\">%s</tspan></text>\n", y+12, c.head, note)
	y += 20
	for _, srv := range b.servers {
		v, ok := b.value(c, srv.name)
		if !ok {
			continue
		}
		fill := "#b8c4ce"
		if strings.HasPrefix(srv.name, "foyer") {
			fill = "#00789c"
		}
		width := int(math.Ceil(v / most * (chartWidth - nameWidth - 70)))
		fmt.Fprintf(s, "<text x=\"8\" y=\"%d\">%s</text><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\"/><text x=\"%d\" y=\"%d\">%s</text>\n",
			y+11, srv.name, nameWidth, y, width, barHeight-3, fill, nameWidth+width+5, y+11, c.format(v))
		y += barHeight
	}
	return y + panelGap - 20
}
