//go:build linux

package relay_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/relay"
)

func hostileDescriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestStress hammers tunnels with everything that ends a connection, at once and at any moment: every session ends
// exactly once, and nothing is left.
func TestStress(t *testing.T) {
	ts := newTunnels(t)
	runtime.GC()
	beforeGoroutines := runtime.NumGoroutine()
	beforeFD := hostileDescriptors(t)
	duration := 12 * time.Second
	if testing.Short() {
		duration = 2 * time.Second
	}
	stop := time.Now().Add(duration)
	var all sync.WaitGroup
	var mu sync.Mutex
	rounds, causes := 0, map[string]int{}
	for worker := range uint64(12) {
		all.Go(func() {
			random := mathrand.New(mathrand.NewPCG(worker, 7))
			for time.Now().Before(stop) {
				results := hostileRound(t, ts, random)
				mu.Lock()
				rounds++
				for _, r := range results {
					causes[fmt.Sprint(r.Err)]++
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	t.Logf("%d rounds: %v", rounds, causes)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		runtime.GC()
		g, fd := runtime.NumGoroutine(), hostileDescriptors(t)
		if g <= beforeGoroutines && fd <= beforeFD {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("goroutines %d, then %d; descriptors %d, then %d", beforeGoroutines, g, beforeFD, fd)
		}
	}
}

func hostileRound(t *testing.T, ts *tunnels, random *mathrand.Rand) []relay.Result {
	tn := ts.openAfter(t, 0, func(near, far *net.TCPConn) {
		_ = near.SetReadBuffer(4096)
		_ = far.SetReadBuffer(4096)
	})
	defer tn.near.Close()
	defer tn.far.Close()
	var acts sync.WaitGroup
	ends := []*net.TCPConn{tn.near, tn.far}
	for i, c := range ends {
		n, delay, how, reads := random.IntN(1<<random.IntN(22))+1, time.Duration(random.IntN(4000))*time.Microsecond, random.IntN(4), random.IntN(3)
		acts.Go(func() {
			piece := make([]byte, n)
			_, _ = rand.Read(piece[:min(n, 64)])
			_, _ = c.Write(piece)
			time.Sleep(delay)
			switch how {
			case 0:
				_ = c.SetLinger(0)
				_ = c.Close()
			case 1:
				_ = c.CloseWrite()
			case 2:
				_ = c.Close()
			}
		})
		if reads > 0 {
			acts.Go(func() { _, _ = io.CopyN(io.Discard, ends[1-i], int64(n)) })
		}
	}
	for _, s := range []*relay.Session{tn.ours, tn.theirs} {
		delay, times := time.Duration(random.IntN(4000))*time.Microsecond, random.IntN(3)
		acts.Go(func() {
			for range 3 {
				_ = s.Unresponsive()
			}
			time.Sleep(delay)
			for range times {
				s.Abort(errors.New("abort"))
			}
			_ = s.Unresponsive()
		})
	}
	time.Sleep(time.Duration(random.IntN(8)) * time.Millisecond)
	tn.ours.Abort(errors.New("last"))
	tn.theirs.Abort(errors.New("last"))
	results := tn.wantEnds(t)
	_ = tn.near.Close()
	_ = tn.far.Close()
	acts.Wait()
	select {
	case r := <-tn.ends:
		t.Errorf("a session has ended twice: %+v", r)
	default:
	}
	return results
}
