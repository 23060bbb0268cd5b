// Command play runs two sidecars, a client's and a server's, and an app on this machine: without redirect rules, root,
// containers or a cluster, for whoever wants to see or debug the proxy. It makes its own certificates, shows one
// request that passes both sidecars, says what to try, and stays until it is interrupted. `make play` runs it, and with
// PLAY=-once it ends after the request.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/sidecar"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

const anyPort = "127.0.0.1:0"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "play:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("play", flag.ContinueOnError)
	once := fs.Bool("once", false, "end after one request")
	if err := fs.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "meshless-play-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, stop := context.WithCancel(ctx)
	p := &play{dir: dir, ca: testca.New(proxytest.Must, proxytest.TrustDomain)}
	defer p.running.Wait()
	defer stop()
	app, err := p.startApp(ctx)
	if err != nil {
		return err
	}
	server, err := p.startSidecar(ctx, "server", app.Port(), sidecar.Explicit(netip.AddrPort{}, app))
	if err != nil {
		return err
	}
	client, err := p.startSidecar(ctx, "client", app.Port(), sidecar.Explicit(netip.MustParseAddrPort(server.Inbound), netip.AddrPort{}))
	if err != nil {
		return err
	}
	if err := p.request(ctx, client, out); err != nil {
		return err
	}
	if *once {
		return nil
	}
	fmt.Fprintf(out, instructions, client.Outbound, app, server.Inbound, dir, client.Metrics, client.Admin, client.Health, server.Metrics, server.Admin, server.Health)
	<-ctx.Done()
	return nil
}

// instructions are for: client's outbound, app, server's inbound, folder, metrics, admin and health of both.
const instructions = `
Try:
  curl http://%[1]s/
      as above: in the clear to the client's sidecar, mutual TLS to the server's, in the clear to the app at %[2]s
  curl -k https://%[3]s/
      straight to the server's sidecar, without a certificate: refused
  curl -k --cert %[4]s/client/tls.crt --key %[4]s/client/tls.key https://%[3]s/
      the same, with the client's certificate
  tail -f %[4]s/*.log
      the logs of both sidecars
The client's sidecar: http://%[5]s/metrics  http://%[6]s/configz  http://%[7]s/readyz
The server's sidecar: http://%[8]s/metrics  http://%[9]s/configz  http://%[10]s/readyz
Ctrl-C ends all and removes the folder.
`

// play is what runs.
type play struct {
	dir     string // of the files and logs of all
	ca      *testca.CA
	running sync.WaitGroup
}

type connKey struct{}

// startApp serves HTTP on a free port. It tells each client the identity that its sidecar has proved.
func (p *play) startApp(ctx context.Context) (netip.AddrPort, error) {
	l, err := net.Listen("tcp4", anyPort)
	if err != nil {
		return netip.AddrPort{}, err
	}
	app := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, "hello", clientOf(r.Context().Value(connKey{}).(*proxyproto.Conn)))
		}),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
	// until it is closed
	p.running.Go(func() { _ = app.Serve(&proxyproto.Listener{Listener: l, ReadHeaderTimeout: time.Second}) })
	context.AfterFunc(ctx, func() { app.Close() })
	return netip.MustParseAddrPort(l.Addr().String()), nil
}

// clientOf is the SPIFFE ID in the PROXY protocol header that the server's sidecar has written.
func clientOf(c *proxyproto.Conn) string {
	if h := c.ProxyHeader(); h != nil {
		tlvs, _ := h.TLVs()
		for _, v := range tlvs {
			if v.Type == api.ProxyProtocolSPIFFEID {
				return string(v.Value)
			}
		}
	}
	return "stranger"
}

// startSidecar writes the files of a workload and runs its sidecar. The server is a Service at 127.0.0.1 for both.
func (p *play) startSidecar(ctx context.Context, name string, appPort uint16, redirect *sidecar.Redirect) (sidecar.Addresses, error) {
	folder := filepath.Join(p.dir, name)
	if err := os.Mkdir(folder, 0o700); err != nil {
		return sidecar.Addresses{}, err
	}
	id := proxytest.ID(name)
	proxytest.Workload{CA: p.ca, Leaf: p.ca.Issue(proxytest.Must, id),
		Mesh: proxytest.Mesh(func(m *meshmap.Map) {
			m.Outbound.Unknown = meshmap.DenyUnknown
			m.Services = []meshmap.Service{{Host: "server.prod.svc.cluster.local", ClusterIPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
				Identities: []string{proxytest.ID("server")}}}
		}),
		Workload: podplan.Workload{SPIFFEID: id, ProxyProtocolPorts: netset.PortsOf(appPort)},
	}.Plain(proxytest.Must).Publish(proxytest.Must, folder)
	log, err := os.Create(folder + ".log")
	if err != nil {
		return sidecar.Addresses{}, err
	}
	s, err := sidecar.New(sidecar.Options{Directory: folder, Redirect: redirect, Log: slog.New(slog.NewJSONHandler(log, nil)),
		Addresses: sidecar.Addresses{Outbound: anyPort, Inbound: anyPort, Metrics: anyPort, Health: anyPort, Admin: anyPort}})
	if err != nil {
		return sidecar.Addresses{}, err
	}
	p.running.Go(func() {
		defer log.Close()
		if err := s.Run(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "play:", name, err)
		}
	})
	return s.Addresses(), nil
}

// request shows one request through both sidecars, and what the client's says about it.
func (p *play) request(ctx context.Context, client sidecar.Addresses, out io.Writer) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+client.Outbound+"/", nil)
	if err != nil {
		return err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "$ curl http://%s/\n%s\n", client.Outbound, answer)
	line, err := p.accessLog(ctx, "client")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "The client's sidecar logs:\n  %s\n  -> %s (%s), %s\n", line.Source, line.Destination, line.Service, line.Security)
	return nil
}

// access is a line of the access log.
type access struct {
	Source      string `json:"src_identity"`
	Destination string `json:"dst_identity"`
	Service     string `json:"service"`
	Security    string `json:"security"`
}

// accessLog waits for the first line about a connection in the log of a sidecar.
func (p *play) accessLog(ctx context.Context, name string) (access, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		f, err := os.Open(filepath.Join(p.dir, name+".log"))
		if err != nil {
			return access{}, err
		}
		var a access
		for lines := json.NewDecoder(f); err == nil && a.Source == ""; {
			a = access{}
			err = lines.Decode(&a)
		}
		f.Close()
		if err == nil {
			return a, nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return access{}, fmt.Errorf("the %s's sidecar logs no connection: %w", name, ctx.Err())
		}
	}
}
