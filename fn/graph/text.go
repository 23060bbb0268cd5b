package graph

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/meshless-dev/meshless/fn/report"
)

// What GitHub draws of a Mermaid chart at most (maxTextSize and maxEdges of Mermaid's configuration, which it leaves at
// their defaults).
const (
	MermaidMaxText  = 50_000
	MermaidMaxEdges = 500
)

// styles are the colors of fill, line and text in Mermaid and DOT; all three are set, so that they do on a dark page as
// well.
var styles = []struct{ name, fill, line, text, dash string }{
	{"mesh", "#e7f5ec", "#2f8f5b", "#12372a", ""},
	{"closed", "#eef0f4", "#6b7280", "#1f2937", ""},
	{"leaky", "#fff4dc", "#c07a00", "#4a2f00", ""},
	{"outside", "#fdeaea", "#c0392b", "#4d1310", "5 4"},
	{"source", "#e8eefc", "#3b63c4", "#14285c", ""},
}

// WriteJSON writes the whole graph, nothing joined.
func WriteJSON(w io.Writer, g Graph) error {
	// [], not null
	g.Nodes, g.Edges, g.Open = append([]Node{}, g.Nodes...), append([]Edge{}, g.Edges...), append([]string{}, g.Open...)
	return report.WriteJSON(w, g)
}

// WriteMermaid writes a flowchart without a fence.
func WriteMermaid(w io.Writer, g Graph) error {
	v, out := newView(g), bufio.NewWriter(w)
	node := func(indent string, i int) {
		n := v.Nodes[i]
		left, right := `["`, `"]`
		if style(n) == "source" {
			left, right = `(["`, `"])`
		} else if n.Kind == "StatefulSet" {
			left, right = `[("`, `")]`
		}
		fmt.Fprintf(out, "%sn%d%s%s%s:::%s\n", indent, i, left, mermaidLines(v.lines(n)), right, style(n))
	}

	fmt.Fprintln(out, "flowchart LR")
	v.writeNodes(out, node, func(s int, name string) string {
		return fmt.Sprintf("subgraph ns%d[\"%s\"]", s, mermaidText(name))
	}, "subgraph open%d[\"open to the mesh\"]", "end")
	anywhere, passthrough := v.index[AnywhereID]
	if passthrough {
		node("  ", anywhere)
	}
	for s, space := range v.spaces {
		if len(space.open) > 0 {
			fmt.Fprintf(out, "  n%d -->|\"any port\"| open%d\n", v.index[AnyMeshID], s)
		}
	}
	for _, e := range v.Edges {
		fmt.Fprintf(out, "  n%d -->|\"%s\"| n%d\n", v.index[e.From], mermaidText(portsText(e.Ports)), v.index[e.To])
	}
	for s, space := range v.spaces {
		if space.passthrough {
			fmt.Fprintf(out, "  ns%d -.->|plaintext| n%d\n", s, anywhere)
		}
	}
	v.writeMermaidStyles(out)
	return out.Flush()
}

// writeNodes writes the nodes, those of a namespace and the open ones of them within brackets: start begins the
// namespace of a number and a text, open is the format of the open nodes' number, and end ends either.
func (v *view) writeNodes(out io.Writer, node func(indent string, i int), start func(s int, name string) string, open, end string) {
	for _, i := range v.sources() {
		node("  ", i)
	}
	for s, space := range v.spaces {
		fmt.Fprintln(out, "  "+start(s, "namespace "+space.name))
		if len(space.open) > 0 {
			fmt.Fprintf(out, "    "+open+"\n", s)
			for _, i := range space.open {
				node("      ", i)
			}
			fmt.Fprintln(out, "    "+end)
		}
		for _, i := range space.rest {
			node("    ", i)
		}
		fmt.Fprintln(out, "  "+end)
	}
}

func (v *view) writeMermaidStyles(out io.Writer) {
	for _, s := range styles {
		dash := ""
		if s.dash != "" {
			dash = ",stroke-dasharray:" + s.dash
		}
		fmt.Fprintf(out, "  classDef %s fill:%s,stroke:%s,color:%s%s\n", s.name, s.fill, s.line, s.text, dash)
	}
	fmt.Fprintln(out, "  classDef space fill:#7f8ea31a,stroke:#9aa4b2") // see-through, and the text in the page's color
	fmt.Fprintln(out, "  classDef open fill:#2f8f5b1a,stroke:#2f8f5b,stroke-dasharray:2 4")
	for s, space := range v.spaces {
		fmt.Fprintf(out, "  class ns%d space\n", s)
		if len(space.open) > 0 {
			fmt.Fprintf(out, "  class open%d open\n", s)
		}
	}
}

func mermaidLines(lines []string) string {
	var escaped []string
	for _, line := range lines {
		escaped = append(escaped, mermaidText(line))
	}
	return strings.Join(escaped, "<br/>")
}

// mermaidText writes every character that Mermaid, its Markdown or HTML could take for more than a character as an
// entity of Mermaid's own (#35; and the like).
func mermaidText(s string) string {
	var out strings.Builder
	for _, r := range printable(s) {
		switch {
		case 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(" .,:/-⇢", r):
			out.WriteRune(r)
		default:
			fmt.Fprintf(&out, "#%d;", r)
		}
	}
	return out.String()
}

// WriteDOT writes a digraph for Graphviz.
func WriteDOT(w io.Writer, g Graph) error {
	v, out := newView(g), bufio.NewWriter(w)
	fmt.Fprintln(out, "digraph meshless {")
	fmt.Fprintln(out, "  rankdir=LR; compound=true; nodesep=0.25; ranksep=1.1;")
	fmt.Fprintln(out, `  fontname="Helvetica"; node [fontname="Helvetica", fontsize=11, shape=box, style="filled,rounded"]; edge [fontname="Helvetica", fontsize=10, color="#3b63c4"];`)
	node := func(indent string, i int) { fmt.Fprintf(out, "%sn%d [%s];\n", indent, i, v.dotNode(v.Nodes[i])) }
	v.writeNodes(out, node, func(s int, name string) string {
		return fmt.Sprintf("subgraph cluster_ns%d {\n    label=%s; style=\"rounded\"; color=\"#9aa4b2\";", s, dotText(name))
	}, "subgraph cluster_open%d {\n      label=\"open to the mesh\"; style=\"rounded,dashed\"; color=\"#2f8f5b\";", "}")
	v.dotEdges(out)
	fmt.Fprintln(out, "}")
	return out.Flush()
}

func (v *view) dotEdges(out io.Writer) {
	for s, space := range v.spaces {
		if len(space.open) > 0 { // Graphviz draws edges between nodes and cuts them at the cluster
			fmt.Fprintf(out, "  n%d -> n%d [label=\"any port\", lhead=cluster_open%d];\n", v.index[AnyMeshID], space.open[len(space.open)/2], s)
		}
	}
	for _, e := range v.Edges {
		fmt.Fprintf(out, "  n%d -> n%d [label=%s];\n", v.index[e.From], v.index[e.To], dotText(portsText(e.Ports)))
	}
	anywhere, ok := v.index[AnywhereID]
	if !ok {
		return
	}
	fmt.Fprintf(out, "  n%d [%s];\n", anywhere, v.dotNode(v.Nodes[anywhere]))
	for s, space := range v.spaces {
		if all := append(space.open[:len(space.open):len(space.open)], space.rest...); space.passthrough {
			fmt.Fprintf(out, "  n%d -> n%d [label=\"plaintext\", style=dashed, color=\"#c0392b\", ltail=cluster_ns%d];\n", all[len(all)/2], anywhere, s)
		}
	}
}

func (v *view) dotNode(n Node) string {
	for _, s := range styles {
		if s.name == style(n) {
			look := "filled,rounded"
			if s.dash != "" {
				look += ",dashed"
			}
			return fmt.Sprintf(`label=%s, fillcolor="%s", color="%s", fontcolor="%s", style="%s"`, dotText(v.lines(n)...), s.fill, s.line, s.text, look)
		}
	}
	return "label=" + dotText(v.lines(n)...)
}

// dotText quotes lines for DOT, where a backslash starts an escape in a label.
func dotText(lines ...string) string {
	var out []string
	for _, line := range lines {
		out = append(out, strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(printable(line)))
	}
	return `"` + strings.Join(out, `\n`) + `"`
}

// printable replaces what no name holds and no picture can show: control characters, line ends among them, and
// characters that turn the direction of text.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r < 0x20, 0x7f <= r && r <= 0x9f, r == 0x2028, r == 0x2029, 0x200e <= r && r <= 0x200f, 0x202a <= r && r <= 0x202e, 0x2066 <= r && r <= 0x2069, 0xfffe <= r && r <= 0xffff:
			return '\ufffd'
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
}
