package sidecar

import (
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// startClusterDNS is a DNS server of a cluster that answers for the pod 10.1.0.9 while known is set, and for nothing of
// the cluster where denies is.
func startClusterDNS(t *testing.T, denies bool) (addr netip.AddrPort, known *atomic.Bool) {
	t.Helper()
	packets, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	known = new(atomic.Bool)
	server := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		switch name := q.Question[0].Name; {
		case name == "kubernetes.default.svc.cluster.local." && !denies && q.Question[0].Qtype == dns.TypeA:
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(10, 96, 0, 1)}}
		case name == "10-1-0-9.meshless-members-test.prod.svc.cluster.local." && known.Load():
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(10, 1, 0, 9)}}
		default:
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	})}
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go func() { _ = server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = server.Shutdown() })
	return netip.MustParseAddrPort(packets.LocalAddr().String()), known
}

// startAwaiting starts a sidecar that waits for its name.
func startAwaiting(t *testing.T, server netip.AddrPort) (*Sidecar, *logBuffer) {
	t.Helper()
	ca, directory, logs := testca.New(t, proxytest.TrustDomain), t.TempDir(), &logBuffer{}
	workload(t, ca, "client").Sealed(t).Publish(t, directory)
	o := testOptions(clientIP, directory, netip.AddrPort{})
	o.AwaitName, o.NameServers, o.Log = true, []netip.AddrPort{server}, slog.New(slog.NewJSONHandler(logs, nil))
	o.PodAddresses = func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("10.1.0.9")} }
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	t.Cleanup(func() { s.Shutdown(); <-done })
	return s, logs
}

// TestReadyOnceDNSKnowsThePod: the app starts when others can find that the pod is of the mesh.
func TestReadyOnceDNSKnowsThePod(t *testing.T) {
	server, known := startClusterDNS(t, false)
	s, _ := startAwaiting(t, server)
	eventually(t, "everything but the name is there", func() bool {
		err := s.Ready()
		return err != nil && strings.Contains(err.Error(), "DNS does not know this pod")
	})
	known.Store(true)
	eventually(t, "it is ready", func() bool { return s.Ready() == nil })
}

// TestReadyWithoutACluster: there is nothing to wait for.
func TestReadyWithoutACluster(t *testing.T) {
	server, _ := startClusterDNS(t, true)
	begun := time.Now()
	s, _ := startAwaiting(t, server)
	eventually(t, "it is ready", func() bool { return s.Ready() == nil })
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestReadyAlthoughDNSNeverKnowsThePod: the wait ends, and the log says that others may not find the pod.
func TestReadyAlthoughDNSNeverKnowsThePod(t *testing.T) {
	slow(t)
	server, _ := startClusterDNS(t, false)
	s, logs := startAwaiting(t, server)
	for deadline := time.Now().Add(2 * nameTimeout); s.Ready() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is never ready")
		}
	}
	if !strings.Contains(logs.String(), `"msg":"DNS does not know this pod yet, going on"`) || !strings.Contains(logs.String(), "meshless-members-test") {
		t.Errorf("the log: %s", logs)
	}
}
