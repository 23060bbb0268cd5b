package admin

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/listen"
)

// Bounds of a handler, as the kubelet's (k8s.io/kubernetes/pkg/probe/http).
const (
	maxBody          = 10 << 10
	maxRedirects     = 10
	defaultTimeout   = time.Second      // of a probe that gives none
	lifecycleTimeout = 10 * time.Minute // lifecycle handlers have no timeout but the kubelet's request
	maxProbes        = 64               // at once
	maxLifecycle     = 16               // at once
	defaultUserAgent = "kube-probe/1.x" // what the kubelet calls itself, without its version
)

// Prober performs the original probe or lifecycle handler against the app, since the kubelet has no certificate of the
// mesh.
type Prober struct {
	current   func() *identity.Snapshot
	clients   clientaddr.Ranges
	probes    listen.Semaphore
	lifecycle listen.Semaphore // apart, since these may take minutes and must not keep probes waiting
	log       *slog.Logger
	// OnLoopback: the app listens on 127.0.0.1 alone. Set it before the first probe
	OnLoopback bool

	mu      sync.Mutex
	failing map[string]bool // handlers whose last answer was no success
}

// NewProber makes a Prober that dials the app from the address of the ranges that is no client's. An app that bans a
// client for its errors then bans none for ours. It is no loopback address either: to those, apps open doors that they
// keep shut for the kubelet, so a probe would succeed where no client does, and what it shows anybody can ask for at
// the health port.
func NewProber(current func() *identity.Snapshot, clients clientaddr.Ranges, log *slog.Logger) *Prober {
	return &Prober{current: current, clients: clients, probes: listen.NewSemaphore(maxProbes), lifecycle: listen.NewSemaphore(maxLifecycle), log: log, failing: map[string]bool{}}
}

// Active is the number of handlers that are performed now.
func (p *Prober) Active() int { return len(p.probes) + len(p.lifecycle) }

// ServeHTTP performs the handler that the path names. Its answer is the app's; 404 is an unknown handler as well, 502
// an app that cannot be reached, 503 an app that says no, and 504 one that is too slow.
func (p *Prober) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	snapshot := p.current()
	if snapshot == nil {
		plain(w, http.StatusServiceUnavailable, "meshless-proxy has no good generation of files yet, see /readyz")
		return
	}
	key := strings.TrimPrefix(r.URL.Path, podplan.HandlerPath(""))
	handler, ok := snapshot.Workload.Handlers[key]
	if !ok {
		plain(w, http.StatusNotFound, fmt.Sprintf("meshless-proxy knows no handler %q", key))
		return
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	own := listen.AddrPort(local).Addr()
	if !own.IsValid() {
		plain(w, http.StatusInternalServerError, "meshless-proxy cannot tell the pod's address")
		return
	}
	if p.OnLoopback {
		own = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	permits, timeout := p.probes, timeoutOf(key, handler)
	if isLifecycle(key) {
		permits = p.lifecycle
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	if !permits.Acquire(ctx) {
		plain(w, http.StatusServiceUnavailable, fmt.Sprintf("meshless-proxy performs %d handlers already", cap(permits)))
		return
	}
	defer permits.Release()
	answer := &answer{ResponseWriter: w, status: http.StatusOK}
	p.note(key, answer, p.perform(ctx, answer, r, target{handler: handler, addr: own, dialer: listen.AppDialer(p.clients.Probe(own), 0)}))
}

// answer remembers the status.
type answer struct {
	http.ResponseWriter
	status int
}

func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

var errAppAnswered = errors.New("the app answered with this status")

// note logs when a handler begins to fail and when it succeeds again: the kubelet's event holds the status alone. A
// success is what the kubelet counts as one.
func (p *Prober) note(key string, a *answer, err error) {
	fails := a.status < 200 || a.status >= 400
	p.mu.Lock()
	before := p.failing[key]
	p.failing[key] = fails // known handlers only, so it is bounded
	p.mu.Unlock()
	switch {
	case fails && !before:
		err = cmp.Or(err, errAppAnswered)
		p.log.Warn("handler of the app fails", "handler", key, "status", a.status, "error", err.Error())
	case before && !fails:
		p.log.Info("handler of the app succeeds again", "handler", key, "status", a.status)
	}
}

// timeoutOf bounds a handler; the end of the kubelet's request does so too.
func timeoutOf(key string, h podplan.Handler) time.Duration {
	switch {
	case h.TimeoutSeconds > 0:
		return time.Duration(h.TimeoutSeconds) * time.Second
	case isLifecycle(key):
		return lifecycleTimeout
	}
	return defaultTimeout
}

func isLifecycle(key string) bool {
	return strings.HasSuffix(key, "/postStart") || strings.HasSuffix(key, "/preStop")
}

// target is one handler to be performed at the pod's own address.
type target struct {
	handler podplan.Handler
	addr    netip.Addr
	dialer  *net.Dialer
}

func (t target) hostPort(port uint16) string { return netip.AddrPortFrom(t.addr, port).String() }

func (p *Prober) perform(ctx context.Context, w http.ResponseWriter, r *http.Request, t target) error {
	var err error
	switch h := t.handler; {
	case h.HTTPGet != nil:
		err = t.httpGet(ctx, w, r.UserAgent())
	case h.TCPSocket != nil:
		err = t.tcpSocket(ctx)
	case h.GRPC != nil:
		err = t.grpc(ctx)
	}
	var no *unhealthy
	switch {
	case err == nil && t.handler.HTTPGet == nil:
		plain(w, http.StatusOK, "ok")
	case err == nil: // httpGet has passed the app's answer on
	case errors.As(err, &no):
		plain(w, http.StatusServiceUnavailable, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		plain(w, http.StatusGatewayTimeout, "the app did not answer in time: "+err.Error())
	default:
		plain(w, http.StatusBadGateway, "the app cannot be reached: "+err.Error())
	}
	return err
}

// unhealthy is an answer of the app that is no success.
type unhealthy struct{ text string }

func (u *unhealthy) Error() string { return u.text }

func (t target) tcpSocket(ctx context.Context) error {
	c, err := t.dialer.DialContext(ctx, "tcp", t.hostPort(t.handler.TCPSocket.Port))
	if err != nil {
		return err
	}
	return c.Close()
}

// httpGet passes status and the beginning of the body on. An error means that nothing was passed on.
func (t target) httpGet(ctx context.Context, w http.ResponseWriter, userAgent string) error {
	request, err := t.request(ctx, userAgent)
	if err != nil {
		return err
	}
	transport := &http.Transport{DialContext: t.dialer.DialContext, DisableKeepAlives: true, DisableCompression: true,
		// the kubelet does not verify either; the app is in this pod
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true},
		MaxResponseHeaderBytes: 64 << 10}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: sameHost}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return err
	}
	if kind := response.Header.Get("Content-Type"); kind != "" {
		w.Header().Set("Content-Type", kind)
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(response.StatusCode)
	_, _ = w.Write(body) // the status is what counts, and it is sent
	return nil
}

// request builds the request as the kubelet does (NewRequestForHTTPGetAction): User-Agent and Accept have defaults, an
// empty header takes them away, and Host goes where net/http wants it.
func (t target) request(ctx context.Context, userAgent string) (*http.Request, error) {
	get := t.handler.HTTPGet
	u, err := url.Parse(get.Path)
	if err != nil {
		u = &url.URL{Path: get.Path} // the kubelet, too, falls back to taking it literally
	}
	u.Scheme, u.Host = "http", t.hostPort(get.Port)
	if get.Scheme == "HTTPS" {
		u.Scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, h := range get.Headers {
		request.Header.Add(h.Name, h.Value)
	}
	request.Host = request.Header.Get("Host") // net/http takes the URL's where it is empty
	if !strings.HasPrefix(userAgent, "kube-probe/") {
		userAgent = defaultUserAgent
	}
	defaultHeader(request.Header, "User-Agent", userAgent)
	defaultHeader(request.Header, "Accept", "*/*")
	return request, nil
}

func defaultHeader(h http.Header, name, value string) {
	if _, given := h[name]; !given {
		h.Set(name, value)
	} else if h.Get(name) == "" {
		h.Del(name)
		if name == "User-Agent" {
			h[name] = []string{""} // net/http adds its own to a request that has none
		}
	}
}

// sameHost follows redirects to the app itself; another host's is the answer, which the kubelet counts as a success
// with a warning.
func sameHost(next *http.Request, via []*http.Request) error {
	if next.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= maxRedirects {
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	}
	return nil
}
