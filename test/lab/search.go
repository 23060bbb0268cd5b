//go:build linux

package lab

import (
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/net/bpf"
)

// Search looks at every frame of this machine's interfaces but the loopback one, where the node's own processes talk,
// for texts that lie whole in a frame, as a small request does. It keeps only who carried them, so it can stand beside
// a machine at work for minutes, where a Capture keeps all.
type Search struct {
	*tap
	texts [][]byte

	// Known after Stop.
	Frames int                       // looked at
	Seen   map[string]map[string]int // by text: from where to where, how often
	First  map[string]string         // by text: the first frame with it
}

// SearchHost starts to look for the texts; Stop ends it. It needs root.
func SearchHost(tb testing.TB, texts ...string) *Search {
	tb.Helper()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		tb.Fatal(err)
	}
	fd, err := openPacketSocket("",
		bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(lo.Index), SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 18}, // the whole frame
		bpf.RetConstant{Val: 0},
	)
	if err != nil {
		tb.Fatalf("lab: listen to this machine, as root: %v", err)
	}
	s := &Search{Seen: map[string]map[string]int{}, First: map[string]string{}}
	for _, text := range texts {
		s.texts, s.Seen[text] = append(s.texts, []byte(text)), map[string]int{}
	}
	s.tap = newTap(tb, fd, s.look)
	return s
}

func (s *Search) look(frame []byte) {
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

// way is from where to where a frame goes. The port of the sender is left out, since it is another for each connection.
func way(frame []byte) string {
	if flow, _, ok := parse(frame); ok {
		return fmt.Sprintf("%s to %s", flow.From.Addr(), flow.To)
	}
	return fmt.Sprintf("a frame that begins with % x", frame[:min(len(frame), 40)])
}
