package stage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Wire looks for marks in the packets of this machine's interfaces, all but the loopback: bridges, and the node's ends of the pods' cables. It keeps
// nothing, so it can stand beside whatever else the machine does. A mark must lie within one segment.
type Wire struct {
	fd      int
	marks   [][]byte
	stop    atomic.Bool
	stopped chan struct{}

	// Known after Stop.
	Seen   int            // frames of TCP
	Missed int            // frames that the kernel could not hand over
	Found  map[string]int // frames by the mark that they carry, to or from the addresses of Pods
	pods   map[netip.Addr]bool
}

// WatchWire starts to look for marks, in what pods with the addresses send or get.
func WatchWire(t *testing.T, pods []netip.Addr, marks ...string) *Wire {
	t.Helper()
	w := &Wire{stopped: make(chan struct{}), Found: map[string]int{}, pods: map[netip.Addr]bool{}}
	for _, ip := range pods {
		w.pods[ip] = true
	}
	for _, mark := range marks {
		w.marks = append(w.marks, []byte(mark))
	}
	every := int(binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL})) // ETH_P_ALL in network order
	var err error
	// Of protocol 0, a packet socket gets nothing yet: the filter is there before the first frame.
	if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatalf("capture: %v", err)
	}
	err = errors.Join(
		unix.SetsockoptSockFprog(w.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, notLoopback()),
		unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
		unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}),
		unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: uint16(every)}),
	)
	if err != nil {
		unix.Close(w.fd)
		t.Fatalf("capture: %v", err)
	}
	go w.look()
	t.Cleanup(w.Stop)
	return w
}

// notLoopback keeps out the loopback, interface 1 of every network namespace: API server and etcd talk there, and the tests of others.
func notLoopback() *unix.SockFprog {
	const interfaceIndex = 0xfffff000 + 8 // SKF_AD_OFF + SKF_AD_IFINDEX
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: interfaceIndex},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 1, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 18},
	}
	return &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
}

// Stop ends the capture after what is under way has arrived. It may be called twice.
func (w *Wire) Stop() {
	w.stop.Store(true)
	<-w.stopped
}

func (w *Wire) look() {
	defer close(w.stopped)
	defer unix.Close(w.fd)
	frame := make([]byte, 1<<18)
	for {
		n, _, err := unix.Recvfrom(w.fd, frame, 0)
		if err == nil {
			w.take(frame[:n])
			continue
		}
		again := errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)
		if w.stop.Load() || !again {
			if stats, err := unix.GetsockoptTpacketStats(w.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
				w.Missed = int(stats.Drops)
			}
			return
		}
	}
}

// take looks into one frame of Ethernet with TCP over IPv4 or IPv6.
func (w *Wire) take(frame []byte) {
	if len(frame) < 14+20 {
		return
	}
	packet := frame[14:]
	var from, to netip.Addr
	var protocol byte
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		from, to, protocol = netip.AddrFrom4([4]byte(packet[12:])), netip.AddrFrom4([4]byte(packet[16:])), packet[9]
	case unix.ETH_P_IPV6:
		if len(packet) < 40 {
			return
		}
		from, to, protocol = netip.AddrFrom16([16]byte(packet[8:])), netip.AddrFrom16([16]byte(packet[24:])), packet[6]
	}
	if protocol != unix.IPPROTO_TCP {
		return
	}
	w.Seen++
	if !w.pods[from] && !w.pods[to] {
		return
	}
	for _, mark := range w.marks {
		if bytes.Contains(packet, mark) {
			w.Found[string(mark)]++
		}
	}
}
