package lab_test

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/lab"
)

// put stores an order in the db at the address, byte by byte, as an app of the pod would.
func put(t *testing.T, from *lab.Pod, to netip.Addr, order string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	conn, err := from.DialContext(ctx, "tcp", netip.AddrPortFrom(to, 5432).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	in := bufio.NewReader(conn)
	if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, "shop db") {
		t.Fatalf("db greets with %q, %v", line, err)
	}
	for _, letter := range []byte("PUT " + order + "\n") {
		if _, err := conn.Write([]byte{letter}); err != nil {
			t.Fatal(err)
		}
	}
	if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "+ ") {
		t.Errorf("PUT %s: %q, %v", order, line, err)
	}
}

// Pods on two nodes reach each other by Service, by name and by pod address, and a pod reaches itself through its own
// Service; the watches see which way it went.
func TestTwoNodes(t *testing.T) {
	l, db, client := startPlain(t)
	second := l.AddNode() // later than the first pods, which it must know all the same
	apply(t, l, strings.NewReplacer("name: db, namespace", "name: far, namespace", "app: db", "app: far", "clusterIP: None, ", "").Replace(manifests))
	far := l.StartPodOn(second, "StatefulSet/plain/far")
	mark := lab.Mark{Prefix: "order-", Rest: 2}
	between, atFar, atDB := l.WatchBetween(l.Node, second, mark), l.Watch(far, mark), l.Watch(db, mark)
	for _, family := range []int{4, 6} {
		vip := l.ServiceIP("plain", "far", family)
		if ips, err := client.Lookup(t.Context(), "far.plain.svc.cluster.local", family); err != nil || len(ips) != 1 || ips[0].Unmap() != vip {
			t.Errorf("far has the addresses %v, %v, want %s", ips, err, vip)
		}
		put(t, client, vip, fmt.Sprintf("order-a%d", family))           // to the other node
		put(t, far, db.IP(family), fmt.Sprintf("order-b%d", family))    // and from there
		put(t, far, vip, fmt.Sprintf("order-c%d", family))              // to itself, by the wire
		put(t, client, db.IP(family), fmt.Sprintf("order-d%d", family)) // within the first node
		put(t, far, loopback(family), fmt.Sprintf("order-e%d", family)) // within the pod
		put(t, far, far.IP(family), fmt.Sprintf("order-e%d", 1+family)) // the same
	}
	for _, w := range []*lab.Watch{between, atFar, atDB} {
		w.Stop()
		if w.Missed() > 0 {
			t.Errorf("%d frames were not seen", w.Missed())
		}
	}
	for name, watch := range map[string]struct {
		*lab.Watch
		saw string
	}{"the nodes": {between, "ab"}, "far": {atFar, "abc"}, "db": {atDB, "bd"}} {
		for _, letter := range "abcde" {
			for _, family := range []int{4, 6} {
				order := fmt.Sprintf("order-%c%d", letter, family)
				if want := strings.ContainsRune(watch.saw, letter); watch.Saw(order) != want {
					t.Errorf("%s seen at %s: %v, want %v", order, name, !want, want)
				}
			}
		}
		if watch.Marks() != 2*len(watch.saw) || !watch.Touched(5432) || watch.Touched(5433) {
			t.Errorf("%s: %d marks, port 5432 %v, port 5433 %v", name, watch.Marks(), watch.Touched(5432), watch.Touched(5433))
		}
		for flow, head := range watch.Heads(5432) {
			if !strings.Contains(string(head), "shop db") {
				t.Errorf("%s: %v begins with %q", name, flow, head)
			}
		}
	}
	if err := far.Probe(t.Context(), "db", "readinessProbe"); err != nil {
		t.Errorf("far is not ready: %v", err)
	}
}

func loopback(family int) netip.Addr {
	if family == 4 {
		return netip.MustParseAddr("127.0.0.1")
	}
	return netip.IPv6Loopback()
}
