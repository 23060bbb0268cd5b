package graph

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// maxServices are the Services that a box names; it counts the rest.
const maxServices = 3

// hues are the classes of edges, by source, so that the eye can follow one.
const hues = 6

// sheet holds the colors; a page in the dark gets its own. There are no scripts, fonts or images, so the picture is one
// file that needs nothing.
const sheet = `
svg{--page:#fbfcfe;--space:#f2f5fa;--line:#d3dbe6;--text:#172033;--soft:#5c6880;--box:#fff;--mesh:#2f8f5b;--open:#e9f6ee;--source:#3b63c4;--sourcebg:#e8eefc;--warn:#a86400;--warnbg:#fff1d6;--bad:#b3261e;--badbg:#fde8e6;--closed:#6b7280;--e0:#3b63c4;--e1:#8a4fc7;--e2:#0e8a86;--e3:#b4552d;--e4:#a83279;--e5:#5f7a1f;font-family:system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif}
@media (prefers-color-scheme:dark){svg{--page:#0f141c;--space:#161d29;--line:#2c3749;--text:#e6ebf4;--soft:#93a0b5;--box:#1d2635;--mesh:#4cc38a;--open:#15291f;--source:#84a7ff;--sourcebg:#1a2744;--warn:#ffc15e;--warnbg:#3a2c10;--bad:#ff8f87;--badbg:#3c1b1b;--closed:#8b96a8;--e0:#84a7ff;--e1:#c49bff;--e2:#4fd1c5;--e3:#ffab84;--e4:#f58fd0;--e5:#b5d56a}}
.page{fill:var(--page)}.space{fill:var(--space);stroke:var(--line)}.open{fill:var(--open);stroke:var(--mesh);stroke-opacity:.45;stroke-dasharray:2 4;stroke-linecap:round}
.box{fill:var(--box);stroke:var(--line);stroke-width:1.2}.bar{stroke:none}.mesh .bar{fill:var(--mesh)}.closed .bar{fill:var(--closed)}.leaky .bar{fill:var(--warn)}.outside .bar{fill:var(--bad)}
.outside .box{stroke:var(--bad);stroke-dasharray:5 4}.leaky .box{stroke:var(--warn)}.source .box{fill:var(--sourcebg);stroke:var(--source)}
text{fill:var(--text);font-size:12px}.h1{font-size:20px;font-weight:650}.name{font-size:13.5px;font-weight:600}.kind,.sub{fill:var(--soft);font-size:11.5px}.svc{font-size:11.5px;font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}.ns{font-size:13px;font-weight:600}
.plain{fill:var(--soft);font-size:11.5px}.warn{fill:var(--warn);font-size:11.5px;font-weight:600}.bad{fill:var(--bad);font-size:11.5px;font-weight:600}
.edge{fill:none;stroke-width:1.6;stroke-opacity:.8}.edge:hover{stroke-width:3.5;stroke-opacity:1}.any{stroke:var(--mesh);stroke-width:2}.leave{stroke:var(--bad);stroke-dasharray:5 4;stroke-width:1.3;stroke-opacity:.7}
.door{fill:var(--box);stroke:var(--source)}.doortext{font-size:11px;font-weight:600;text-anchor:middle}.tip{fill:var(--source)}.anytip{fill:var(--mesh)}.leavetip{fill:var(--bad)}
`

// WriteSVG writes a picture of its own layout: one file, light and dark.
func WriteSVG(w io.Writer, g Graph) error {
	v := newView(g)
	l, out := newLayout(v), bufio.NewWriter(w)
	high := l.h + 34
	width := max(l.w, 900)
	fmt.Fprintf(out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %s %s" width="%[1]s" height="%[2]s" role="img" aria-labelledby="title desc">`+"\n", num(width), num(high))
	fmt.Fprintf(out, "<title id=\"title\">Who may talk to whom in %s</title>\n<desc id=\"desc\">%s</desc>\n", xmlText(g.TrustDomain), xmlText(describe(g)))
	fmt.Fprint(out, "<style>", sheet)
	for i := range hues {
		fmt.Fprintf(out, ".e%d{stroke:var(--e%[1]d)}.f%[1]d{fill:var(--e%[1]d)}", i)
	}
	fmt.Fprintln(out, "</style>")
	fmt.Fprintf(out, "<rect class=\"page\" width=\"%s\" height=\"%s\"/>\n", num(width), num(high))
	fmt.Fprintf(out, "<text class=\"h1\" x=\"%s\" y=\"46\">Who may talk to whom</text>\n<text class=\"sub\" x=\"%[1]s\" y=\"68\">%s</text>\n", num(margin), xmlText(summary(g)))
	l.drawFrames(out)
	doors := l.doors()
	l.drawEdges(out, doors)
	for i := range l.Nodes {
		l.drawNode(out, i)
	}
	l.drawDoors(out, doors)
	drawLegend(out, l.h+6)
	fmt.Fprintln(out, "</svg>")
	return out.Flush()
}

func (l *layout) drawFrames(out io.Writer) {
	for s, f := range l.frames {
		fmt.Fprintf(out, "<rect class=\"space\" x=\"%s\" y=\"%s\" width=\"%s\" height=\"%s\" rx=\"14\"/>\n", num(f.x), num(f.y), num(f.w), num(f.h))
		fmt.Fprintf(out, "<text class=\"ns\" x=\"%s\" y=\"%s\">%s</text>\n", num(f.x+gap), num(f.y+20), xmlText(shorten(l.spaces[s].name, 60)))
		if o := l.opens[s]; o.h > 0 {
			fmt.Fprintf(out, "<rect class=\"open\" x=\"%s\" y=\"%s\" width=\"%s\" height=\"%s\" rx=\"10\"/>\n", num(o.x), num(o.y), num(o.w), num(o.h))
			fmt.Fprintf(out, "<text class=\"sub\" x=\"%s\" y=\"%s\">open to the mesh</text>\n", num(o.x+gap), num(o.y+16))
		}
	}
}

// door is where edges with the same ports enter a node.
type door struct {
	ports   string
	box     *box
	right   bool // edges that run backward enter there
	x, y, w float64
	wish    float64
	count   int
}

type doorKey struct {
	to, ports string
	right     bool
}

func keyOf(r *route) doorKey { return doorKey{r.edge.To, portsText(r.edge.Ports), r.backward} }

// doors spreads the doors of every node over its side, in the order in which the edges arrive.
func (l *layout) doors() map[doorKey]*door {
	doors := map[doorKey]*door{}
	for _, r := range l.routes {
		k := keyOf(r)
		if doors[k] == nil {
			doors[k] = &door{ports: k.ports, box: l.boxes[l.index[k.to]], right: k.right}
		}
		d, from := doors[k], r.path[len(r.path)-2]
		if k.right {
			from = r.path[1]
		}
		d.wish, d.count = d.wish+from.center(), d.count+1
	}
	sides := map[*box][2][]*door{}
	for _, k := range sortedKeys(doors) {
		d := doors[k]
		side := sides[d.box]
		n := 0
		if d.right {
			n = 1
		}
		side[n] = append(side[n], d)
		sides[d.box] = side
	}
	for b, pair := range sides {
		for _, side := range pair {
			slices.SortStableFunc(side, func(a, c *door) int { return cmp.Compare(a.wish/float64(a.count), c.wish/float64(c.count)) })
			for i, d := range side {
				d.w = textWidth(shorten(d.ports, 14), 6.4) + 16
				d.y = b.y + b.h*(float64(i)+.5)/float64(len(side))
				d.x = b.x - d.w + 4
				if d.right {
					b.entered = true
					d.x, d.y = b.x+b.w-4, b.y+26+(b.h-26)*(float64(i)+.5)/float64(len(side))
				}
			}
		}
	}
	return doors
}

func sortedKeys(doors map[doorKey]*door) []doorKey {
	var keys []doorKey
	for k := range doors {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b doorKey) int { return cmp.Or(cmp.Compare(a.to, b.to), cmp.Compare(a.ports, b.ports)) })
	return keys
}

func (l *layout) drawEdges(out io.Writer, doors map[doorKey]*door) {
	if i := l.anyone(); i >= 0 {
		b := l.boxes[i]
		for _, f := range l.opens {
			if f.h > 0 {
				fmt.Fprintf(out, "<path class=\"edge any\" d=\"%s\"/>\n", curve(b.x+b.w, b.center(), f.x-7, f.y+f.h/2))
				tip(out, "anytip", f.x, f.y+f.h/2, false)
			}
		}
	}
	hue := l.hues()
	for _, r := range l.routes {
		d := doors[keyOf(r)]
		fmt.Fprintf(out, "<path class=\"edge e%d\" d=\"%s\"><title>%s</title></path>\n", hue[r.edge.From], l.path(r, d), xmlText(r.edge.From+" → "+r.edge.To+", "+portsText(r.edge.Ports)))
	}
	if l.anywhere == nil {
		return
	}
	for s, f := range l.frames {
		if l.spaces[s].passthrough {
			y := l.anywhere.center()
			fmt.Fprintf(out, "<path class=\"edge leave\" d=\"%s\"/>\n", curve(f.x+f.w, min(max(y, f.y+20), f.y+f.h-20), l.anywhere.x-7, y))
		}
	}
	tip(out, "leavetip", l.anywhere.x, l.anywhere.center(), false)
}

// hues are by where sources stand among the talkers of their column, so that neighbors differ; columns start at
// different hues.
func (l *layout) hues() map[string]int {
	var talkers []*box
	for _, b := range l.boxes {
		if b.talks {
			talkers = append(talkers, b)
		}
	}
	slices.SortFunc(talkers, func(a, b *box) int {
		return cmp.Or(cmp.Compare(a.col, b.col), cmp.Compare(a.y, b.y), cmp.Compare(a.x, b.x), cmp.Compare(a.name, b.name))
	})
	found, first := map[string]int{}, 0
	for i, b := range talkers {
		if i > 0 && talkers[i-1].col != b.col {
			first = i
		}
		found[b.name] = (2*b.col + i - first) % hues
	}
	return found
}

// path runs from the source through its lanes to the door.
func (l *layout) path(r *route, d *door) string {
	first, last := r.path[0], r.path[len(r.path)-1]
	var out strings.Builder
	x, y := first.x+first.w, first.center()
	if first.entered {
		y = first.y + 14 // above the doors on this side
	}
	endX, endY := d.x-6, d.y
	if r.backward { // drawn from its target, so from right to left
		x, y = d.x+d.w+6, d.y
		endX, endY = last.x, last.y+last.h-8
	}
	fmt.Fprintf(&out, "M%s %s", num(x), num(y))
	if end := l.left[1] + l.subWidth() - gap; first.col == 1 && x < end {
		fmt.Fprintf(&out, "H%s", num(end))
		x = end
	}
	for _, b := range r.path[1 : len(r.path)-1] {
		bend(&out, x, y, b.x, b.center())
		fmt.Fprintf(&out, "H%s", num(b.x+b.w))
		x, y = b.x+b.w, b.center()
	}
	bend(&out, x, y, endX, endY)
	return out.String()
}

func curve(x, y, toX, toY float64) string {
	var out strings.Builder
	fmt.Fprintf(&out, "M%s %s", num(x), num(y))
	bend(&out, x, y, toX, toY)
	return out.String()
}

func bend(out *strings.Builder, x, y, toX, toY float64) {
	half := (toX - x) * .5
	fmt.Fprintf(out, "C%s %s %s %s %s %s", num(x+half), num(y), num(toX-half), num(toY), num(toX), num(toY))
}

// tip is an arrow's head that ends at x.
func tip(out io.Writer, class string, x, y float64, left bool) {
	back := x - 8
	if left {
		back = x + 8
	}
	fmt.Fprintf(out, "<path class=\"%s\" d=\"M%s %s L%s %s L%s %s Z\"/>\n", class, num(x), num(y), num(back), num(y-4.5), num(back), num(y+4.5))
}

func (l *layout) drawDoors(out io.Writer, doors map[doorKey]*door) {
	for _, k := range sortedKeys(doors) {
		d := doors[k]
		x := d.x
		if d.right {
			x += d.w
		}
		tip(out, "tip", x, d.y, d.right)
		fmt.Fprintf(out, "<g><title>%s</title><rect class=\"door\" x=\"%s\" y=\"%s\" width=\"%s\" height=\"%s\" rx=\"%[5]s\"/>", xmlText(d.ports), num(d.x), num(d.y-doorHigh/2), num(d.w), num(doorHigh))
		fmt.Fprintf(out, "<text class=\"doortext\" x=\"%s\" y=\"%s\">%s</text></g>\n", num(d.x+d.w/2), num(d.y+4), xmlText(shorten(d.ports, 14)))
	}
}

func (l *layout) drawNode(out io.Writer, i int) {
	n, b := l.Nodes[i], l.boxes[i]
	fmt.Fprintf(out, "<g class=\"%s\"><title>%s</title>", style(n), xmlText(cmp.Or(n.Identity, n.ID)))
	radius := 8.0
	if style(n) == "source" {
		radius = min(b.h/2, 18)
	}
	fmt.Fprintf(out, "<rect class=\"box\" x=\"%s\" y=\"%s\" width=\"%s\" height=\"%s\" rx=\"%s\"/>", num(b.x), num(b.y), num(b.w), num(b.h), num(radius))
	if style(n) != "source" {
		fmt.Fprintf(out, "<rect class=\"bar\" x=\"%s\" y=\"%s\" width=\"4\" height=\"%s\" rx=\"2\"/>", num(b.x+5), num(b.y+9), num(b.h-18))
	}
	x, y := b.x+boxPad+6, b.y+boxPad+10
	line := func(class, text string, limit int, step float64) {
		fmt.Fprintf(out, "<text class=\"%s\" x=\"%s\" y=\"%s\">%s</text>", class, num(x), num(y), xmlText(shorten(text, limit)))
		y += step
	}
	limit := 23
	if style(n) == "source" {
		limit = 25
	}
	line("name", n.Name, limit, titleLine-2)
	if n.Kind != "" {
		line("kind", n.Kind, 32, textLine)
	}
	for k, s := range serviceLines(n) {
		if k == maxServices {
			line("svc", fmt.Sprintf("and %d more Services", len(n.Services)-maxServices), 27, textLine)
			break
		}
		line("svc", "⇢ "+s, 28, textLine)
	}
	for _, f := range l.facts(n) {
		line(f.style, f.text, 30, textLine)
	}
	fmt.Fprintln(out, "</g>")
}

func drawLegend(out io.Writer, y float64) {
	x := margin
	for _, entry := range []struct{ class, text string }{
		{"plain", "→ mutual TLS; the tab names the container's ports"}, {"plain", "⇢ Service"}, {"warn", "amber: takes plaintext as well"}, {"bad", "red: outside of the mesh, or plaintext"},
	} {
		fmt.Fprintf(out, "<text class=\"%s\" x=\"%s\" y=\"%s\">%s</text>\n", entry.class, num(x), num(y+12), xmlText(entry.text))
		x += textWidth(entry.text, 6.6) + 22
	}
}

// summary counts, for the head of the picture.
func summary(g Graph) string {
	inside, outside, edges := 0, 0, 0
	for _, n := range g.Nodes {
		switch n.Class {
		case Mesh:
			inside++
		case Outside, External:
			outside++
		}
	}
	for _, e := range g.Edges {
		if e.From != AnyMeshID {
			edges++
		}
	}
	text := fmt.Sprintf("trust domain %s · %s in the mesh · %s", g.TrustDomain, count(inside, "workload"), count(edges, "connection")+" allowed by policy")
	if outside > 0 {
		text += fmt.Sprintf(" · %d outside", outside)
	}
	return text
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// describe words the graph for those who hear it instead of seeing it; a large one in numbers only.
func describe(g Graph) string {
	const most = 60
	lines := []string{summary(g)}
	for i, e := range g.Edges {
		if i == most {
			lines = append(lines, fmt.Sprintf("and %d more", len(g.Edges)-most))
			break
		}
		lines = append(lines, fmt.Sprintf("%s may call %s on %s", e.From, e.To, portsText(e.Ports)))
	}
	return strings.Join(lines, ". ") + "."
}

// shorten keeps both ends of a text, since names differ at either.
func shorten(s string, limit int) string {
	r := []rune(s)
	if len(r) <= limit {
		return s
	}
	return string(r[:limit*2/3]) + "…" + string(r[len(r)-(limit-limit*2/3-1):])
}

func textWidth(s string, perRune float64) float64 { return float64(len([]rune(s))) * perRune }

// num writes a coordinate, equal on every machine.
func num(f float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.1f", f), "0"), ".")
}

func xmlText(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#39;").Replace(printable(s))
}
