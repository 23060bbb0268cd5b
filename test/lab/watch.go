//go:build linux

package lab

import "bytes"

// Watch looks at all that passes an interface and keeps little of it: which marks passed in the clear, and how each
// stream began. So it can stand beside gigabytes.
type Watch struct {
	*tap
	mark    Mark
	streams map[Flow]*watched
	marks   map[string]bool
}

// Mark is how a mark looks: a prefix, and so many bytes behind it that tell one from another. Together they are shorter
// than 128 bytes.
type Mark struct {
	Prefix string
	Rest   int
}

// watched is one direction of a TCP connection.
type watched struct {
	stream
	head []byte // its beginning
	tail []byte // its latest bytes, one too few for a mark
}

// headSize is enough for a ServerHello with a post-quantum key share.
const headSize = 2 << 10

// maxEarly is how many segments may wait for one that comes late. A stream with more has lost one (see Missed); its
// frames are still looked at one by one.
const maxEarly = 4096

// Watch starts to look at the pod's cable; Stop ends it. What passed before is not seen.
func (l *Lab) Watch(p *Pod, mark Mark) *Watch {
	l.tb.Helper()
	return l.watch(p.node, p.veth, mark)
}

// WatchBetween starts to look at the cable between two nodes.
func (l *Lab) WatchBetween(a, b *Node, mark Mark) *Watch {
	l.tb.Helper()
	return l.watch(a, cableTo(b), mark)
}

func (l *Lab) watch(n *Node, device string, mark Mark) *Watch {
	l.tb.Helper()
	var fd int
	err := n.Do(func() (err error) { fd, err = openPacketSocket(device); return err })
	if err != nil {
		l.tb.Fatalf("lab: watch %s: %v", device, err)
	}
	w := &Watch{mark: mark, streams: map[Flow]*watched{}, marks: map[string]bool{}}
	w.tap = newTap(l.tb, fd, w.add)
	return w
}

// add takes one Ethernet frame.
func (w *Watch) add(frame []byte) {
	w.scan(frame)
	flow, segment, ok := parse(frame)
	if !ok {
		return
	}
	s := w.streams[flow]
	if s == nil || segment.begins(&s.stream) {
		s = &watched{stream: stream{early: map[uint32][]byte{}}}
		w.streams[flow] = s
	}
	s.add(segment, func(data []byte) { w.follow(s, data) })
	if len(s.early) > maxEarly {
		s.started = false
		clear(s.early)
	}
}

// follow takes the bytes of a stream in their order. A mark that lies whole in a frame has been seen; here are those
// that lie across two or more.
func (w *Watch) follow(s *watched, data []byte) {
	s.head = append(s.head, data[:min(len(data), headSize-len(s.head))]...)
	reach := len(w.mark.Prefix) + w.mark.Rest - 1
	w.scan(append(s.tail, data[:min(len(data), reach)]...))
	if len(data) < reach {
		data = append(s.tail, data...)
	}
	s.tail = append(s.tail[:0:0], data[max(0, len(data)-reach):]...)
}

func (w *Watch) scan(data []byte) {
	prefix := []byte(w.mark.Prefix)
	for {
		at := bytes.Index(data, prefix)
		if at < 0 || len(data) < at+len(prefix)+w.mark.Rest {
			return
		}
		w.marks[string(data[at:at+len(prefix)+w.mark.Rest])] = true
		data = data[at+len(prefix)+w.mark.Rest:]
	}
}

// Saw tells whether a mark, prefix and rest, passed in the clear. Call it, and what follows, after Stop.
func (w *Watch) Saw(mark string) bool { return w.marks[mark] }

// Marks is how many marks passed in the clear.
func (w *Watch) Marks() int { return len(w.marks) }

// Heads are the first bytes, up to 2 KiB, of the flows from a TCP port that carried data.
func (w *Watch) Heads(fromPort uint16) map[Flow][]byte {
	found := map[Flow][]byte{}
	for flow, s := range w.streams {
		if flow.From.Port() == fromPort && len(s.head) > 0 {
			found[flow] = s.head
		}
	}
	return found
}

// Touched tells whether any segment from or to a TCP port passed.
func (w *Watch) Touched(port uint16) bool {
	for flow := range w.streams {
		if flow.From.Port() == port || flow.To.Port() == port {
			return true
		}
	}
	return false
}
