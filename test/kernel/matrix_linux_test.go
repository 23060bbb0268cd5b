package kernel

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/app/talk"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
)

// field is the running matrix: two nodes, with pods that are dialed from the first.
type field struct {
	*lab.Lab
	second   *lab.Node
	dialers  map[side]*lab.Pod
	services map[side]*lab.Pod // behind the ClusterIP Service, on the second node
	stateful map[side]*lab.Pod // behind the headless Service, on the first
	watches  map[*lab.Pod]*lab.Watch
	between  *lab.Watch // the cable between the nodes
}

// TestMatrix holds every conversation of the matrix at once, as far as two cores go, and then judges each by what its
// two halves, the wires, and the proxies saw of it.
func TestMatrix(t *testing.T) {
	f := startField(t)
	cells := matrix()
	began := time.Now()
	results := f.run(t, cells)
	seen := f.settle(t, cells, results)
	t.Logf("%d cells took %s", len(results), time.Since(began).Round(time.Second))
	f.stopWatches(t)
	judged := 0
	for _, c := range cells {
		if r, ok := results[c.port]; ok {
			judged++
			t.Run(c.String(), func(t *testing.T) { f.judge(t, c, r, seen) })
		}
	}
	if judged == 0 || judged != len(cells) {
		t.Errorf("%d of %d cells were run", judged, len(cells))
	}
}

// startField renders the workloads and starts them.
func startField(t *testing.T) *field {
	t.Helper()
	f := &field{Lab: lab.NewMeshless(t, nil), dialers: map[side]*lab.Pod{}, services: map[side]*lab.Pod{}, stateful: map[side]*lab.Pod{}, watches: map[*lab.Pod]*lab.Watch{}}
	f.second = f.AddNode()
	pkg := example.Copy(t, "../../examples/pod")
	pkg.Edit(t, "pod.yaml", func(string) string { return matrixManifests(matrix()) })
	pkg.Issue(t, time.Now())
	if err := f.Apply(parse(t, pkg.Render(t)+"\n---\n"+pkg.IdentitySecret("matrix"))); err != nil {
		t.Fatal(err)
	}
	for _, s := range []side{captured, plain} {
		f.dialers[s] = f.StartPod("Deployment/matrix/" + s.String() + "-client")
		f.services[s] = f.StartPodOn(f.second, "Deployment/matrix/"+s.String())
		f.stateful[s] = f.StartPod("StatefulSet/matrix/" + s.String() + "-set")
	}
	for _, p := range f.pods() {
		if injected := p.Container(api.ProxyName) != nil; injected != strings.HasPrefix(p.Name, captured.String()) {
			t.Fatalf("%s has a proxy: %v", p.Name, injected)
		}
		f.watches[p] = f.Watch(p, lab.Mark{Prefix: talk.MarkPrefix, Rest: talk.MarkRest})
	}
	f.between = f.WatchBetween(f.Node, f.second, lab.Mark{Prefix: talk.MarkPrefix, Rest: talk.MarkRest})
	return f
}

func (f *field) pods() (pods []*lab.Pod) {
	for _, s := range []side{captured, plain} {
		pods = append(pods, f.dialers[s], f.services[s], f.stateful[s])
	}
	return pods
}

// server is the pod that a cell is about.
func (f *field) server(c cell) *lab.Pod {
	if c.kind == headless {
		return f.stateful[c.mode.side()]
	}
	return f.services[c.mode.side()]
}

// dialer is the pod that opens the connection.
func (f *field) dialer(c cell) *lab.Pod {
	if c.kind.self() {
		return f.server(c)
	}
	return f.dialers[c.client]
}

// target is the address that a cell dials, by name where a program would use one.
func (f *field) target(ctx context.Context, c cell) (netip.Addr, error) {
	name := c.mode.side().String()
	switch c.kind {
	case localhost:
		return map[int]netip.Addr{4: netip.MustParseAddr("127.0.0.1"), 6: netip.IPv6Loopback()}[c.family], nil
	case podIP, ownIP:
		return f.server(c).IP(c.family), nil
	case headless:
		name += "-set"
	}
	ips, err := f.dialer(c).Lookup(ctx, name+".matrix.svc.cluster.local", c.family)
	if err == nil && len(ips) != 1 {
		err = fmt.Errorf("%s has the addresses %v, want one", name, ips)
	}
	if err != nil {
		return netip.Addr{}, err
	}
	return ips[0].Unmap(), nil
}

// result is what a cell's client saw.
type result struct {
	received int64
	err      error
}

// run holds all conversations: four at a time that work, and all of those that wait.
func (f *field) run(t *testing.T, cells []cell) map[int]result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	results := map[int]result{}
	var mu sync.Mutex // guards results
	var all sync.WaitGroup
	slots := make(chan struct{}, 4)
	for _, c := range cells {
		all.Go(func() {
			if !c.patient() {
				slots <- struct{}{}
				defer func() { <-slots }()
			}
			r := f.converse(ctx, c)
			mu.Lock()
			defer mu.Unlock()
			results[c.port] = r
		})
	}
	all.Wait()
	return results
}

func (f *field) converse(ctx context.Context, c cell) result {
	ip, err := f.target(ctx, c)
	if err != nil {
		return result{err: err}
	}
	conn, err := f.dialer(c).DialContext(ctx, "tcp", netip.AddrPortFrom(ip, uint16(c.port)).String())
	if err != nil {
		return result{err: err}
	}
	received, err := talk.Client(conn.(*net.TCPConn), c.port)
	return result{received, err}
}

// sightings are what servers and proxies wrote down, by port.
type sightings struct {
	reports map[int][]talk.Report
	proxies map[*lab.Pod]string // access logs
}

// settle waits until servers and proxies have written down all that the judges want, or long enough: what then is
// missing fails its cells.
func (f *field) settle(t *testing.T, cells []cell, results map[int]result) sightings {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		seen := f.look(t)
		missing := 0
		for _, c := range cells {
			if r := results[c.port]; r.err == nil && (len(seen.reports[c.port]) < 2 || f.wantsLog(c) && !seen.logged(f.dialer(c), c.port)) {
				missing++
			}
		}
		if missing == 0 || time.Now().After(deadline) {
			return seen
		}
	}
}

func (f *field) look(t *testing.T) sightings {
	t.Helper()
	seen := sightings{map[int][]talk.Report{}, map[*lab.Pod]string{}}
	for _, p := range f.pods() {
		for line := range strings.Lines(p.Container(talkApp).Log()) {
			var r talk.Report
			if err := json.Unmarshal([]byte(line), &r); err != nil && strings.HasSuffix(line, "\n") {
				t.Fatalf("%s: %q is no report: %v", p.Name, line, err)
			}
			seen.reports[r.Port] = append(seen.reports[r.Port], r)
		}
		if proxy := p.Container(api.ProxyName); proxy != nil {
			seen.proxies[p] = proxy.Log()
		}
	}
	return seen
}

// wantsLog tells whether the proxy of the cell's client carries the connection.
func (f *field) wantsLog(c cell) bool { return c.client == captured && c.expect() != local }

// logged tells whether the pod's proxy has written a line about a connection to the port.
func (s sightings) logged(p *lab.Pod, port int) bool {
	return strings.Contains(s.proxies[p], fmt.Sprintf(":%d\"", port))
}

func (f *field) stopWatches(t *testing.T) {
	t.Helper()
	f.between.Stop()
	for p, w := range f.watches {
		w.Stop()
		if w.Missed() > 0 {
			t.Errorf("%d frames at %s were not seen: what is not on its wire is not known", w.Missed(), p.Name)
		}
	}
	if f.between.Missed() > 0 {
		t.Errorf("%d frames between the nodes were not seen", f.between.Missed())
	}
}
