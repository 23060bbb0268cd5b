package kernel

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
)

// reach is a running world.
type reach struct {
	*lab.Lab
	world    world
	packages map[string]*example.Example
	ca       string                // file of the shared authority, or ""
	clients  map[string]*lab.Pod   // with their maps of before
	servers  map[selector]*lab.Pod // ready
	unready  map[selector]*lab.Pod
	young    *lab.Pod // without a Service; it is made known when it is dialed
	hidden   *lab.Pod // DNS does not know it
	outside  map[string]*lab.Pod
	speaker
}

// speaker holds conversations, and sees whether they are to be read on wires.
type speaker struct {
	watches map[*lab.Pod]*lab.Watch
	marks   *atomic.Int64
}

func newSpeaker() speaker { return speaker{map[*lab.Pod]*lab.Watch{}, new(atomic.Int64)} }

const orderPrefix = "reach-order-"

// TestReach has every client of every world dial every server in every way. Each conversation is mutual TLS with the
// right peer, and nothing of it is to be read on a wire; what is not in the mesh is reached as without one.
func TestReach(t *testing.T) {
	for _, w := range worlds() {
		t.Run(w.String(), func(t *testing.T) {
			r := startReach(t, w)
			cells := w.cells()
			results := map[reachCell]*spoken{}
			for _, d := range []dial{dialUnready, dialYoung, dialPod, dialHeadless, dialVIP} {
				if d == dialYoung {
					r.young.Report()
				}
				r.runCells(t, cells, d, results)
			}
			outside := r.runOutside(t)
			hidden := r.runHidden(t)
			r.stopWatches(t)
			for _, c := range cells {
				t.Run(c.String(), func(t *testing.T) { r.judge(t, c, results[c]) })
			}
			r.judgeOutside(t, outside)
			r.judgeHidden(t, hidden)
		})
	}
}

// startReach renders the packages as they were, starts the clients, renders them as they are, and starts the servers.
func startReach(t *testing.T, w world) *reach {
	t.Helper()
	options := []lab.Option{lab.WithNetwork(networks[w.network])}
	if w.dns != "" {
		options = append(options, lab.CoreDNS(t, w.dns))
	}
	r := &reach{Lab: lab.NewMeshless(t, nil, options...), world: w, packages: map[string]*example.Example{}, clients: map[string]*lab.Pod{},
		servers: map[selector]*lab.Pod{}, unready: map[selector]*lab.Pod{}, outside: map[string]*lab.Pod{}, speaker: newSpeaker()}
	if w.shared {
		r.ca = filepath.Join(t.TempDir(), "ca.yaml")
	}
	var requests []lab.PodRequest
	for _, client := range w.clients() {
		requests = append(requests, lab.PodRequest{Workload: "Deployment/" + clientNamespace(client) + "/" + client})
	}
	r.renderAll(t, true)
	if err := r.Apply(parse(t, strangers())); err != nil {
		t.Fatal(err)
	}
	for i, p := range r.StartAll(requests...) {
		r.clients[w.clients()[i]] = p
	}
	r.renderAll(t, false)
	r.startServers(t)
	for _, pods := range []map[string]*lab.Pod{r.clients, r.outside} {
		for _, p := range pods {
			r.watch(r.Lab, p)
		}
	}
	return r
}

func (r speaker) watch(l *lab.Lab, p *lab.Pod) {
	r.watches[p] = l.Watch(p, lab.Mark{Prefix: orderPrefix, Rest: 5})
}

// renderAll issues, renders and applies every package.
func (r *reach) renderAll(t *testing.T, before bool) {
	t.Helper()
	manifests := map[string]string{"servers": r.world.serverManifests("servers", before) + clientManifests("one") + clientManifests("wide")}
	if r.world.shared {
		manifests["others"] = r.world.serverManifests("others", before)
		manifests["beside"], manifests["apart"] = clientManifests("beside"), clientManifests("apart")
	}
	for _, name := range []string{"servers", "others", "beside", "apart"} {
		if manifests[name] != "" {
			r.render(t, name, manifests[name])
		}
	}
}

func (r *reach) render(t *testing.T, name, manifests string) {
	t.Helper()
	pkg := r.packages[name]
	switch first := r.packages["servers"]; {
	case pkg != nil:
	case first == nil:
		pkg = example.Copy(t, "../../examples/pod")
		pkg.Edit(t, "mtls.yaml", func(text string) string { return text + serversConfig })
	default:
		pkg = first.Sibling(t, "../../examples/pod")
	}
	r.packages[name] = pkg
	var flags []string
	if r.ca != "" {
		flags = []string{"--ca", r.ca}
	}
	applyPackage(t, r.Lab, pkg, manifests, flags...)
}

// applyPackage issues, renders and applies a package of these manifests.
func applyPackage(t testing.TB, l *lab.Lab, pkg *example.Example, manifests string, flags ...string) {
	t.Helper()
	pkg.Write(t, "pod.yaml", manifests)
	pkg.Issue(t, time.Now(), flags...)
	applyRendered(t, l, pkg, func(rendered string) string { return rendered })
}

// applyRendered applies what a package renders, changed, and the Secrets of whoever runs the platform.
func applyRendered(t testing.TB, l *lab.Lab, pkg *example.Example, change func(string) string) {
	t.Helper()
	rendered := change(pkg.Render(t))
	for _, namespace := range []string{dataNamespace, shopNamespace, farNamespace} {
		rendered += "\n---\n" + pkg.IdentitySecret(namespace)
	}
	objects, err := lab.Parse([]byte(rendered))
	if err == nil {
		err = l.Apply(objects)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// startServers starts two pods of each server, of which one is not ready, and what is not in the mesh.
func (r *reach) startServers(t *testing.T) {
	t.Helper()
	var requests []lab.PodRequest
	for _, s := range append([]selector{noService}, selectors...) {
		workload := kindOf(s) + "/" + dataNamespace + "/" + string(s)
		requests = append(requests, lab.PodRequest{Workload: workload, PodOptions: lab.PodOptions{Labels: map[string]string{"role": "primary"}}},
			lab.PodRequest{Workload: workload, PodOptions: lab.PodOptions{Ordinal: 1, Unready: true}})
	}
	lone := "Deployment/" + dataNamespace + "/" + string(noService)
	requests = append(requests,
		lab.PodRequest{Workload: lone, PodOptions: lab.PodOptions{Ordinal: 2, Unreported: true}},
		lab.PodRequest{Workload: lone, PodOptions: lab.PodOptions{Ordinal: 3, Unreported: true}},
		lab.PodRequest{Workload: "Deployment/legacy/legacy"},
		lab.PodRequest{Workload: "Deployment/" + dataNamespace + "/stray"},
		lab.PodRequest{Workload: "Deployment/" + dataNamespace + "/optout"},
	)
	pods := r.StartAll(requests...)
	for i, s := range append([]selector{noService}, selectors...) {
		r.servers[s], r.unready[s] = pods[2*i], pods[2*i+1]
	}
	rest := pods[2*(1+len(selectors)):]
	r.young, r.hidden = rest[0], rest[1]
	r.outside["legacy"], r.outside["stray"], r.outside["optout"] = rest[2], rest[3], rest[4]
	for _, name := range []string{string(bySomebody), string(bySomebody) + "-all"} {
		r.SetEndpoints(dataNamespace, name, lab.Endpoint{Pod: r.servers[bySomebody]})
	}
	r.serveAPI(t)
}

// serveAPI stands in for the API server: a process of the node behind the Service that every cluster has.
func (r *reach) serveAPI(t *testing.T) {
	t.Helper()
	var listener net.Listener
	if err := r.Node.Do(func() (err error) { listener, err = net.Listen("tcp", ":443"); return err }); err != nil {
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
				defer conn.Close()
				line, err := bufio.NewReader(conn).ReadString('\n')
				if err == nil {
					_, _ = io.WriteString(conn, "+ "+line) // who asked sees what comes
				}
			}()
		}
	}()
	r.SetEndpoints("default", "kubernetes", lab.Endpoint{IP4: r.Node.IP(4), IP6: r.Node.IP(6)})
}

// spoken is what a client saw of a conversation.
type spoken struct {
	mark     string
	from, to string // its ends, by which its proxy's log knows it
	err      error
}

// speakTo dials, says a mark at once, as protocols do in which the client speaks first, and wants the server's greeting
// and answer.
func (r speaker) speakTo(from *lab.Pod, to netip.AddrPort) *spoken {
	s, number := r.next()
	conn, err := dialWithin(from, to, number, 15*time.Second)
	if err != nil {
		s.err = err
		return s
	}
	defer conn.Close()
	s.from, s.to = conn.LocalAddr().String(), to.String()
	if _, s.err = fmt.Fprintf(conn, "PUT %s\n", s.mark); s.err != nil {
		return s
	}
	in := bufio.NewReader(conn)
	if to.Port() == reachPort {
		if _, s.err = in.ReadString('\n'); s.err != nil {
			return s
		}
	}
	line, err := in.ReadString('\n')
	if s.err = err; err == nil && !strings.HasPrefix(line, "+ ") {
		s.err = fmt.Errorf("answer is %q", line)
	}
	return s
}

// next is a new conversation, and its number.
func (r speaker) next() (*spoken, int64) {
	number := r.marks.Add(1)
	return &spoken{mark: fmt.Sprintf("%s%05d", orderPrefix, number)}, number
}

// dialWithin opens a connection that lives no longer than the time, from a port that no other has: of two connections
// from one port, to different destinations, conntrack gives one another port on the way to the proxy, and the log tells
// that one.
func dialWithin(from *lab.Pod, to netip.AddrPort, number int64, within time.Duration) (conn net.Conn, err error) {
	family := 6
	if to.Addr().Is4() {
		family = 4
	}
	local := netip.AddrPortFrom(from.IP(family), uint16(10_000+number%20_000)) // below the ports that the kernel gives
	err = from.NS.Do(func() (err error) {
		conn, err = (&net.Dialer{Timeout: within, LocalAddr: net.TCPAddrFromAddrPort(local)}).Dial("tcp", to.String())
		return err
	})
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(within))
	}
	return conn, err
}

// pod is the one that a cell is about.
func (r *reach) pod(c reachCell) *lab.Pod {
	switch c.dial {
	case dialUnready:
		return r.unready[c.server]
	case dialYoung:
		return r.young
	}
	return r.servers[c.server]
}

func (r *reach) runCells(t *testing.T, cells []reachCell, d dial, results map[reachCell]*spoken) {
	t.Helper()
	var mu sync.Mutex // guards results
	var all sync.WaitGroup
	slots := make(chan struct{}, 8)
	for _, c := range cells {
		if c.dial != d {
			continue
		}
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			s := r.runCell(c)
			mu.Lock()
			defer mu.Unlock()
			results[c] = s
		})
	}
	all.Wait()
}

func (r *reach) runCell(c reachCell) *spoken {
	client := r.clients[c.client]
	ip := r.pod(c).IP(c.family)
	if c.dial == dialVIP || c.dial == dialHeadless {
		name := string(c.server)
		if c.dial == dialHeadless {
			name += "-all"
		}
		ips, err := client.Lookup(context.Background(), name+"."+dataNamespace+".svc.cluster.local", c.family)
		if err == nil && (len(ips) != 1 || c.dial == dialHeadless && ips[0].Unmap() != ip) {
			err = fmt.Errorf("%s has the addresses %v", name, ips)
		}
		if err != nil {
			return &spoken{err: err}
		}
		ip = ips[0].Unmap()
	}
	return r.speakTo(client, netip.AddrPortFrom(ip, reachPort))
}

func (r speaker) stopWatches(t *testing.T) {
	t.Helper()
	for p, w := range r.watches {
		if w.Stop(); w.Missed() > 0 {
			t.Errorf("%d frames at %s were not seen", w.Missed(), p.Name)
		}
	}
}

// connectionLine is what a proxy's log says of a connection.
type connectionLine struct {
	Msg, Direction, Src, Dst, Security, Reason, Error string
	Identity                                          string `json:"dst_identity"`
}

// logged is the line of the pod's proxy about a conversation of its app.
func logged(t *testing.T, p *lab.Pod, s *spoken) connectionLine {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, ok := accessLog(p)[s.from+s.to]; ok || time.Now().After(deadline) {
			return c
		}
	}
}

// accessLog is what the pod's proxy says of the connections that its app opened, by their ends. A port of the app can
// be that of several connections to different destinations.
func accessLog(p *lab.Pod) map[string]connectionLine {
	lines := map[string]connectionLine{}
	for line := range strings.Lines(p.Container(api.ProxyName).Log()) {
		var c connectionLine
		if json.Unmarshal([]byte(line), &c) == nil && c.Direction == "outbound" && c.Reason != "" {
			lines[c.Src+c.Dst] = c
		}
	}
	return lines
}
