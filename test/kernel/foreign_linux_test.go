package kernel

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
	"github.com/meshless-dev/meshless/test/testca"
)

// foreign is a server in the servers' namespace of which no manifest tells: an operator's, or another tool's. The proxy
// tries mutual TLS at it first, since it may be in the mesh.
type foreign struct {
	name    string
	serve   func(conn net.Conn) // after the handshake, if there is one
	tls     func(t *testing.T, f *foreigners) *tls.Config
	refused bool // else the client reaches it, as without a mesh
}

// foreigners are the running servers.
type foreigners struct {
	*lab.Lab
	speaker
	pkg    *example.Example
	leaves map[string]tls.Certificate // of the mesh, by identity
}

var foreignServers = []foreign{
	{name: "greets", serve: func(conn net.Conn) {
		_, _ = io.WriteString(conn, "220 hello\n")
		answerLine(conn)
	}},
	{name: "answers anything", serve: func(conn net.Conn) { // as HTTP servers do: 400
		buffer := make([]byte, 4096)
		n, _ := conn.Read(buffer)
		if strings.HasPrefix(string(buffer[:n]), "PUT ") {
			_, _ = fmt.Fprintf(conn, "+ %s", buffer[:n])
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
	}},
	{name: "closes on what it does not know", serve: func(conn net.Conn) {
		start := make([]byte, 4)
		if _, err := io.ReadFull(conn, start); err == nil && string(start) == "PUT " {
			_, _ = io.WriteString(conn, "+ ok\n")
		}
	}},
	{name: "resets on what it does not know", serve: func(conn net.Conn) {
		start := make([]byte, 4)
		if _, err := io.ReadFull(conn, start); err == nil && string(start) == "PUT " {
			_, _ = io.WriteString(conn, "+ ok\n")
			return
		}
		_ = conn.(*net.TCPConn).SetLinger(0)
	}},
	{name: "TLS of its own", serve: answerLine, tls: func(t *testing.T, _ *foreigners) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{webServer(t)}}
	}},
	{name: "mutual TLS of its own", serve: answerLine, tls: func(t *testing.T, _ *foreigners) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{webServer(t)}, ClientAuth: tls.RequireAnyClientCert}
	}},
	{name: "TLS 1.2 of its own", serve: answerLine, tls: func(t *testing.T, _ *foreigners) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{webServer(t)}, MaxVersion: tls.VersionTLS12}
	}},
	// who claims to be of a mesh, and is not of ours, proves nothing
	{name: "a member of another mesh", serve: answerLine, refused: true, tls: func(t *testing.T, _ *foreigners) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{testca.New(t, "other").Issue(t, "spiffe://other/server")}}
	}},
	{name: "a member of a forged authority", serve: answerLine, refused: true, tls: func(t *testing.T, _ *foreigners) *tls.Config {
		forged := testca.New(t, "cluster.local").Issue(t, "spiffe://cluster.local/ns/data/deployment/plain")
		return &tls.Config{Certificates: []tls.Certificate{forged}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"meshless/1"}}
	}},
	{name: "says nothing", refused: true, serve: func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }},
	{name: "a member of another namespace", serve: answerLine, refused: true, tls: func(_ *testing.T, f *foreigners) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{f.leaves["spiffe://cluster.local/ns/shop/deployment/wide"]}, ClientAuth: tls.RequireAnyClientCert,
			NextProtos: []string{"meshless/1"}}
	}},
}

// webServer is the certificate of a server that has nothing to do with a mesh.
func webServer(t *testing.T) tls.Certificate {
	return testca.New(t, "other").Issue(t, "spiffe://other/server", func(c *x509.Certificate) {
		c.URIs, c.DNSNames = nil, []string{"foreign.data.svc.cluster.local"}
	})
}

func answerLine(conn net.Conn) {
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && strings.HasPrefix(line, "PUT ") {
		_, _ = io.WriteString(conn, "+ ok\n")
	}
}

// TestForeignServers: servers of the own namespace that are not in the mesh are reached, whatever they make of a TLS
// handshake that they did not expect, and are not asked twice: databases lock out who fails too often. Who proves to be
// a member that may not answer gets nothing.
func TestForeignServers(t *testing.T) {
	f := &foreigners{Lab: lab.NewMeshless(t, nil, lab.CoreDNS(t, lab.CoreDNSLater)), speaker: newSpeaker(), pkg: example.Copy(t, "../../examples/pod"),
		leaves: map[string]tls.Certificate{}}
	applyPackage(t, f.Lab, f.pkg, storeWorkload("Deployment", dataNamespace, "plain", "")+clientManifests("one")+clientManifests("wide"))
	for _, secret := range parse(t, f.pkg.Render(t)).Secrets {
		if id := secret.Annotations["meshless.dev/identity"]; id != "" {
			f.leaves[id] = f.pkg.Leaf(t, secret)
		}
	}
	client := f.StartPod("Deployment/data/one")
	f.watch(f.Lab, client)
	type met struct {
		foreign
		said []*spoken
	}
	var all []met
	for i, server := range foreignServers {
		to, reached := f.start(t, i, server)
		m := met{foreign: server}
		for range 4 {
			m.said = append(m.said, f.speakForeign(client, to, server.tls != nil && !server.refused))
		}
		// who only closes is tried three times
		if n := reached.Load(); !server.refused && n > int64(len(m.said))+3 {
			t.Errorf("%s: %d connections for %d of the client: it was tried again", server.name, n, len(m.said))
		}
		all = append(all, m)
	}
	f.stopWatches(t)
	for _, m := range all {
		t.Run(m.name, func(t *testing.T) {
			for i, s := range m.said {
				switch {
				case m.refused && s.err == nil:
					t.Errorf("%d: it answered", i)
				case m.refused:
					f.wantSilence(t, s)
				case s.err != nil:
					t.Errorf("%d: %v; the proxy says %+v", i, s.err, logged(t, client, s))
				}
			}
		})
	}
}

// start starts a server behind a Service of its own, and counts who connects.
func (f *foreigners) start(t *testing.T, number int, server foreign) (netip.AddrPort, *atomic.Int64) {
	t.Helper()
	name := fmt.Sprintf("foreign-%d", number)
	pod := f.AddPod(dataNamespace, name)
	if err := f.Apply(parse(t, storeService(dataNamespace, name, "", ""))); err != nil {
		t.Fatal(err)
	}
	f.SetEndpoints(dataNamespace, name, lab.Endpoint{IP4: pod.IP4, IP6: pod.IP6})
	var listener net.Listener
	if err := pod.NS.Do(func() (err error) { listener, err = net.Listen("tcp", fmt.Sprintf(":%d", reachPort)); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	reached := new(atomic.Int64)
	var config *tls.Config
	if server.tls != nil {
		config = server.tls(t, f)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			reached.Add(1)
			go func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				if config != nil {
					conn = tls.Server(conn, config)
				}
				server.serve(conn)
				conn.Close()
			}()
		}
	}()
	return netip.AddrPortFrom(f.ServiceIP(dataNamespace, name, 4), reachPort), reached
}

// speakForeign is a conversation as the client would hold it without a mesh.
func (f *foreigners) speakForeign(client *lab.Pod, to netip.AddrPort, withTLS bool) *spoken {
	s, number := f.next()
	conn, err := dialWithin(client, to, number, 10*time.Second)
	if err != nil {
		s.err = err
		return s
	}
	defer conn.Close()
	s.from, s.to = conn.LocalAddr().String(), to.String()
	if withTLS {
		own := tls.Certificate{}
		for _, leaf := range f.leaves { // a server that asks for a certificate gets one
			own = leaf
		}
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{own}})
	}
	if _, s.err = fmt.Fprintf(conn, "PUT %s\n", s.mark); s.err != nil {
		return s
	}
	for in := bufio.NewReader(conn); ; {
		line, err := in.ReadString('\n')
		if strings.HasPrefix(line, "+ ") {
			return s
		}
		if s.err = err; err != nil {
			return s
		}
	}
}
