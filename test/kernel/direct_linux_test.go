package kernel

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/test/app/talk"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
)

// directField is a running world of pods with and without redirect rules.
type directField struct {
	*lab.Lab
	family  int // of all that DNS tells
	servers map[form]*lab.Pod
	clients map[form]*lab.Pod
	peers   []*lab.Pod
	api     *lab.Pod
	modes   *lab.Pod // one port of each mode
	inside  *lab.Pod // its app listens on 127.0.0.1
	legacy  *lab.Pod
	watches map[*lab.Pod]*lab.Watch
}

// TestDirect holds every pattern of traffic between pods of which one at least has no redirect rules: both directions,
// through a clusterIP and at the pod. Each is mutual TLS with the right peer, judged by what both halves, the wires and
// the proxies saw.
func TestDirect(t *testing.T) { testDirect(t, 4) }

// TestDirect6 is TestDirect where DNS tells addresses of IPv6 alone. Apps without redirect rules get one of IPv4 all
// the same, as their pod has one.
func TestDirect6(t *testing.T) { testDirect(t, 6) }

func testDirect(t *testing.T, family int) {
	f := startDirect(t, family)
	cells := directCells()
	results := f.run(t, cells)
	reports := f.settle(t, cells, results)
	for _, c := range cells {
		t.Run(c.String(), func(t *testing.T) { f.judge(t, c, results[c], reports[c.port]) })
	}
	t.Run("peers by name", f.testPeers)
	t.Run("no privilege", f.testPrivilege)
	t.Run("the app looks up names", f.testApp)
	t.Run("names without an answer", f.testNoAnswer)
	t.Run("a literal address", f.testLiteral)
	t.Run("strangers", f.testStrangers)
	t.Run("modes of ports", f.testModes)
	t.Run("an app within the pod", f.testInside)
	f.judgeWires(t, cells)
	t.Run("outside of the mesh", f.testOutside) // the control: it is on the wire
}

// startDirect renders the workloads and starts them.
func startDirect(t *testing.T, family int) *directField {
	t.Helper()
	f := &directField{Lab: lab.NewMeshless(t, nil), family: family, servers: map[form]*lab.Pod{}, clients: map[form]*lab.Pod{}, watches: map[*lab.Pod]*lab.Watch{}}
	f.OnlyFamily(family)
	pkg := example.Copy(t, "../../examples/pod")
	applyPackage(t, f.Lab, pkg, directManifests())
	if err := f.Apply(parse(t, directStrangers())); err != nil {
		t.Fatal(err)
	}
	var requests []lab.PodRequest
	for _, r := range forms {
		requests = append(requests, lab.PodRequest{Workload: "Deployment/data/" + string(r)}, lab.PodRequest{Workload: "Deployment/shop/" + string(r) + "-client"})
	}
	requests = append(requests, lab.PodRequest{Workload: "StatefulSet/data/peers"}, lab.PodRequest{Workload: "StatefulSet/data/peers", PodOptions: lab.PodOptions{Ordinal: 1}},
		lab.PodRequest{Workload: "Deployment/data/db"}, lab.PodRequest{Workload: "Deployment/legacy/legacy"},
		lab.PodRequest{Workload: "Deployment/data/modes"}, lab.PodRequest{Workload: "Deployment/data/inside"})
	pods := f.StartAll(requests...)
	for i, r := range forms {
		f.servers[r], f.clients[r] = pods[2*i], pods[2*i+1]
	}
	rest := pods[2*len(forms):]
	f.peers, f.legacy, f.modes, f.inside = rest[:2], rest[3], rest[4], rest[5]
	f.api = f.StartPod("Deployment/shop/api") // whose readiness depends on the db
	for _, p := range append(pods, f.api) {
		f.watches[p] = f.Watch(p, lab.Mark{Prefix: talk.MarkPrefix, Rest: talk.MarkRest})
	}
	return f
}

// lookup is the one address that a name has for a pod. A pod without redirect rules has one of IPv4.
func (f *directField) lookup(ctx context.Context, p *lab.Pod, r form, name string) (netip.Addr, error) {
	family := f.family
	if r == direct {
		family = 4
	}
	ips, err := p.Lookup(ctx, name+".svc.cluster.local", family)
	if err == nil && len(ips) != 1 {
		err = fmt.Errorf("%s has the addresses %v, want one", name, ips)
	}
	if err != nil {
		return netip.Addr{}, err
	}
	if ip := ips[0].Unmap(); ip.IsLoopback() == (r == direct) {
		return ip, nil
	}
	return netip.Addr{}, fmt.Errorf("%s has the address %s", name, ips[0])
}

func (f *directField) run(t *testing.T, cells []directCell) map[directCell]result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	results := map[directCell]result{}
	var mu sync.Mutex // guards results
	var all sync.WaitGroup
	slots := make(chan struct{}, 4)
	for _, c := range cells {
		all.Go(func() {
			if c.pattern != talk.LongIdle {
				slots <- struct{}{}
				defer func() { <-slots }()
			}
			name, port := c.service()
			r := f.converse(ctx, f.clients[c.client], c.client, name+"."+dataNamespace, port, c.port)
			mu.Lock()
			defer mu.Unlock()
			results[c] = r
		})
	}
	all.Wait()
	return results
}

// converse looks a name up, dials, and holds the client's half of a conversation.
func (f *directField) converse(ctx context.Context, p *lab.Pod, r form, name string, port uint16, mark int) result {
	ip, err := f.lookup(ctx, p, r, name)
	if err != nil {
		return result{err: err}
	}
	conn, err := p.DialContext(ctx, "tcp", netip.AddrPortFrom(ip, port).String())
	if err != nil {
		return result{err: err}
	}
	received, err := talk.Client(conn.(*net.TCPConn), mark)
	return result{received, err}
}

// settle waits until the servers have reported all conversations, or long enough.
func (f *directField) settle(t *testing.T, cells []directCell, results map[directCell]result) map[int][]talk.Report {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		reports, missing := map[int][]talk.Report{}, 0
		for _, r := range forms {
			for line := range strings.Lines(f.servers[r].Container("app").Log()) {
				var report talk.Report
				if json.Unmarshal([]byte(line), &report) == nil {
					reports[report.Port] = append(reports[report.Port], report)
				}
			}
		}
		for _, c := range cells {
			if results[c].err == nil && len(reports[c.port]) < 2 {
				missing++
			}
		}
		if missing == 0 || time.Now().After(deadline) {
			return reports
		}
	}
}

// judge wants both halves to be well, once; the app to see whom it must; and the server's proxy to know the client.
func (f *directField) judge(t *testing.T, c directCell, r result, reports []talk.Report) {
	if r.err != nil {
		t.Errorf("client: after %d bytes: %v", r.received, r.err)
	}
	if len(reports) != 2 || reports[0].Ended || !reports[1].Ended || reports[1].Error != "" || reports[1].Received == 0 {
		t.Fatalf("the server reports %+v, want one connection that comes and ends", reports)
	}
	peer, err := netip.ParseAddrPort(reports[1].Peer)
	if err != nil {
		t.Fatal(err)
	}
	server := f.servers[c.server]
	want := netip.PrefixFrom(server.IP(f.family), server.IP(f.family).BitLen()) // the pod's own address
	if c.server == ruled {
		want = clientaddr.Default.Of(server.IP(f.family))
	}
	if got := peer.Addr().Unmap(); !want.Contains(got) {
		t.Errorf("the app's peer is %s, want %s", got, want)
	}
	f.wantIdentity(t, server, c.port, "spiffe://cluster.local/ns/shop/deployment/"+string(c.client)+"-client")
}

// wantIdentity wants a server's proxy to log a connection to a port of its app, by mutual TLS with a client.
func (f *directField) wantIdentity(t *testing.T, server *lab.Pod, port int, client string) {
	t.Helper()
	type inbound struct {
		Direction, Dst, Security string
		Client                   string `json:"src_identity"`
	}
	var seen []inbound
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		seen = nil
		for line := range strings.Lines(server.Container(api.ProxyName).Log()) {
			var c inbound
			if json.Unmarshal([]byte(line), &c) == nil && c.Direction == "inbound" && strings.HasSuffix(c.Dst, fmt.Sprintf(":%d", port)) {
				if seen = append(seen, c); c.Security == "mutual_tls" && c.Client == client {
					return
				}
			}
		}
	}
	t.Errorf("the server's proxy logs %+v for port %d, want mutual_tls with %s", seen, port, client)
}

// serveTalk holds the server's half of the conversations of peers at the pod's own address, as an app does that is not
// to take the proxy's ports.
func (f *directField) serveTalk(t *testing.T, p *lab.Pod) (reports func() []error) {
	t.Helper()
	var mu sync.Mutex // guards ended
	var ended []error
	for _, pattern := range talk.Patterns {
		port := firstPeer + int(pattern)
		var listener net.Listener
		address := netip.AddrPortFrom(p.IP(f.family), uint16(port)).String()
		if err := p.NS.Do(func() (err error) { listener, err = net.Listen("tcp", address); return err }); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return // closed
				}
				go func() {
					_, err := talk.Server(conn.(*net.TCPConn), port)
					mu.Lock()
					defer mu.Unlock()
					ended = append(ended, err)
				}()
			}
		}()
	}
	return func() []error {
		mu.Lock()
		defer mu.Unlock()
		return append([]error{}, ended...)
	}
}

// testPeers: the pods of a StatefulSet talk by name to each other and to themselves, on the port that all of them have.
func (f *directField) testPeers(t *testing.T) {
	reports := []func() []error{f.serveTalk(t, f.peers[0]), f.serveTalk(t, f.peers[1])}
	var all sync.WaitGroup
	for from, p := range f.peers {
		for to := range f.peers {
			for _, pattern := range []talk.Pattern{talk.ServerFirst, talk.ClientHalfClose, talk.LargeTransfer} {
				all.Go(func() {
					port := firstPeer + int(pattern)
					name := fmt.Sprintf("peers-%d.peers.%s", to, dataNamespace)
					if r := f.converse(t.Context(), p, direct, name, uint16(port), port); r.err != nil {
						t.Errorf("peers-%d to peers-%d, %s: after %d bytes: %v", from, to, pattern, r.received, r.err)
					}
				})
			}
		}
	}
	all.Wait()
	for i, p := range f.peers {
		for deadline := time.Now().Add(10 * time.Second); len(reports[i]()) < 6 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		}
		if ended := reports[i](); len(ended) != 6 || errors.Join(ended...) != nil {
			t.Errorf("%s has held %d conversations: %v", p.Name, len(ended), errors.Join(ended...))
		}
		f.wantIdentity(t, p, firstPeer, "spiffe://cluster.local/ns/data/statefulset/peers")
	}
}

// testPrivilege: neither program of the mesh has a capability or can get one, and init says what is not protected.
func (f *directField) testPrivilege(t *testing.T) {
	proxy := f.clients[direct].Container(api.ProxyName)
	for key, want := range map[string]string{"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapBnd": "0000000000000000", "CapAmb": "0000000000000000",
		"NoNewPrivs": "1", "Uid": "15000\t15000\t15000\t15000"} {
		if got, err := proxy.Status(key); err != nil || got != want {
			t.Errorf("%s is %q (%v), want %q", key, got, err, want)
		}
	}
	log := f.clients[direct].Container(api.InitName).Log()
	for _, want := range []string{"This pod has no redirect rules", "\tnameserver 127.0.0.53\n", "\nNOT protected:\n", "literal address"} {
		if !strings.Contains(log, want) {
			t.Errorf("init does not say %q:\n%s", want, log)
		}
	}
	if log := f.clients[ruled].Container(api.InitName).Log(); strings.Contains(log, "no redirect rules") || !strings.Contains(log, "chain guard") {
		t.Errorf("the control: the other pod's init says\n%s", log)
	}
}

// testApp: an app reads its resolv.conf, with the search domains that the kubelet wrote, and reaches its database; it
// is reached, and nothing of that is on a wire.
func (f *directField) testApp(t *testing.T) {
	const order = talk.MarkPrefix + "00042"
	url := "http://" + netip.AddrPortFrom(f.ServiceIP(shopNamespace, "api", f.family), 80).String() + "/orders"
	response, err := f.clients[ruled].HTTP().Post(url, "text/plain", strings.NewReader(order))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("the api answers %s, %q (%v)", response.Status, body, err)
	}
	f.wantIdentity(t, f.api, 8080, "spiffe://cluster.local/ns/shop/deployment/ruled-client")
}

// testNoAnswer: a name whose pods the proxy cannot stand for has no address at all, and the log says why.
func (f *directField) testNoAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		pod  *lab.Pod
		says string // in the proxy's log
	}{
		"unshown." + dataNamespace:    {f.clients[direct], "spec.redirect.services"},
		"direct-all." + dataNamespace: {f.servers[direct], "let it listen on the pod's address"}, // whose app listens there on every address
	} {
		for _, family := range []int{4, 6} {
			if ips, err := c.pod.Lookup(t.Context(), name+".svc.cluster.local", family); err == nil {
				t.Errorf("%s has the addresses %v", name, ips)
			}
		}
		proxy := c.pod.Container(api.ProxyName)
		for deadline := time.Now().Add(5 * time.Second); !strings.Contains(proxy.Log(), c.says); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("%s: the proxy's log does not say %q", name, c.says)
				break
			}
		}
	}
}

// testLiteral: what is dialed without a name passes the proxy by, and a server of the mesh refuses it.
func (f *directField) testLiteral(t *testing.T) {
	for _, r := range forms {
		answer, err := readFrom(t, f.clients[direct], netip.AddrPortFrom(f.servers[r].IP(f.family), directPortOf(r, firstDirectOf(r))))
		lab.WantRefused(t, "who dials "+string(r)+" by address", answer, err)
	}
}

// testStrangers: who is not in the mesh is refused through Services and at the direct port.
func (f *directField) testStrangers(t *testing.T) {
	port := uint16(firstDirectOf(direct))
	for _, to := range []netip.AddrPort{
		netip.AddrPortFrom(f.ServiceIP(dataNamespace, string(direct), f.family), port+viaService),
		netip.AddrPortFrom(f.servers[direct].IP(f.family), api.DirectPort(port)),
	} {
		answer, err := readFrom(t, f.legacy, to)
		lab.WantRefused(t, "a stranger at "+to.String(), answer, err)
	}
}

// testModes: a Permissive port takes both, an excluded one leads past the proxy, and a Strict one is for the mesh.
func (f *directField) testModes(t *testing.T) {
	for _, c := range []struct {
		from     *lab.Pod
		form     form
		port     uint16
		served   bool
		identity string // as the server's proxy logs it, or "" where it sees nothing or takes plaintext
	}{
		{f.legacy, ruled, 81, true, ""}, {f.legacy, ruled, 82, true, ""}, {f.legacy, ruled, 83, false, ""},
		{f.clients[ruled], ruled, 81, true, "ruled-client"}, {f.clients[ruled], ruled, 82, true, ""}, {f.clients[ruled], ruled, 83, true, "ruled-client"},
		{f.clients[direct], direct, 81, true, "direct-client"}, {f.clients[direct], direct, 82, true, ""}, {f.clients[direct], direct, 83, true, "direct-client"},
	} {
		ip, err := f.lookup(t.Context(), c.from, c.form, "modes."+dataNamespace)
		if err != nil {
			t.Fatal(err)
		}
		response, err := c.from.HTTP().Get("http://" + netip.AddrPortFrom(ip, c.port).String() + "/healthz")
		if err == nil {
			response.Body.Close()
		}
		if served := err == nil && response.StatusCode == http.StatusOK; served != c.served {
			t.Errorf("%s at port %d: %v, want served: %v", c.from.Name, c.port, err, c.served)
		}
		if c.identity != "" {
			f.wantIdentity(t, f.modes, 8000+int(c.port), "spiffe://cluster.local/ns/shop/deployment/"+c.identity)
		}
	}
}

// testInside: who is in the mesh reaches an app that listens on 127.0.0.1, and nobody else does, whatever NetworkPolicy
// there is.
func (f *directField) testInside(t *testing.T) {
	for _, r := range forms {
		ip, err := f.lookup(t.Context(), f.clients[r], r, "inside."+dataNamespace)
		if err != nil {
			t.Fatal(err)
		}
		if answer, err := readFrom(t, f.clients[r], netip.AddrPortFrom(ip, 5432)); err != nil || answer != "+ shop db, ready\n" {
			t.Errorf("%s: %q, %v", r, answer, err)
		}
		f.wantIdentity(t, f.inside, 5432, "spiffe://cluster.local/ns/shop/deployment/"+string(r)+"-client")
	}
	for _, port := range []uint16{5432, api.DirectPort(5432)} {
		answer, err := readFrom(t, f.legacy, netip.AddrPortFrom(f.inside.IP(f.family), port))
		lab.WantRefused(t, fmt.Sprintf("a stranger at port %d", port), answer, err)
	}
}

// firstDirectOf is a port of a server that greets who connects, through the clusterIP.
func firstDirectOf(r form) int {
	for _, c := range directCells() {
		if c.server == r && !c.headless && c.pattern == talk.ServerFirst {
			return c.port
		}
	}
	return 0
}

// directPortOf is where a server's proxy takes what is for a port of its app.
func directPortOf(r form, port int) uint16 {
	if r == direct {
		return api.DirectPort(uint16(port))
	}
	return uint16(port)
}

// readFrom is what a server says first to a pod, whatever network the pod has.
func readFrom(t *testing.T, p *lab.Pod, to netip.AddrPort) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := p.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "HELO a stranger\n"); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err == io.EOF && answer == "" {
		return "", err
	}
	return answer, err
}

// judgeWires wants no mark of all that was said on any wire, and TLS where the cells were.
func (f *directField) judgeWires(t *testing.T, cells []directCell) {
	t.Helper()
	for p, w := range f.watches {
		if w.Stop(); w.Missed() > 0 {
			t.Errorf("%d frames at %s were not seen", w.Missed(), p.Name)
		}
		if w.Marks() > 0 {
			t.Errorf("%d marks passed in the clear at %s", w.Marks(), p.Name)
		}
	}
	for _, c := range cells {
		streams := f.watches[f.servers[c.server]].Heads(directPortOf(c.server, c.port))
		if len(streams) == 0 {
			t.Errorf("%s: no stream at the server's wire", c)
		}
		for flow, sent := range streams {
			hello, err := lab.ParseServerHello(sent)
			if want := (lab.ServerHello{Version: 0x0304, Group: 0x11ec}); err != nil || hello != want || flow.From.Addr().Is4() != (f.family == 4) {
				t.Errorf("%s: %v: ServerHello is %x (%v), want %x over IPv%d", c, flow, hello, err, want, f.family)
			}
		}
	}
}

// testOutside: a name outside of the mesh has its own address, and what is said there is plaintext as without a mesh.
func (f *directField) testOutside(t *testing.T) {
	p, port := f.clients[direct], firstLegacy
	w := f.Watch(p, lab.Mark{Prefix: talk.MarkPrefix, Rest: talk.MarkRest})
	ips, err := p.Lookup(t.Context(), "legacy.legacy.svc.cluster.local", f.family)
	if err != nil || len(ips) != 1 || ips[0].Unmap() != f.ServiceIP("legacy", "legacy", f.family) {
		t.Fatalf("the name has the addresses %v (%v)", ips, err)
	}
	conn, err := p.DialContext(t.Context(), "tcp", netip.AddrPortFrom(ips[0].Unmap(), uint16(port)).String())
	if err != nil {
		t.Fatal(err)
	}
	if received, err := talk.Client(conn.(*net.TCPConn), port); err != nil {
		t.Errorf("after %d bytes: %v", received, err)
	}
	if w.Stop(); !w.Saw(talk.Mark(port)) {
		t.Error("the mark is not on the wire")
	}
}
