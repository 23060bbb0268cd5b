//go:build linux

package lab

import (
	"math"
	"testing"
)

// TestStream: the bytes of a connection in their order, however its segments arrive, and from the middle of one that is
// older than the capture: an app that keeps its connections would not be seen otherwise.
func TestStream(t *testing.T) {
	const last = math.MaxUint32
	for name, segments := range map[string][]segment{
		"in order":           {{99, true, nil}, {100, false, []byte("mar")}, {103, false, []byte("ker")}},
		"in another order":   {{99, true, nil}, {103, false, []byte("ker")}, {100, false, []byte("mar")}},
		"some of it twice":   {{99, true, nil}, {100, false, []byte("mark")}, {100, false, []byte("mar")}, {102, false, []byte("rker")}},
		"from the middle":    {{103, false, []byte("mar")}, {106, false, nil}, {106, false, []byte("ker")}},
		"over the last byte": {{last - 2, true, nil}, {last - 1, false, []byte("mar")}, {1, false, []byte("ker")}},
	} {
		t.Run(name, func(t *testing.T) {
			s := stream{early: map[uint32][]byte{}}
			var got []byte
			for _, t := range segments {
				s.add(t, func(data []byte) { got = append(got, data...) })
			}
			if string(got) != "marker" {
				t.Errorf("got %q", got)
			}
		})
	}
}
