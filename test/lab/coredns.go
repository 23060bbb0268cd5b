//go:build linux

package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

const apiAddress = "127.0.0.1:8001" // in the first node

// corefile is kubeadm's (kubernetes, cmd/kubeadm/app/phases/addons/dns/manifests.go), without what only watches. The
// denial of an address's name is kept for half a minute, as there.
const corefile = `.:53 {
	bind %s
	errors
	kubernetes cluster.local in-addr.arpa ip6.arpa {
		endpoint http://` + apiAddress + `
		pods insecure
		fallthrough in-addr.arpa ip6.arpa
		ttl 30
	}
	forward . %s
	cache 30 {
		disable success cluster.local
		disable denial cluster.local
	}
}
`

// startCoreDNS starts CoreDNS in the first node, with an API server and a name server of the world outside, which knows
// no name.
func (l *Lab) startCoreDNS() error {
	if err := l.startAPI(apiAddress); err != nil {
		return err
	}
	l.publish()
	var err error
	if l.names.servers, err = l.serveDNS(upstreamAddr, dns.HandlerFunc(denyAll)); err != nil {
		return err
	}
	root, config := filepath.Join(l.dir, "coredns"), filepath.Join(l.dir, "Corefile")
	err = os.Mkdir(root, 0o755)
	if err == nil {
		err = os.WriteFile(config, fmt.Appendf(nil, corefile, l.dns, upstreamAddr), 0o644)
	}
	if err != nil {
		return err
	}
	handle, err := unix.Dup(int(l.Node.handle))
	if err != nil {
		return err
	}
	namespace := os.NewFile(uintptr(handle), "netns")
	defer namespace.Close()
	server, err := l.startProcess("coredns", namespace, &process{
		Root: root, ReadOnlyRoot: true, Binds: map[string]string{"/coredns": l.coreDNS, "/Corefile": config, "/dev/null": "/dev/null"},
		Capabilities: []int{unix.CAP_NET_BIND_SERVICE}, Argv: []string{"/coredns", "-conf", "/Corefile"},
	})
	if err != nil {
		return err
	}
	l.tb.Cleanup(func() { // before close, since it was registered later
		server.Kill()
		if l.tb.Failed() {
			l.tb.Logf("--- CoreDNS ---\n%s", server.Log())
		}
	})
	if err := l.awaitNames(l.revision); err != nil {
		return fmt.Errorf("%w\n%s", err, server.Log())
	}
	return nil
}

// denyAll is a name server that knows nothing.
func denyAll(w dns.ResponseWriter, query *dns.Msg) {
	answer := new(dns.Msg).SetRcode(query, dns.RcodeNameError)
	answer.Ns = []dns.RR{soa(".", 300)}
	_ = w.WriteMsg(answer) // who asked asks again
}

// awaitNames waits until CoreDNS has read a revision of the cluster.
func (l *Lab) awaitNames(revision int) error {
	if l.api == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for _, name := range []string{markerService, markerSlice} {
		for {
			ips, err := resolver(l.Node.Namespace, l.dns.String()).LookupNetIP(ctx, "ip4", name+"."+markerNamespace+".svc."+clusterDomain)
			if slices.ContainsFunc(ips, func(ip netip.Addr) bool { return markerAddr(revision).Compare(ip.Unmap()) <= 0 }) {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("CoreDNS does not know revision %d: %v, %v", revision, ips, err)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	return nil
}

// resolver asks a name server from inside a namespace.
func resolver(from *Namespace, server string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return from.DialContext(ctx, network, net.JoinHostPort(server, "53"))
	}}
}
