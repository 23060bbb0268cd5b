package budget_test

import (
	"math/rand/v2"
	"testing"

	"github.com/meshless-dev/meshless/proxy/budget"
)

const mib = 1 << 20

// TestSumFits: whatever a proxy has, what it may hold fits into it.
func TestSumFits(t *testing.T) {
	random := rand.New(rand.NewPCG(15, 15))
	for range 10_000 {
		r := budget.Resources{Memory: 32*mib + random.Int64N(8<<30), Descriptors: 16 + random.IntN(1<<(1+random.IntN(20))), StandardRecords: random.IntN(4) == 0, Direct: random.IntN(4) == 0}
		b := budget.For(r)
		sum := int64(b.Connections)*b.Each.Bytes + int64(b.Park)*budget.Parked + 2*int64(b.Handshakes)*budget.Handshake + b.Buffers + int64(b.Listeners)*budget.Listener
		if sum > r.Memory && b.Connections > 64 {
			t.Fatalf("%+v: %+v takes %d", r, b, sum)
		}
		if files := b.Connections*b.Each.Files + b.Park + 4*b.Admin + b.Listeners; files > r.Descriptors && b.Connections > 1 && b.Admin > 16 {
			t.Fatalf("%+v: %+v takes %d files", r, b, files)
		}
		if 2*b.Handshakes >= b.Connections && b.Connections > 2 {
			t.Fatalf("%+v: %+v: handshakes take all places", r, b)
		}
		if b.Connections < 1 || b.Park < 1 || b.Handshakes < 1 || b.Buffers < 1 || b.Strangers() < 1 || b.Strangers() > b.Connections {
			t.Fatalf("%+v: %+v", r, b)
		}
	}
}

// TestFigures are those that the pages name.
func TestFigures(t *testing.T) {
	for memory, want := range map[int64]int{64 * mib: 2835, 128 * mib: 6931, 256 * mib: 15123, 512 * mib: 31507} {
		b := budget.For(budget.Resources{Memory: memory, Descriptors: 1 << 20})
		if b.Connections != want || b.By != "memory" {
			t.Errorf("%d MiB: %d connections by %s, want %d", memory/mib, b.Connections, b.By, want)
		}
	}
	if b := budget.For(budget.Resources{Memory: 256 * mib, Descriptors: 1024}); b.Connections != 421 || b.By != "descriptors" {
		t.Errorf("1,024 descriptors: %d connections by %s", b.Connections, b.By)
	}
	if b := budget.For(budget.Resources{Memory: 256 * mib, StandardRecords: true}); b.Connections > 4000 {
		t.Errorf("with crypto/tls's records: %d connections", b.Connections)
	}
	for memory, want := range map[int64]int{64 * mib: 341, 256 * mib: 1365, 1024 * mib: 4096} {
		if b := budget.For(budget.Resources{Memory: memory, Descriptors: 1 << 20, Direct: true}); b.Listeners != want {
			t.Errorf("%d MiB: %d listeners without redirect rules, want %d", memory/mib, b.Listeners, want)
		}
	}
	if b := budget.For(budget.Resources{Memory: 256 * mib}); b.Listeners != 0 {
		t.Errorf("%d listeners with redirect rules", b.Listeners)
	}
	if b := budget.For(budget.Resources{Machine: 16 << 30}); b.Memory != 2<<30 || b.Limited {
		t.Errorf("without a limit: %+v", b)
	}
	if b := budget.For(budget.Resources{Memory: 256 * mib, Machine: 16 << 30, SocketsCount: true}); b.Queues != 16*mib {
		t.Errorf("queues that count as the container's: %d bytes", b.Queues)
	}
	if b := budget.For(budget.Resources{Memory: 256 * mib, Machine: 16 << 30}); b.Queues != 1<<30 {
		t.Errorf("queues that are the machine's: %d bytes", b.Queues)
	}
	if b := budget.For(budget.Resources{}); b.Memory != 256*mib {
		t.Errorf("where nothing is known: %+v", b)
	}
}

// TestPool: what is taken comes back, connections leave the park alone, and each room has its part of it.
func TestPool(t *testing.T) {
	p := budget.NewPool(budget.Budget{Connections: 100, Park: 20})
	freed := 0
	in, out := p.Room(func() { freed++ }), p.Room(func() {})
	for range 100 {
		if !in.Serve(false) {
			t.Fatal("a place is missing")
		}
	}
	if in.Serve(false) || p.More(budget.OfPlaintext) || p.Free() != 0 {
		t.Error("there are more places than there are")
	}
	parked := 0
	for in.Park() {
		parked++
	}
	if parked < 10 || parked > 12 {
		t.Errorf("one room has %d of a park of 20, beside a full pool", parked)
	}
	if !out.Park() {
		t.Error("the other room has no part of the park")
	}
	out.Unpark()
	p.Give(budget.Cost{})
	if freed != 1 || !in.Serve(true) || p.Free() != 0 {
		t.Errorf("a place that came free is not taken: %d, %d free", freed, p.Free())
	}
	in.Return()
	if p.Free() != 1 {
		t.Error("a place that was returned is gone")
	}
	for range 99 {
		p.Give(budget.Cost{})
	}
	if !in.Serve(true) || !p.More(budget.OfPlaintext) {
		t.Error("no room in an empty pool")
	}
	p.Give(budget.OfPlaintext)
	for ; parked > 1; parked-- {
		in.Unpark()
	}
	if p.Free() != 100 {
		t.Errorf("%d of 100 are free in the end", p.Free())
	}
	parked = 0
	for in.Park() {
		parked++
	}
	if parked < 100 || parked > 120 {
		t.Errorf("%d can wait while nobody is served", parked)
	}
	served := 0
	for in.Serve(true) {
		served++
	}
	if served != 100 || parked-served > 20 {
		t.Errorf("of %d that waited %d are served; the park has 20", parked, served)
	}
}
