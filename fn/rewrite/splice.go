package rewrite

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
)

// splicer collects the edits of a text. It works on whole lines, and gives up on whatever is not plain block style; the
// caller compares what comes out with what is meant.
type splicer struct {
	lines []string
	style yaml.SequenceIndentStyle
	edits []edit

	// expand writes aliases out: what an anchor names has changed.
	expand bool
}

// edit replaces the lines [from, to).
type edit struct {
	from, to int
	lines    []string
}

// splice changes in a text what differs between its value and another one.
func splice(text string, old, item *yaml.Node) (string, bool) {
	if strings.ContainsAny(text, "\r\u0085\u2028\u2029\ufeff") {
		return "", false // the parser counts more lines
	}
	for _, expand := range []bool{false, true} {
		s := &splicer{style: yaml.SequenceIndentStyle(yaml.DeriveSeqIndentStyle(text)), expand: expand}
		if after, ok := s.splice(text, old, item); ok && reads(after, item) {
			return after, true
		}
	}
	return "", false
}

func (s *splicer) splice(text string, old, item *yaml.Node) (string, bool) {
	s.lines = strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	bound := len(s.lines)
	if end := slices.Index(s.lines, "..."); end >= 0 {
		bound = end
	}
	if !s.mapping(old, item, bound) {
		return "", false
	}
	// from the last to the first; what is inserted at a line stands before what is removed there
	slices.SortStableFunc(s.edits, func(a, b edit) int {
		return cmp.Or(a.from-b.from, cmp.Compare(min(a.to-a.from, 1), min(b.to-b.from, 1)))
	})
	for _, e := range slices.Backward(s.edits) {
		if e.to > len(s.lines) || e.from > e.to {
			return "", false
		}
		s.lines = slices.Replace(s.lines, e.from, e.to, e.lines...)
	}
	return strings.Join(s.lines, "\n") + "\n", true
}

// mapping edits a mapping; false where that cannot be done line by line. Bound is the line behind all that can belong
// to it.
func (s *splicer) mapping(old, item *yaml.Node, bound int) bool {
	if !isBlock(old, yaml.MappingNode) || !isBlock(item, yaml.MappingNode) {
		return false
	}
	wanted, start := entries(item), len(s.edits)
	kept, byKey := 0, indexOf(wanted)
	for i := 0; i+1 < len(old.Content); i += 2 {
		e := byKey.find(old.Content[i])
		if e != nil || isMerge(old.Content[i]) {
			kept++
		}
		if e != nil && s.stays(old.Content[i+1], e.value) || isMerge(old.Content[i]) {
			continue
		}
		if !s.entry(old, i, e, bound) {
			s.edits = s.edits[:start]
			return false
		}
	}
	if kept == 0 || !s.insertEntries(old, wanted, bound) {
		s.edits = s.edits[:start]
		return false
	}
	return true
}

// entry changes or removes the entry at i of a mapping.
func (s *splicer) entry(old *yaml.Node, i int, wanted *entry, bound int) bool {
	key, value := old.Content[i], old.Content[i+1]
	from, indent, end := key.Line-1, key.Column-1, next(old, i+2, bound)
	if wanted != nil && (s.mapping(value, wanted.value, end) || s.sequence(value, wanted.value, end)) {
		return true
	}
	before, ok := s.before(key)
	if !ok || strings.Trim(before, " -") != "" || wanted == nil && strings.Trim(before, " ") != "" {
		return false
	}
	to := s.end(value, from, end, indent)
	if wanted == nil {
		s.edits = append(s.edits, edit{from: s.head(key, from), to: to})
		return true
	}
	lines, ok := s.encode(withoutOuterComments(pairOf(key, wanted.value)), indent)
	if !ok {
		return false
	}
	lines[0] = before + lines[0][indent:]
	s.edits = append(s.edits, edit{from, to, lines})
	return true
}

// insertEntries adds what a mapping lacks, each behind the one that it follows.
func (s *splicer) insertEntries(old *yaml.Node, wanted []entry, bound int) bool {
	there, previous := indexOf(entries(old)), -2
	own, place := &index{scalars: map[string]*entry{}}, map[*yaml.Node]int{}
	for i := 0; i+1 < len(old.Content); i += 2 {
		own.add(entry{old.Content[i], old.Content[i+1]})
		place[old.Content[i]] = i
	}
	for _, e := range wanted {
		if here := own.find(e.key); here != nil {
			previous = place[here.key]
			continue
		}
		if merged := there.find(e.key); merged != nil && same(merged.value, e.value) {
			continue
		}
		first := old.Content[0]
		indent, at := first.Column-1, first.Line-1
		if previous >= 0 {
			key := old.Content[previous]
			end := next(old, previous+2, bound)
			at = s.behind(s.end(old.Content[previous+1], key.Line-1, end, indent), end, indent, previous+2 == len(old.Content))
		} else if before, ok := s.before(first); !ok || strings.Trim(before, " ") != "" {
			return false
		}
		lines, ok := s.encode(pairOf(e.key, e.value), indent)
		if !ok {
			return false
		}
		s.edits = append(s.edits, edit{at, at, lines})
	}
	return true
}

// sequence edits a list.
func (s *splicer) sequence(old, item *yaml.Node, bound int) bool {
	if !isBlock(old, yaml.SequenceNode) || !isBlock(item, yaml.SequenceNode) || !s.plainItems(old) {
		return false
	}
	pairs := align(old.Content, item.Content)
	if len(pairs) == 0 {
		return false
	}
	start, indent := len(s.edits), old.Column-1
	i, j := 0, 0
	for _, p := range append(pairs, pair{len(old.Content), len(item.Content)}) {
		at := s.above(old.Content[0].Line - 1)
		if i > 0 {
			end := next(old, i, bound)
			at = s.behind(s.end(old.Content[i-1], old.Content[i-1].Line-1, end, indent), end, indent, i == len(old.Content))
		}
		for ; i < p.old; i++ {
			from := old.Content[i].Line - 1
			s.edits = append(s.edits, edit{from: s.head(old.Content[i], from), to: s.end(old.Content[i], from, next(old, i+1, bound), indent)})
		}
		ok := true
		for ; j < p.item && ok; j++ {
			var lines []string
			lines, ok = s.encode(node.List(item.Content[j]), indent)
			s.edits = append(s.edits, edit{at, at, lines})
		}
		if p.old < len(old.Content) && ok {
			ok = s.item(old, p.old, item.Content[p.item], bound)
		}
		if !ok {
			s.edits = s.edits[:start]
			return false
		}
		i, j = p.old+1, p.item+1
	}
	return true
}

// stays tells whether the text of a value is right as it is.
func (s *splicer) stays(old, wanted *yaml.Node) bool {
	return same(old, wanted) && !(s.expand && node.HasAlias(old))
}

// item changes one item of a list.
func (s *splicer) item(old *yaml.Node, i int, wanted *yaml.Node, bound int) bool {
	end := next(old, i+1, bound)
	if s.stays(old.Content[i], wanted) || s.mapping(old.Content[i], wanted, end) || s.sequence(old.Content[i], wanted, end) {
		return true
	}
	from := old.Content[i].Line - 1
	lines, ok := s.encode(withoutOuterComments(node.List(wanted)), old.Column-1)
	s.edits = append(s.edits, edit{from, s.end(old.Content[i], from, end, old.Column-1), lines})
	return ok
}

// plainItems tells whether each item of a list begins behind its dash, and each dash in a line of its own.
func (s *splicer) plainItems(list *yaml.Node) bool {
	dash := strings.Repeat(" ", list.Column-1) + "-"
	return !slices.ContainsFunc(list.Content, func(n *yaml.Node) bool {
		line := s.lines[n.Line-1]
		return n.Column <= list.Column || line != dash && !strings.HasPrefix(line, dash+" ")
	})
}

// encode writes a mapping or a list, indented.
func (s *splicer) encode(n *yaml.Node, indent int) ([]string, bool) {
	n = yaml.CopyYNode(n)
	node.SettleStyles(n)
	text, err := encode(n, s.style)
	if err != nil || text == "" {
		return nil, false
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, line := range lines {
		if line != "" {
			lines[i] = strings.Repeat(" ", indent) + line
		}
	}
	return lines, true
}

// keepHeader finds the header of a block scalar that keeps its last line feeds.
var keepHeader = regexp.MustCompile(`[|>][0-9]?\+[0-9]?[ \t]*(#.*)?$`)

// end is the line behind a value. Comments and empty lines that follow are not part of it, unless it is a block scalar
// and they are its text.
func (s *splicer) end(value *yaml.Node, from, bound, indent int) int {
	leaf, indent := lastLeaf(value, indent)
	end := bound
	if leaf.Kind == yaml.ScalarNode && leaf.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		for end = leaf.Line; end < bound && (s.blank(end) || s.indentOf(end) > indent); end++ {
		}
		if keepHeader.MatchString(s.lines[leaf.Line-1]) {
			return end
		}
		for end > leaf.Line && s.blank(end-1) {
			end--
		}
		return end
	}
	for end > from+1 && (s.blank(end-1) || s.comment(end-1)) {
		end--
	}
	return end
}

// lastLeaf is the last value of a node in the text, with the indentation of what holds it.
func lastLeaf(n *yaml.Node, indent int) (*yaml.Node, int) {
	for len(n.Content) > 0 && n.Style&yaml.FlowStyle == 0 {
		if n.Kind == yaml.MappingNode {
			indent = n.Content[0].Column - 1
		} else {
			indent = n.Column - 1
		}
		n = n.Content[len(n.Content)-1]
	}
	return n, indent
}

// behind steps over comments that belong to what ends at a line: those that are indented more, and behind the last of
// its siblings those that are indented as it is.
func (s *splicer) behind(end, bound, indent int, last bool) int {
	for i := end; i < bound && (s.blank(i) || s.comment(i)); i++ {
		switch in := s.indentOf(i); {
		case s.blank(i):
		case in > indent || last && in == indent:
			end = i + 1
		default:
			return end
		}
	}
	return end
}

// head is the line where the comment above a node begins, which goes with it.
func (s *splicer) head(n *yaml.Node, line int) int {
	for _, comment := range slices.Backward(strings.Split(n.HeadComment, "\n")) {
		if comment == "" || line == 0 || strings.TrimSpace(s.lines[line-1]) != comment {
			return line
		}
		line--
	}
	return line
}

// above steps back over the comments above a line.
func (s *splicer) above(line int) int {
	for line > 0 && s.comment(line-1) {
		line--
	}
	return line
}

// before is what stands in a line before a node; columns are characters, and all that is of interest has one byte each.
func (s *splicer) before(n *yaml.Node) (string, bool) {
	if line := s.lines[n.Line-1]; n.Column-1 <= len(line) {
		return line[:n.Column-1], true
	}
	return "", false
}

func (s *splicer) blank(i int) bool { return strings.TrimSpace(s.lines[i]) == "" }
func (s *splicer) comment(i int) bool {
	return strings.HasPrefix(strings.TrimLeft(s.lines[i], " \t"), "#")
}
func (s *splicer) indentOf(i int) int {
	return len(s.lines[i]) - len(strings.TrimLeft(s.lines[i], " "))
}

func isBlock(n *yaml.Node, kind yaml.Kind) bool {
	return n.Kind == kind && n.Style&yaml.FlowStyle == 0 && len(n.Content) > 0
}

// next is the line where the child at i begins, or what is behind all.
func next(n *yaml.Node, i, bound int) int {
	if i < len(n.Content) {
		return n.Content[i].Line - 1
	}
	return bound
}

// pairOf is a mapping with one entry.
func pairOf(key, value *yaml.Node) *yaml.Node {
	return &yaml.Node{Kind: yaml.MappingNode, Tag: yaml.NodeTagMap, Content: []*yaml.Node{key, value}}
}

// withoutOuterComments is a copy of a mapping or list of one value without the comments above and below it, which stand
// in the text already.
func withoutOuterComments(n *yaml.Node) *yaml.Node {
	n = yaml.CopyYNode(n)
	n.Content[0].HeadComment = ""
	if first := n.Content[0]; len(first.Content) > 0 {
		first.Content[0].HeadComment = "" // of the first key of an item
	}
	for last := n; ; last = last.Content[len(last.Content)-1] {
		last.FootComment = ""
		if len(last.Content) == 0 {
			return n
		}
		if last.Kind == yaml.MappingNode {
			last.Content[len(last.Content)-2].FootComment = ""
		}
	}
}
