package main

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// plot is one image: a row of bars per figure.
type plot struct {
	name, title string
	columns     []column
	units       string
}

var allPlots = []plot{
	{"bulk", "Bulk through two proxies", allTables[0].columns, "MB/s; longer is better"},
	{"cpu", "Bulk, for the CPU time of both proxies", allTables[1].columns, "MB per CPU second; longer is better"},
	{"connections", "New connections with one small exchange", allTables[2].columns[:1], "per second; longer is better"},
	{"latency", "1,000 requests/s", allTables[3].columns[:2], "µs; shorter is better"},
	{"work", "CPU time of both proxies", []column{
		{"rate", "cpu_1000", "1,000 requests, at 1,000/s", true}, {"connections", "cpu_1000", "1,000 new connections", true}}, "ms; shorter is better"},
	{"memory", "Memory of one proxy, idle", allTables[6].columns[1:3], "MiB; shorter is better"},
	{"idle", "Memory per idle connection, one proxy", allTables[6].columns[3:], "KiB; shorter is better"},
}

// Sizes of a plot in pixels.
const (
	plotWidth, labelWidth, valueWidth = 760, 210, 120
	barHeight, barGap, headHeight     = 16, 6, 46
	groupHeight                       = 26
)

// style reads in light and in dark without knowing which it is: an image in a page learns the system's colours, not the
// page's.
const style = `text{font:12px system-ui,sans-serif;fill:#76828e}.t{font-size:15px;font-weight:600}.g{font-weight:600}` +
	`.o{fill:#3b82f6}.p{fill:#94a3b8}.b{fill:none;stroke:#94a3b8}.w{stroke:#64748b;stroke-width:1.5}`

// plots writes the images that the run has figures for, and returns the text that shows them.
func (r *report) plots(folder string) (string, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	var shown strings.Builder
	for _, p := range allPlots {
		image := r.draw(p)
		if image == "" {
			continue
		}
		name := "performance-" + p.name + ".svg"
		if err := os.WriteFile(filepath.Join(folder, name), []byte(image), 0o644); err != nil {
			return "", err
		}
		fmt.Fprintf(&shown, "![%s](img/%s)\n\n", p.title, name)
	}
	return shown.String(), nil
}

// draw is the image of a plot, or "" where nothing of it was measured.
func (r *report) draw(p plot) string {
	var body strings.Builder
	y := headHeight
	for _, c := range p.columns {
		y = r.drawGroup(&body, c, y)
	}
	if y == headHeight {
		return ""
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`+"\n<style>%s</style>\n"+
		`<text class="t" x="8" y="20">%s</text><text x="8" y="38">%s; median, and least to most of the repetitions</text>%s</svg>`+"\n",
		plotWidth, y+8, plotWidth, y+8, escape(p.title), style, escape(p.title), escape(p.units), body.String())
}

// drawGroup draws the bars of one figure below y and returns where they end. No proxy at all is left out: its bar would
// make all others small.
func (r *report) drawGroup(out *strings.Builder, c column, y int) int {
	most := 0.0
	for _, p := range allPeers {
		if p.start != nil {
			most = max(most, r.figure(c.measure, p.name, c.key).Max)
		}
	}
	if most == 0 {
		return y
	}
	fmt.Fprintf(out, `<text class="g" x="8" y="%d">%s</text>`, y+18, escape(r.header(c)))
	y += groupHeight
	scale := (plotWidth - labelWidth - valueWidth) / most
	for _, p := range allPeers {
		s := r.figure(c.measure, p.name, c.key)
		if p.start == nil || s.N == 0 {
			continue
		}
		class := "p"
		switch {
		case p.ours:
			class = "o"
		case !p.tls:
			class = "b"
		}
		x, middle := float64(labelWidth), y+barHeight/2
		fmt.Fprintf(out, `<text x="%d" y="%d" text-anchor="end">%s</text>`+
			`<rect class="%s" x="%d" y="%d" width="%.1f" height="%d"/>`,
			labelWidth-8, y+12, escape(p.title), class, labelWidth, y, s.Median*scale, barHeight)
		if s.N > 1 {
			fmt.Fprintf(out, `<path class="w" d="M%.1f %dH%.1f"/>`, x+s.Min*scale, middle, x+s.Max*scale)
		}
		fmt.Fprintf(out, `<text x="%.1f" y="%d">%s</text>`+"\n", x+s.Max*scale+6, y+12, number(s.Median))
		y += barHeight + barGap
	}
	return y
}

func escape(s string) string {
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(s))
	return out.String()
}
