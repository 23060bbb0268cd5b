// Package admin serves what is about the proxy and not about the app's traffic: metrics, health, the app's own probes,
// and a look at the configuration. The three ports are apart on purpose: metrics and health are for the cluster, the
// rest for the pod itself.
package admin

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/loopback"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// Config is what the handlers need.
type Config struct {
	Telemetry *telemetry.Telemetry
	Identity  *identity.Watcher
	Prober    *Prober
	Ready     func() error    // why the proxy is not ready; nil when it is
	Drain     func()          // begins to drain; may be called often
	Quit      func()          // begins to drain, and ends the process after that; may be called often
	Activity  func() Activity // for /configz, /drain and /quit
	Clients   *listen.Clients // for /clients and /configz
	Records   string          // whose record layer is in force, for /configz
	// of a proxy without redirect rules, for /configz: where it listens for Services; else nil
	Loopback func() []loopback.Shown
	Level    *slog.LevelVar
	Pprof    bool // serve profiles
}

// Activity is the part of /configz that changes by itself, and the whole answer of /drain and /quit.
type Activity struct {
	InboundConnections  int  `json:"inboundConnections"`
	OutboundConnections int  `json:"outboundConnections"`
	Handlers            int  `json:"handlers"` // the app's probes and lifecycle handlers under way
	Draining            bool `json:"draining"`
}

// Idle tells whether nothing is under way.
func (a Activity) Idle() bool { return a.InboundConnections+a.OutboundConnections+a.Handlers == 0 }

// Metrics is the handler of api.MetricsPort.
func Metrics(c Config) http.Handler {
	mux := http.NewServeMux()
	metrics := promhttp.HandlerFor(c.Telemetry.Registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		// who does not read the answer would keep it in memory, and its place from the kubelet, for ever
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(metricsTimeout))
		metrics.ServeHTTP(w, r)
	})
	return mux
}

// metricsTimeout is longer than Prometheus waits by default.
const metricsTimeout = 15 * time.Second

// Health is the handler of api.HealthPort.
func Health(c Config) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := c.Ready(); err != nil {
			plain(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		plain(w, http.StatusOK, "ready")
	})
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "alive") })
	mux.Handle("GET "+podplan.HandlerPath(""), c.Prober)
	return mux
}

// Paths of api.AdminPort that end something. QuitPath is for the app of a Job whose sidecar is a plain container:
// nothing else ends the proxy there. Only programs of the pod can call it, and they gain nothing: without the proxy,
// redirected connections are refused.
const (
	DrainPath = "/drain"
	QuitPath  = "/quit"
)

// DrainHeader must be on requests to DrainPath. A drain is for good and leaves the process: an app that can be made to
// send a POST somewhere (SSRF) must not begin one.
const DrainHeader = "Meshless-Drain"

// LevelPath tells the log level, and sets it by PUT ?level=debug.
const LevelPath = "/loglevel"

// Local is the handler of api.AdminPort, which is bound to loopback.
func Local(c Config) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /configz", func(w http.ResponseWriter, _ *http.Request) { configz(w, c) })
	for path, begin := range map[string]func(){DrainPath: c.Drain, QuitPath: c.Quit} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			if path == DrainPath && r.Header.Get(DrainHeader) == "" {
				plain(w, http.StatusForbidden, "a drain needs the header "+DrainHeader)
				return
			}
			begin()
			writeJSON(w, c.Activity())
		})
	}
	mux.HandleFunc("GET "+ClientsPath, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, c.Clients.Seen()) })
	mux.HandleFunc("GET "+LevelPath, func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, levelName(c.Level)) })
	mux.HandleFunc("PUT "+LevelPath, func(w http.ResponseWriter, r *http.Request) { setLevel(w, r, c) })
	if c.Pprof {
		// of the heap, goroutines, ...: of what runs, not of what memory holds
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return noBrowsers(mux)
}

func foreignPage(site string) bool { return site != "" && site != "none" && site != "same-origin" }

// noBrowsers refuses what a page in a browser asks for: kubectl port-forward puts this port on the localhost of a
// developer. Names other than localhost are those of DNS rebinding; requests with an Origin or a Sec-Fetch-Site are of
// a page.
func noBrowsers(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) || r.Header.Get("Origin") != "" || foreignPage(r.Header.Get("Sec-Fetch-Site")) {
			plain(w, http.StatusForbidden, "this port is for programs of the pod, by its loopback address, and not for pages in a browser")
			return
		}
		h.ServeHTTP(w, r)
	})
}

func levelName(l *slog.LevelVar) string { return strings.ToLower(l.Level().String()) }

func setLevel(w http.ResponseWriter, r *http.Request, c Config) {
	name := r.URL.Query().Get("level")
	if err := podplan.ValidateLogLevel(name); err != nil {
		plain(w, http.StatusBadRequest, "level: "+err.Error())
		return
	}
	before := levelName(c.Level)
	// before the change, so that a log that is silenced says so in its last line
	c.Telemetry.Log.Error("log level changed", "from", before, "to", name)
	_ = c.Level.UnmarshalText([]byte(name)) // its names include ours
	plain(w, http.StatusOK, name)
}

// ClientsPath tells which address each client has at the app.
const ClientsPath = "/clients"

// Server is an HTTP server with bounds for everything but the response, since a lifecycle handler may take its time.
// Connections are not kept alive: the ports are open to every pod, and idle connections must not keep the kubelet out.
func Server(h http.Handler) *http.Server {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 2 * time.Second, ReadTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	s.SetKeepAlivesEnabled(false)
	return s
}

// configDump is what /configz shows. It is built of certificates and maps alone: no key is within reach of this
// package.
type configDump struct {
	Version     string            `json:"version"`
	Generation  uint64            `json:"generation"`
	Failure     string            `json:"failure,omitempty"` // why the newest generation is not in use
	SPIFFEID    string            `json:"spiffeID,omitempty"`
	Leaf        *certificate      `json:"leaf,omitempty"`
	Authorities []certificate     `json:"authorities,omitempty"`
	Mesh        *meshmap.Map      `json:"mesh,omitempty"`
	Workload    *podplan.Workload `json:"workload,omitempty"`
	ClientCIDRs string            `json:"clientCIDRs,omitempty"` // of the addresses at ClientsPath
	Records     string            `json:"records"`               // whose record layer is in force
	Loopback    []loopback.Shown  `json:"loopback,omitempty"`    // without redirect rules
	Activity
}

type certificate struct {
	Subject   string    `json:"subject,omitempty"`
	Issuer    string    `json:"issuer,omitempty"`
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	KeyDigest string    `json:"keyDigest"` // SHA-256 of the public key, as in revokedKeys
}

func configz(w http.ResponseWriter, c Config) {
	dump := configDump{Version: api.Version, Activity: c.Activity(), ClientCIDRs: c.Clients.Ranges().String(), Records: c.Records}
	if c.Loopback != nil {
		dump.Loopback = c.Loopback()
	}
	if err := c.Identity.Failure(); err != nil {
		dump.Failure = err.Error()
	}
	if s := c.Identity.Current(); s != nil {
		dump.Generation, dump.SPIFFEID, dump.Mesh = s.Number, s.ID.String(), s.Mesh
		dump.Workload = withoutHeaders(s.Workload)
		dump.Leaf = &certificate{s.Leaf.Subject.String(), s.Leaf.Issuer.String(), s.Leaf.SerialNumber.Text(16), s.Leaf.NotBefore, s.Leaf.NotAfter, svid.KeyDigest(s.Leaf)}
		for _, a := range s.Bundle.Authorities() {
			dump.Authorities = append(dump.Authorities, certificate{a.Subject.String(), "", a.SerialNumber.Text(16), a.NotBefore, a.NotAfter, svid.KeyDigest(a)})
		}
	}
	writeJSON(w, dump)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(v) // an error means that the client is gone
}

// withoutHeaders leaves out the values of probe headers, which may hold a token.
func withoutHeaders(w *podplan.Workload) *podplan.Workload {
	shown := *w
	shown.Handlers = map[string]podplan.Handler{}
	for key, h := range w.Handlers {
		if h.HTTPGet != nil {
			get := *h.HTTPGet
			get.Headers = nil
			for _, header := range h.HTTPGet.Headers {
				get.Headers = append(get.Headers, podplan.HTTPHeader{Name: header.Name, Value: "(hidden)"})
			}
			h.HTTPGet = &get
		}
		shown.Handlers[key] = h
	}
	return &shown
}

// plain answers with a line of text; http.Error makes no difference between errors and others.
func plain(w http.ResponseWriter, status int, text string) { http.Error(w, text, status) }
