package graph

import (
	"cmp"
	"math"
	"slices"
)

// Measures of the picture, in pixels.
const (
	boxWidth  = 226.0
	boxPad    = 12.0
	gap       = 14.0  // between boxes
	gutter    = 132.0 // between columns, where edges bend
	lane      = 12.0  // height of an edge that passes a column
	header    = 30.0  // of a namespace
	openHead  = 24.0  // of the box of open workloads
	margin    = 28.0
	titleHigh = 64.0
	titleLine = 18.0
	textLine  = 15.0
	doorHigh  = 19.0 // of the tab with the ports of incoming edges
)

// box is a rectangle of the picture: a node, or the place where an edge passes a column.
type box struct {
	node       int // -1 for a lane
	col, space int
	x, y, w, h float64
	order      float64 // where it would like its center to be
	name       string  // breaks ties
	talks      bool
	entered    bool // from the right, by an edge that runs backward
}

func (b *box) center() float64 { return b.y + b.h/2 }

// route is an edge as it is drawn: through the boxes that it passes, from left to right.
type route struct {
	edge     Edge
	path     []*box
	backward bool // it runs against the columns: an edge that closes a circle
}

// frame is a rectangle around others.
type frame struct{ x, y, w, h float64 }

// layout places everything. Columns are depths of calls: sources that are in no manifest, then what the whole mesh may
// call and who is called by nobody in particular, then who is called by those. Rows are namespaces. Edges bend between
// columns only, and pass a column in a lane of their own, so that none runs through a box.
type layout struct {
	*view
	boxes         map[int]*box   // by node
	doorsOf       map[string]int // sets of ports on which edges arrive, by ID
	routes        []*route
	cells         map[[2]int][]*box // by namespace and column; lanes included, without the second column
	frames, opens []frame           // of namespaces, and of the open workloads in them
	columns       int
	sub           int // boxes that stand side by side in the second column
	left          []float64
	anywhere      *box
	w, h          float64
}

func newLayout(v *view) *layout {
	l := &layout{view: v, boxes: map[int]*box{}, doorsOf: map[string]int{}, cells: map[[2]int][]*box{}}
	l.makeBoxes()
	l.makeColumns()
	l.makeRoutes()
	l.measure()
	for range 4 { // each round places by where the last one has put the neighbors
		l.place()
	}
	l.placeSources()
	return l
}

func (l *layout) makeBoxes() {
	talks := map[string]bool{}
	seen := map[[2]string]bool{}
	for _, e := range l.Edges {
		talks[e.From] = true
		if key := [2]string{e.To, e.Ports.String()}; !seen[key] {
			seen[key] = true
			l.doorsOf[e.To]++
		}
	}
	for s, space := range l.spaces {
		for _, i := range append(space.open[:len(space.open):len(space.open)], space.rest...) {
			n := l.Nodes[i]
			l.boxes[i] = &box{node: i, space: s, col: 1, w: boxWidth, h: l.high(n), name: n.ID, talks: talks[n.ID]}
		}
	}
	for i, n := range l.Nodes {
		if l.boxes[i] == nil {
			l.boxes[i] = &box{node: i, space: -1, w: boxWidth, h: l.high(n), name: n.ID, talks: true}
		}
	}
	if i, ok := l.index[AnywhereID]; ok {
		l.anywhere = l.boxes[i]
	}
}

// high is the height of a node with all its lines and doors.
func (l *layout) high(n Node) float64 {
	lines := min(len(n.Services), maxServices+1) + len(l.facts(n))
	if n.Kind != "" {
		lines++
	}
	return max(2*boxPad+titleLine+float64(lines)*textLine-4, float64(l.doorsOf[n.ID])*(doorHigh+4)+34)
}

// makeColumns puts every node one column behind the last of its callers. Edges that close a circle do not count.
func (l *layout) makeColumns() {
	callers := map[int][]int{}
	for _, e := range l.Edges {
		callers[l.index[e.To]] = append(callers[l.index[e.To]], l.index[e.From])
	}
	const unknown, open = 0, 1 // of state; 2 is done
	state := make([]int, len(l.Nodes))
	var visit func(i int)
	visit = func(i int) {
		state[i] = open
		for _, c := range callers[i] {
			if state[c] == unknown {
				visit(c)
			}
			if state[c] != open && l.boxes[i].space >= 0 {
				l.boxes[i].col = max(l.boxes[i].col, l.boxes[c].col+1)
			}
		}
		state[i] = 2
	}
	for i := range l.Nodes {
		if state[i] == unknown {
			visit(i)
		}
	}
	for _, b := range l.boxes {
		l.columns = max(l.columns, b.col+1)
	}
	l.columns = max(l.columns, 2)
}

// makeRoutes gives every edge its lanes, in the row of its target.
func (l *layout) makeRoutes() {
	for _, b := range l.boxes {
		if b.space >= 0 {
			l.cells[[2]int{b.space, b.col}] = append(l.cells[[2]int{b.space, b.col}], b)
		}
	}
	for _, e := range l.Edges {
		from, to := l.boxes[l.index[e.From]], l.boxes[l.index[e.To]]
		r := &route{edge: e, backward: from.col >= to.col}
		if r.backward {
			from, to = to, from
		}
		r.path = []*box{from}
		for col := from.col + 1; col < to.col; col++ {
			b := &box{node: -1, col: col, space: to.space, h: lane, name: e.From + " " + e.To}
			key := [2]int{to.space, col}
			l.cells[key] = append(l.cells[key], b)
			r.path = append(r.path, b)
		}
		r.path = append(r.path, to)
		l.routes = append(l.routes, r)
	}
	for _, cell := range l.cells {
		slices.SortFunc(cell, func(a, b *box) int { return cmp.Compare(a.name, b.name) })
	}
}

// measure fixes the columns and how many boxes the second one holds side by side.
func (l *layout) measure() {
	silent := 0
	for s := range l.spaces {
		count, talkers := 0, 0
		for _, b := range l.cells[[2]int{s, 1}] {
			switch {
			case b.node >= 0 && b.talks:
				talkers = 1
			case b.node >= 0:
				count++
			}
		}
		silent = max(silent, talkers+gridWidth(count, talkers == 1))
	}
	l.sub = max(silent, 1)
	x := margin
	hasSources := len(l.sources()) > 0 || l.anyone() >= 0
	if hasSources {
		x += boxWidth + gutter - 30
	}
	l.left = []float64{margin, x}
	x += l.subWidth() + gutter
	for range l.columns - 2 {
		l.left = append(l.left, x)
		x += boxWidth + gutter
	}
	l.w = x - gutter + margin + gap
}

// gridWidth is how many silent workloads stand side by side.
func gridWidth(n int, besideTalkers bool) int {
	switch {
	case n == 0 || n <= 2 && besideTalkers:
		return 0
	case n <= 3:
		return 1
	case n <= 8:
		return 2
	case n <= 18:
		return 3
	}
	return min(4+n/40, 8)
}

func (l *layout) subWidth() float64 { return float64(l.sub)*(boxWidth+gap) - gap + 2*gap }

// place puts the rows below each other and everything into its row.
func (l *layout) place() {
	l.frames, l.opens = nil, nil
	l.wish()
	y := margin + titleHigh
	for s := range l.spaces {
		top := y + header
		bottom := l.placeFirst(s, top)
		for col := 2; col < l.columns; col++ {
			bottom = max(bottom, top+stackHeight(l.cells[[2]int{s, col}]))
		}
		for col := 2; col < l.columns; col++ {
			l.placeStack(l.cells[[2]int{s, col}], l.left[col], top, bottom)
		}
		x := l.left[1] - gap
		l.frames = append(l.frames, frame{x, y, l.w - margin - x, bottom + gap - y})
		y = bottom + 2*gap + 6
	}
	l.h = y
}

// wish lets every box ask for the mean height of those before it in its edges, or behind it where there is none before.
func (l *layout) wish() {
	before, behind := map[*box][]float64{}, map[*box][]float64{}
	for _, r := range l.routes {
		for i, b := range r.path {
			if i > 0 {
				before[b] = append(before[b], r.path[i-1].center())
			}
			if i+1 < len(r.path) {
				behind[b] = append(behind[b], r.path[i+1].center())
			}
		}
	}
	for _, cell := range l.cells {
		for _, b := range cell {
			wishes := before[b]
			if b.col == 1 && b.node >= 0 || len(wishes) == 0 {
				wishes = behind[b]
			}
			b.order = mean(wishes, b.center())
		}
		slices.SortStableFunc(cell, func(a, b *box) int {
			return cmp.Or(cmp.Compare(math.Round(a.order), math.Round(b.order)), cmp.Compare(a.name, b.name))
		})
	}
}

func mean(values []float64, otherwise float64) float64 {
	if len(values) == 0 {
		return otherwise
	}
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// placeFirst fills the second column of a row and returns where it ends: the box of open workloads, those that sources
// outside of the manifests call, the rest, lanes.
func (l *layout) placeFirst(s int, top float64) float64 {
	var openTalkers, openSilent, entered, talkers, silent, lanes []*box
	for _, b := range l.cells[[2]int{s, 1}] {
		switch {
		case b.node < 0:
			lanes = append(lanes, b)
		case l.Nodes[b.node].Access == ByDefault && b.talks:
			openTalkers = append(openTalkers, b)
		case l.Nodes[b.node].Access == ByDefault:
			openSilent = append(openSilent, b)
		case l.Nodes[b.node].Access == ByPolicy:
			entered = append(entered, b)
		case b.talks:
			talkers = append(talkers, b)
		default:
			silent = append(silent, b)
		}
	}
	y := top
	if len(openTalkers)+len(openSilent) > 0 {
		end := l.placeGrid(openTalkers, openSilent, y+openHead)
		x := l.left[1]
		l.opens = append(l.opens, frame{x, y, l.subWidth(), end + gap - y})
		y = end + 2*gap
	} else {
		l.opens = append(l.opens, frame{})
	}
	for _, b := range entered { // nothing stands beside it, since edges come from the left and may leave to the right
		b.x, b.y = l.left[1]+gap, y
		y += b.h + gap
	}
	if len(talkers)+len(silent) > 0 {
		y = l.placeGrid(talkers, silent, y) + gap
	}
	for _, b := range lanes {
		b.x, b.w, b.y = l.left[1], l.subWidth(), y
		y += lane
	}
	return y - gap
}

// placeGrid puts boxes with edges to the right, where their edges leave, and the others beside them. It returns where
// the lowest ends.
func (l *layout) placeGrid(talkers, silent []*box, top float64) float64 {
	width := l.sub
	if len(talkers) > 0 {
		width--
	}
	slices.SortFunc(silent, func(a, b *box) int { return cmp.Compare(a.name, b.name) })
	if width == 0 {
		talkers, silent = append(talkers, silent...), nil
	}
	x := l.left[1] + gap
	bottom, y := top, top
	for start := 0; start < len(silent); start += width {
		high := 0.0
		for i, b := range silent[start:min(start+width, len(silent))] {
			b.x, b.y = x+float64(i)*(boxWidth+gap), y
			high = max(high, b.h)
		}
		bottom = y + high
		y = bottom + gap
	}
	y = top
	for _, b := range talkers {
		b.x, b.y = x+float64(l.sub-1)*(boxWidth+gap), y
		bottom = max(bottom, y+b.h)
		y += b.h + gap
	}
	return bottom
}

func stackHeight(cell []*box) float64 {
	high := -gap
	for _, b := range cell {
		high += b.h + gap
	}
	return max(high, 0)
}

// placeStack puts boxes below each other, each as near to where it would like to be as the others let it.
func (l *layout) placeStack(cell []*box, x, top, bottom float64) {
	y := top
	for _, b := range cell {
		b.x, b.w = x, boxWidth
		b.y = max(y, b.order-b.h/2)
		y = b.y + b.h + gap
	}
	for i := len(cell) - 1; i >= 0; i-- {
		b := cell[i]
		b.y = max(min(b.y, bottom-b.h), top)
		bottom = b.y - gap
	}
}

// placeSources puts what is in no manifest beside what it leads to, and the outside behind everything.
func (l *layout) placeSources() {
	var sources []*box
	if i := l.anyone(); i >= 0 {
		var targets []float64
		for _, f := range l.opens {
			if f.h > 0 {
				targets = append(targets, f.y+f.h/2)
			}
		}
		l.boxes[i].order = mean(targets, 0)
		sources = append(sources, l.boxes[i])
	}
	for _, i := range l.sources() {
		var targets []float64
		for _, r := range l.routes {
			if r.path[0].node == i {
				targets = append(targets, r.path[1].center())
			}
		}
		l.boxes[i].order = mean(targets, 0)
		sources = append(sources, l.boxes[i])
	}
	slices.SortStableFunc(sources, func(a, b *box) int { return cmp.Compare(a.order, b.order) })
	top := margin + titleHigh
	bottom := max(l.h, top+stackHeight(sources))
	l.placeStack(sources, margin, top, bottom)
	l.h = max(l.h, bottom)
	if l.anywhere != nil {
		l.anywhere.x, l.anywhere.y = l.w-margin+gutter-30, top+max(0, (l.h-top-l.anywhere.h)/2-gap)
		l.w = l.anywhere.x + boxWidth + margin
	}
}
