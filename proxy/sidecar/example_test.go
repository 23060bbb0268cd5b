package sidecar_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"sync"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/sidecar"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// Two sidecars carry a request from a client to an app: plaintext to the client's sidecar, mutual TLS between the two,
// plaintext to the app. Whoever comes to the server's sidecar without a certificate is refused.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	ca := testca.New(proxytest.Must, proxytest.TrustDomain)
	start := func(name string, redirect *sidecar.Redirect) sidecar.Addresses {
		files := proxytest.Workload{CA: ca, Leaf: ca.Issue(proxytest.Must, proxytest.ID(name)),
			Mesh: proxytest.Mesh(func(m *meshmap.Map) { // the server is the Service at 127.0.0.1
				m.Services = []meshmap.Service{{Host: "server.prod.svc.cluster.local", ClusterIPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
					Identities: []string{proxytest.ID("server")}}}
			}), Workload: podplan.Workload{SPIFFEID: proxytest.ID(name)}}
		directory, err := os.MkdirTemp("", "meshless-example-")
		if err != nil {
			panic(err)
		}
		files.Sealed(proxytest.Must).Publish(proxytest.Must, directory)
		const free = "127.0.0.1:0"
		s, err := sidecar.New(sidecar.Options{Directory: directory, Redirect: redirect, Log: slog.New(slog.DiscardHandler),
			Addresses: sidecar.Addresses{Outbound: free, Inbound: free, Metrics: free, Health: free, Admin: free}})
		if err != nil {
			panic(err)
		}
		running.Go(func() {
			defer os.RemoveAll(directory)
			if err := s.Run(ctx); err != nil {
				panic(err)
			}
		})
		return s.Addresses()
	}

	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	defer app.Close()
	server := start("server", sidecar.Explicit(netip.AddrPort{}, netip.MustParseAddrPort(app.Listener.Addr().String())))
	client := start("client", sidecar.Explicit(netip.MustParseAddrPort(server.Inbound), netip.AddrPort{}))

	response, err := http.Get("http://" + client.Outbound)
	if err != nil {
		panic(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	fmt.Printf("by both sidecars: %s\n", body)
	if _, err := http.Get("http://" + server.Inbound); err != nil {
		fmt.Println("without a certificate: refused")
	}
	// Output:
	// by both sidecars: hello
	// without a certificate: refused
}
