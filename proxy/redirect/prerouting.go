package redirect

import (
	"errors"
	"net"
	"net/http"
	"net/netip"

	"github.com/meshless-dev/meshless/internal/api"
)

// Probes proves the chain prerouting, which nothing inside the pod can reach: init redirects what arrives for the
// health port to the metrics port. So a request of the kubelet that comes to the health port itself has met no rules.
// All fields are required.
type Probes struct {
	OriginalDst func(*net.TCPConn) (netip.AddrPort, error) // where an accepted connection was going
	Own         func(netip.Addr) bool                      // whether that is an address of this pod
	Report      func(missing bool)                         // told at each probe that proves one or the other
}

// ErrDirect is why a pod is not ready whose chain prerouting is missing.
var ErrDirect = errors.New("the rules of meshless-init are not in force (chain prerouting): this request was not redirected, so connections that arrive may pass the proxy by: " +
	"they were never written or were removed, or " + api.InitName + " is not of the same release " + api.Version + "; delete the pod")

// Listen makes the local address of what l accepts the one to which it was opened, if that is the health port.
func (p *Probes) Listen(l net.Listener) net.Listener { return &originalListener{l, p} }

type originalListener struct {
	net.Listener
	probes *Probes
}

func (l *originalListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		if dst, err := l.probes.OriginalDst(tcp); err == nil && dst.Port() == api.HealthPort {
			return &originalConn{tcp, net.TCPAddrFromAddrPort(dst)}, nil
		}
	}
	return c, nil
}

// originalConn is a connection with the address to which it was opened.
type originalConn struct {
	*net.TCPConn
	local net.Addr
}

func (c *originalConn) LocalAddr() net.Addr { return c.local }

// Metrics serves the metrics port: health is for what was opened to the health port and redirected.
func (p *Probes) Metrics(metrics, health http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && addrPort(local).Port() == api.HealthPort {
			p.Report(false)
			health.ServeHTTP(w, r)
			return
		}
		metrics.ServeHTTP(w, r)
	})
}

// Health serves the health port. Whoever asks there from outside the pod whether the proxy is ready learns that it is
// not. The pod's own requests, such as of the postStart hook, are not redirected.
func (p *Probes) Health(health http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" && !p.fromPod(r.RemoteAddr) {
			p.Report(true)
			http.Error(w, ErrDirect.Error(), http.StatusServiceUnavailable)
			return
		}
		health.ServeHTTP(w, r)
	})
}

func (p *Probes) fromPod(remote string) bool {
	from, err := netip.ParseAddrPort(remote)
	addr := from.Addr().Unmap().WithZone("")
	return err == nil && (addr.IsLoopback() || p.Own(addr))
}
