//go:build e2e && linux

package chain

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Sniffer looks at every frame of this machine's interfaces but the loopback one, where the node's own processes talk, for texts that lie whole in a frame, as
// a request of the chain does. It keeps only what carried them: the lab's capture keeps all, too much beside a machine at work.
type Sniffer struct {
	texts [][]byte
	fd    int
	until atomic.Int64 // nanoseconds of Unix time; 0 is for ever
	ended chan struct{}

	// Known after End.
	Frames, Missed int                       // looked at; and those that the kernel could not hand over
	Seen           map[string]map[string]int // text, then from where to where, how often
	First          map[string]string         // text: the first frame with it
}

// Sniff starts to look; End ends it. It needs root.
func Sniff(t *testing.T, texts ...string) *Sniffer {
	t.Helper()
	s := &Sniffer{ended: make(chan struct{}), Seen: map[string]map[string]int{}, First: map[string]string{}}
	for _, text := range texts {
		s.texts, s.Seen[text] = append(s.texts, []byte(text)), map[string]int{}
	}
	var err error
	if s.fd, err = openSocket(); err != nil {
		t.Fatalf("listen to the pods, as root: %v", err)
	}
	go s.collect()
	t.Cleanup(s.End)
	return s
}

// openSocket filters in the kernel, so that what passes lo takes no place in the queue.
func openSocket() (int, error) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return -1, err
	}
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(lo.Index), SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 18}, // the whole frame
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return -1, err
	}
	filter := make([]unix.SockFilter, len(program))
	for i, p := range program {
		filter[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // of no protocol, until it is filtered and bound
	if err != nil {
		return -1, err
	}
	every := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL}) // ETH_P_ALL in network order
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: every}),
	)
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (s *Sniffer) collect() {
	defer close(s.ended)
	frame := make([]byte, 1<<17) // segments are up to 64 KiB, since a veth does not cut them
	for {
		n, _, err := unix.Recvfrom(s.fd, frame, 0)
		if err == nil {
			s.look(frame[:n])
		}
		broken := err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
		if until := s.until.Load(); broken || until != 0 && (err != nil || time.Now().UnixNano() > until) {
			if stats, err := unix.GetsockoptTpacketStats(s.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
				s.Missed = int(stats.Drops)
			}
			unix.Close(s.fd)
			return
		}
	}
}

func (s *Sniffer) look(frame []byte) {
	s.Frames++
	for _, text := range s.texts {
		if bytes.Contains(frame, text) {
			s.Seen[string(text)][way(frame)]++
			if s.First[string(text)] == "" {
				s.First[string(text)] = fmt.Sprintf("%s: % x", time.Now().UTC().Format(time.RFC3339Nano), frame[:min(len(frame), 80)])
			}
		}
	}
}

// way is from where to where a frame goes.
func way(frame []byte) string {
	const ethernet = 14
	if len(frame) < ethernet+20 || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IP || len(frame) < ethernet+int(frame[ethernet]&15)*4+4 {
		return fmt.Sprintf("a frame that begins with % x", frame[:min(len(frame), 40)])
	}
	ip := frame[ethernet:]
	ports := ip[int(ip[0]&15)*4:]
	from := netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:])), binary.BigEndian.Uint16(ports))
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:])), binary.BigEndian.Uint16(ports[2:]))
	return fmt.Sprintf("%s to %s", from.Addr(), to)
}

// End stops when nothing comes for a moment, or after 2 s. It may be called twice.
func (s *Sniffer) End() {
	s.until.CompareAndSwap(0, time.Now().Add(2*time.Second).UnixNano())
	<-s.ended
}
