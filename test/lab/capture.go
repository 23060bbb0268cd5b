//go:build linux

package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Flow is one direction of a TCP connection.
type Flow struct{ From, To netip.AddrPort }

// tap hands on every frame that passes an interface.
type tap struct {
	fd      int
	stopped chan struct{}
	take    func(frame []byte) // the frame is only lent; one call at a time
	missed  int                // known once stopped

	until atomic.Int64 // when to stop at the latest, in nanoseconds of Unix time; 0 is not asked for yet
}

// Capture keeps what passes an interface: a pod's veth, on the node's side, or every interface of this machine.
type Capture struct {
	*tap
	streams map[Flow]*stream
	raw     [][]byte
}

// stream is the bytes of a flow in order.
type stream struct {
	// sequence number that comes next; known after the SYN, or after the first segment of a connection that is older
	// than the capture
	next    uint32
	started bool
	data    []byte
	early   map[uint32][]byte
}

// Capture starts to collect at the pod; Stop ends it. What passed before is not seen.
func (l *Lab) Capture(p *Pod) *Capture {
	l.tb.Helper()
	var fd int
	err := p.node.Do(func() (err error) { fd, err = openPacketSocket(p.veth); return err })
	if err != nil {
		l.tb.Fatalf("lab: capture at %s: %v", p.Name, err)
	}
	return newCapture(l.tb, fd)
}

// CaptureHost starts to collect at every interface of this machine's own network namespace, without a lab: bridges and
// the host's ends of the pods of a real cluster on this machine.
func CaptureHost(tb testing.TB) (*Capture, error) {
	tb.Helper()
	fd, err := openPacketSocket("")
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	return newCapture(tb, fd), nil
}

func newCapture(tb testing.TB, fd int) *Capture {
	c := &Capture{streams: map[Flow]*stream{}}
	c.tap = newTap(tb, fd, c.add)
	return c
}

func newTap(tb testing.TB, fd int, take func([]byte)) *tap {
	t := &tap{fd: fd, stopped: make(chan struct{}), take: take}
	go t.collect()
	tb.Cleanup(t.Stop)
	return t
}

// openPacketSocket sees every frame of the device, or of all devices where it is empty, that the filter, if there is
// one, lets through. The kernel filters, so that what is not wanted takes no place in the queue.
func openPacketSocket(device string, filter ...bpf.Instruction) (int, error) {
	// of no protocol: nothing comes before it is filtered and bound
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var index int // 0 is every device
	if device != "" {
		var found *net.Interface
		if found, err = net.InterfaceByName(device); err == nil {
			index = found.Index
		}
	}
	if err == nil && len(filter) > 0 {
		err = attach(fd, filter)
	}
	if err == nil {
		every := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL}) // ETH_P_ALL in network order
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: every, Ifindex: index}),
		)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func attach(fd int, filter []bpf.Instruction) error {
	program, err := bpf.Assemble(filter)
	if err != nil {
		return err
	}
	raw := make([]unix.SockFilter, len(program))
	for i, p := range program {
		raw[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(raw)), Filter: &raw[0]})
}

// Stop ends it once what is under way has arrived: when nothing comes for a moment, or after 2 s. It may be called
// twice.
func (t *tap) Stop() {
	t.until.CompareAndSwap(0, time.Now().Add(2*time.Second).UnixNano())
	<-t.stopped
}

// Missed is how many frames the kernel could not hand over: with any, what was not seen may have passed all the same.
// Call it after Stop.
func (t *tap) Missed() int { return t.missed }

func (t *tap) collect() {
	defer close(t.stopped)
	defer unix.Close(t.fd)
	frame := make([]byte, 1<<17) // segments are up to 64 KiB here, since a veth does not cut them
	for {
		n, _, err := unix.Recvfrom(t.fd, frame, 0)
		if err == nil {
			t.take(frame[:n])
		}
		broken := err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
		if until := t.until.Load(); broken || until != 0 && (err != nil || time.Now().UnixNano() > until) {
			if stats, err := unix.GetsockoptTpacketStats(t.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
				t.missed = int(stats.Drops)
			}
			return
		}
	}
}

// add takes one Ethernet frame.
func (c *Capture) add(frame []byte) {
	frame = bytes.Clone(frame)
	c.raw = append(c.raw, frame)
	flow, segment, ok := parse(frame)
	if !ok {
		return
	}
	s := c.streams[flow]
	if s == nil || segment.begins(s) {
		s = &stream{early: map[uint32][]byte{}}
		c.streams[flow] = s
	}
	s.add(segment, func(data []byte) { s.data = append(s.data, data...) })
}

// segment is one TCP segment.
type segment struct {
	sequence uint32
	syn      bool
	payload  []byte
}

// begins tells whether the segment begins a new connection on the ports of an older stream.
func (t segment) begins(s *stream) bool { return t.syn && t.sequence+1 != s.next }

// parse finds the TCP segment of an IPv4 or IPv6 frame.
func parse(frame []byte) (Flow, segment, bool) {
	if len(frame) < 14+20+20 {
		return Flow{}, segment{}, false
	}
	packet := frame[14:]
	var from, to netip.Addr
	var tcp []byte
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		header, total := int(packet[0]&15)*4, int(binary.BigEndian.Uint16(packet[2:]))
		if packet[9] != unix.IPPROTO_TCP || total > len(packet) || header+20 > total {
			return Flow{}, segment{}, false
		}
		from, to, tcp = netip.AddrFrom4([4]byte(packet[12:])), netip.AddrFrom4([4]byte(packet[16:])), packet[header:total]
	case unix.ETH_P_IPV6:
		if len(packet) < 60 || packet[6] != unix.IPPROTO_TCP {
			return Flow{}, segment{}, false
		}
		from, to, tcp = netip.AddrFrom16([16]byte(packet[8:])), netip.AddrFrom16([16]byte(packet[24:])), packet[40:]
	default:
		return Flow{}, segment{}, false
	}
	header := int(tcp[12]>>4) * 4
	if header > len(tcp) {
		return Flow{}, segment{}, false
	}
	flow := Flow{netip.AddrPortFrom(from, binary.BigEndian.Uint16(tcp)), netip.AddrPortFrom(to, binary.BigEndian.Uint16(tcp[2:]))}
	return flow, segment{binary.BigEndian.Uint32(tcp[4:]), tcp[13]&0x02 != 0, tcp[header:]}, true
}

// add delivers the bytes of a segment in their order; repeated ones are dropped, early ones wait. The payload is only
// lent.
func (s *stream) add(t segment, deliver func([]byte)) {
	if t.syn && !s.started {
		s.started, s.next = true, t.sequence+1
		return
	}
	if len(t.payload) == 0 {
		return
	}
	if !s.started {
		s.started, s.next = true, t.sequence
	}
	if t.sequence == s.next && len(s.early) == 0 {
		deliver(t.payload)
		s.next += uint32(len(t.payload))
		return
	}
	s.early[t.sequence] = bytes.Clone(t.payload)
	for moved := true; moved; {
		moved = false
		for at, segment := range s.early {
			behind := int32(s.next - at)
			if behind < 0 {
				continue
			}
			delete(s.early, at)
			if int(behind) < len(segment) {
				deliver(segment[behind:])
				s.next = at + uint32(len(segment))
				moved = true
			}
		}
	}
}

// Contains tells whether the bytes passed in the clear: in one frame, or across the segments of a stream. Call it after
// Stop.
func (c *Capture) Contains(plain []byte) bool {
	return len(c.Carriers(plain)) > 0 || slices.ContainsFunc(c.raw, func(frame []byte) bool { return bytes.Contains(frame, plain) })
}

// Carriers are the flows that carried the bytes in the clear. Call it after Stop.
func (c *Capture) Carriers(plain []byte) []Flow {
	var flows []Flow
	for flow, s := range c.streams {
		if bytes.Contains(s.data, plain) {
			flows = append(flows, flow)
		}
	}
	return flows
}

// Frames is how many frames were seen.
func (c *Capture) Frames() int { return len(c.raw) }

// Streams are the flows from a TCP port that carried data, of the family or of both (0). Call it after Stop.
func (c *Capture) Streams(fromPort uint16, ofFamily int) map[Flow][]byte {
	found := map[Flow][]byte{}
	for flow, s := range c.streams {
		if flow.From.Port() == fromPort && len(s.data) > 0 && (ofFamily == 0 || ofFamily == family(flow.From.Addr())) {
			found[flow] = s.data
		}
	}
	return found
}
