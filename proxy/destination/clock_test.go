package destination_test

import (
	"testing"
	"time"
	"unsafe"

	"github.com/meshless-dev/meshless/proxy/destination"
)

// jump sets the wall clock as somebody sets a node's: the monotonic clock does not follow. A time.Time has both, and
// nothing but its fields can part them.
func (a *asker) jump(d time.Duration) {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.now
	const nanosecondBits = 30 // of the field wall, below the seconds (time.Time)
	wall := (*uint64)(unsafe.Pointer(&a.now))
	*wall += uint64(int64(d/time.Second)) << nanosecondBits
	if got := a.now.Round(0).Sub(before.Round(0)); got != d {
		a.t.Fatalf("the wall clock jumped by %s, want %s", got, d)
	}
	if got := a.now.Sub(before); got != 0 {
		a.t.Fatalf("the monotonic clock jumped by %s", got)
	}
}

// TestWallClockJumps: what DNS said holds as long as before when the node's clock is set forward or back. What was of
// the mesh does not become plaintext by it, and nothing is kept for longer.
func TestWallClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(jump.String(), func(t *testing.T) {
			z := startZone(t, ptr1, a1)
			a := newAsker(t, z)
			a.want(testMesh(), webPod+":80", destination.Mesh, "web", "web-canary")
			a.queries(2, "first")
			a.jump(jump)
			a.want(testMesh(), webPod+":80", destination.Mesh, "web", "web-canary")
			a.queries(0, "after the jump, within the TTL")
			a.after(5001 * time.Millisecond)
			a.want(testMesh(), webPod+":80", destination.Mesh, "web", "web-canary")
			a.queries(2, "after the TTL")
			leave(z)
			a.jump(-jump)
			a.after(9 * time.Minute)
			a.want(testMesh(), webPod+":80", destination.Mesh, "web", "web-canary")
			a.after(2 * time.Minute)
			a.want(testMesh(), webPod+":80", destination.Unknown)
		})
	}
}
