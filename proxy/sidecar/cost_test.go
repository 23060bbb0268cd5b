package sidecar

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/budget"
	"github.com/meshless-dev/meshless/test/program"
)

// What a connection costs both proxies together, guarded without a clock: figures of memory and counts are the same on
// every machine. Each bound is about a quarter above what was measured with go1.26 on amd64; who raises one says why.
const (
	maxIdleBytes           = 2 * (budget.Connection - 7600) // as the budget takes it, with two sockets of the kernel
	maxConnectionAllocs    = 1800
	maxAllocsPerMiB        = 30
	maxSystemCallsPerMiB   = 160
	costConnections        = 200
	costMiB                = 64
	costDirect             = "direct"
	costThroughBothProxies = "through both proxies"
)

// memory is what lives on the heap and on stacks.
func memory() uint64 {
	for range 3 { // pools empty at the second collection, stacks shrink at each
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

func allocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// systemCalls are those of this process that read and write.
func systemCalls(t *testing.T) (n int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		program.Missing(t, "the counters of the kernel for a process: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		var name string
		var count int
		if _, err := fmt.Sscanf(line, "%s %d", &name, &count); err == nil && (name == "syscr:" || name == "syscw:") {
			n += count
		}
	}
	return n
}

// quiet keeps out of the figures what is not the connections'.
func quiet(t *testing.T) {
	skipUnderRace(t)
	pollInterval = time.Hour
	t.Cleanup(func() { pollInterval = 50 * time.Millisecond })
}

// TestIdleConnectionCost measures connections that have carried data and are idle, and takes off what client and app
// themselves cost.
func TestIdleConnectionCost(t *testing.T) {
	slow(t)
	quiet(t)
	m := startMesh(t, echo)
	cost := func(addr string) float64 {
		before := memory()
		connections := make([]*net.TCPConn, costConnections)
		for i := range connections {
			connections[i] = dial(t, addr)
			if err := roundTrip(connections[i], "x"); err != nil {
				t.Fatal(err)
			}
		}
		defer func() {
			for _, c := range connections {
				c.Close()
			}
		}()
		return (float64(memory()) - float64(before)) / costConnections
	}
	_ = cost(m.client.outboundAddr()) // what is made once, such as metrics
	eventually(t, "the connections end", func() bool { return m.server.inbound.Active() == 0 && m.client.outbound.Active() == 0 })
	direct := cost(m.app.String())
	both := cost(m.client.outboundAddr())
	t.Logf("an idle connection costs %.1f KiB %s, %.1f KiB %s", direct/1024, costDirect, both/1024, costThroughBothProxies)
	if got := both - direct; got > maxIdleBytes {
		t.Errorf("both proxies hold %.1f KiB for an idle connection, at most %.1f KiB are meant", got/1024, float64(maxIdleBytes)/1024)
	}
}

// TestConnectionAllocations counts what a connection with one small exchange leaves for the collector.
func TestConnectionAllocations(t *testing.T) {
	quiet(t)
	m := startMesh(t, echo)
	exchanges := func() {
		for range costConnections {
			m.client.mustExchange(t, "x")
		}
	}
	exchanges()
	before := allocs()
	exchanges()
	got := float64(allocs()-before) / costConnections
	t.Logf("%.0f allocations a connection", got)
	if got > maxConnectionAllocs {
		t.Errorf("a connection through both proxies makes %.0f allocations, at most %d are meant", got, maxConnectionAllocs)
	}
}

// TestBulkCost counts allocations and system calls of a transfer, those of client and app among them.
func TestBulkCost(t *testing.T) {
	quiet(t)
	m := startMesh(t, func(c *net.TCPConn) { // an app that reads as fast as it can
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 256<<10))
	})
	c := dial(t, m.client.outboundAddr())
	chunk := make([]byte, 1<<20)
	send := func(n int) {
		for range n {
			if _, err := c.Write(chunk); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(costMiB / 4)
	allocsBefore, callsBefore := allocs(), systemCalls(t)
	send(costMiB)
	allocsPerMiB, callsPerMiB := float64(allocs()-allocsBefore)/costMiB, float64(systemCalls(t)-callsBefore)/costMiB
	t.Logf("%.1f allocations and %.1f system calls a MiB", allocsPerMiB, callsPerMiB)
	if allocsPerMiB > maxAllocsPerMiB {
		t.Errorf("a MiB makes %.0f allocations, at most %d are meant", allocsPerMiB, maxAllocsPerMiB)
	}
	if callsPerMiB > maxSystemCallsPerMiB {
		t.Errorf("a MiB takes %.0f system calls, at most %d are meant", callsPerMiB, maxSystemCallsPerMiB)
	}
}
