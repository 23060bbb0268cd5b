package admin

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

func port(t *testing.T, addr string) uint16 {
	t.Helper()
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(n)
}

// kubelet asks the health port for one handler, and does not follow redirects, so that the answer itself is seen.
func kubelet(t *testing.T, h podplan.Handler, key string) (status int, body string) {
	t.Helper()
	snapshot := &identity.Snapshot{Workload: &podplan.Workload{Handlers: map[string]podplan.Handler{key: h}}}
	server := httptest.NewServer(NewProber(func() *identity.Snapshot { return snapshot }, clientaddr.Ranges{}, slog.New(slog.DiscardHandler)))
	defer server.Close()
	request, err := http.NewRequest("GET", server.URL+podplan.HandlerPath(key), nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("User-Agent", "kube-probe/1.36")
	client := http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func TestHTTPGet(t *testing.T) {
	var redirects atomic.Int64
	app := http.NewServeMux()
	app.HandleFunc("/healthy", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s|%s|%s|%s|%s", r.URL.RequestURI(), r.Host, r.UserAgent(), r.Header.Get("Accept"), strings.Join(r.Header.Values("X-Two"), ","))
	})
	app.HandleFunc("/sick", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "sick", http.StatusTeapot) })
	app.HandleFunc("/large", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) })
	app.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/sick", http.StatusFound) })
	app.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://other.example/", http.StatusFound)
	})
	app.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) {
		redirects.Add(1)
		http.Redirect(w, r, "/loop", http.StatusFound)
	})
	app.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	plain, secure := httptest.NewServer(app), httptest.NewTLSServer(app)
	defer plain.Close()
	defer secure.Close()
	http1, https := port(t, plain.Listener.Addr().String()), port(t, secure.Listener.Addr().String())
	own := fmt.Sprintf("127.0.0.1:%d", http1)
	headers := func(pairs ...string) (h []podplan.HTTPHeader) {
		for i := 0; i < len(pairs); i += 2 {
			h = append(h, podplan.HTTPHeader{Name: pairs[i], Value: pairs[i+1]})
		}
		return h
	}
	cases := []struct {
		name   string
		get    podplan.HTTPGet
		status int
		body   string // a part of it; "=" in front means all
	}{
		{"defaults", podplan.HTTPGet{Port: http1, Path: "/healthy?a=b&c"}, 200, "=/healthy?a=b&c|" + own + "|kube-probe/1.36|*/*|"},
		{"headers", podplan.HTTPGet{Port: http1, Path: "/healthy", Headers: headers("Host", "app.example", "User-Agent", "mine", "Accept", "text/x", "X-Two", "1", "X-Two", "2")},
			200, "=/healthy|app.example|mine|text/x|1,2"},
		{"headers taken away", podplan.HTTPGet{Port: http1, Path: "/healthy", Headers: headers("User-Agent", "", "Accept", "")}, 200, "=/healthy|" + own + "|||"},
		{"path without a slash", podplan.HTTPGet{Port: http1, Path: "healthy"}, 200, "=/healthy|"},
		{"status", podplan.HTTPGet{Port: http1, Path: "/sick"}, 418, "=sick\n"},
		{"HTTPS", podplan.HTTPGet{Port: https, Path: "/sick", Scheme: "HTTPS"}, 418, "=sick\n"},
		{"redirect to the app", podplan.HTTPGet{Port: http1, Path: "/moved"}, 418, "=sick\n"},
		{"redirect away", podplan.HTTPGet{Port: http1, Path: "/away"}, 302, ""},
		{"redirects without end", podplan.HTTPGet{Port: http1, Path: "/loop"}, 502, "stopped after 10 redirects"},
		{"nobody listens", podplan.HTTPGet{Port: 1, Path: "/"}, 502, "connection refused"},
		{"slow", podplan.HTTPGet{Port: http1, Path: "/slow"}, 504, "in time"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			status, body := kubelet(t, podplan.Handler{HTTPGet: &c.get}, "app/livenessProbe")
			want, whole := strings.CutPrefix(c.body, "=")
			if status != c.status || (whole && !strings.HasPrefix(body, want)) || !strings.Contains(body, want) {
				t.Errorf("got %d %q, want %d %q", status, body, c.status, c.body)
			}
		})
	}
	if status, body := kubelet(t, podplan.Handler{HTTPGet: &podplan.HTTPGet{Port: http1, Path: "/large"}}, "app/livenessProbe"); status != 200 || len(body) != maxBody {
		t.Errorf("large: %d, %d bytes; want %d", status, len(body), maxBody)
	}
	if got := redirects.Load(); got != maxRedirects {
		t.Errorf("%d requests in the redirect loop, want %d", got, maxRedirects)
	}
}

func TestTCPSocket(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := port(t, l.Addr().String())
	if status, _ := kubelet(t, podplan.Handler{TCPSocket: &podplan.TCPSocket{Port: open}}, "app/readinessProbe"); status != 200 {
		t.Errorf("open port: %d", status)
	}
	l.Close()
	if status, _ := kubelet(t, podplan.Handler{TCPSocket: &podplan.TCPSocket{Port: open}}, "app/readinessProbe"); status != 502 {
		t.Errorf("closed port: %d", status)
	}
}

// healthServer answers as a gRPC server would, without a gRPC library.
func healthServer(t *testing.T) uint16 {
	t.Helper()
	frame := func(status uint64) []byte {
		m := protowire.AppendTag(nil, 9, protowire.BytesType) // a field of a later version
		m = protowire.AppendString(m, "unknown")
		m = protowire.AppendVarint(protowire.AppendTag(m, fieldStatus, protowire.VarintType), status)
		return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))), m...)
	}
	h := http.NewServeMux()
	h.HandleFunc("POST "+healthCheckPath, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		service := ""
		if len(body) > framePrefix {
			_, _, n := protowire.ConsumeTag(body[framePrefix:])
			service, _ = protowire.ConsumeString(body[framePrefix+n:])
		}
		if r.ProtoMajor != 2 || r.Header.Get("Content-Type") != "application/grpc" || r.Header.Get("TE") != "trailers" {
			service = "wrong request"
		}
		w.Header().Set("Content-Type", "application/grpc")
		switch service {
		case "", "serving":
			w.Header().Set("Trailer", "Grpc-Status")
			_, _ = w.Write(frame(statusServing))
			w.Header().Set("Grpc-Status", "0")
		case "stopping":
			w.Header().Set("Trailer", "Grpc-Status")
			_, _ = w.Write(frame(2))
			w.Header().Set("Grpc-Status", "0")
		case "garbage":
			w.Header().Set("Trailer", "Grpc-Status")
			_, _ = w.Write([]byte{0, 0, 0, 0, 9, 1})
			w.Header().Set("Grpc-Status", "0")
		case "cut":
			_, _ = w.Write(frame(statusServing)) // and no trailers
		default:
			w.Header().Set("Grpc-Status", "5")
			w.Header().Set("Grpc-Message", "unknown service")
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: h, Protocols: protocols}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return port(t, l.Addr().String())
}

func TestGRPC(t *testing.T) {
	app := healthServer(t)
	for service, want := range map[string]struct {
		status int
		body   string
	}{
		"":         {200, "ok"},
		"serving":  {200, "ok"},
		"stopping": {503, "NOT_SERVING"},
		"unknown":  {503, `status "5" unknown service`},
		"garbage":  {503, "no gRPC message"},
		"cut":      {503, `status ""`},
	} {
		status, body := kubelet(t, podplan.Handler{GRPC: &podplan.GRPC{Port: app, Service: service}}, "app/startupProbe")
		if status != want.status || !strings.Contains(body, want.body) {
			t.Errorf("%q: got %d %q, want %d %q", service, status, body, want.status, want.body)
		}
	}
	if status, _ := kubelet(t, podplan.Handler{GRPC: &podplan.GRPC{Port: 1}}, "app/startupProbe"); status != 502 {
		t.Errorf("nobody listens: %d", status)
	}
}

func FuzzParseHealth(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 2, 8, 1})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, frame []byte) {
		if _, err := parseHealth(frame); err == nil && len(frame) < framePrefix {
			t.Error("half a frame is accepted")
		}
	})
}

func TestUnknownHandler(t *testing.T) {
	server := httptest.NewServer(NewProber(func() *identity.Snapshot { return &identity.Snapshot{Workload: &podplan.Workload{}} }, clientaddr.Ranges{}, slog.New(slog.DiscardHandler)))
	defer server.Close()
	for path, want := range map[string]int{"app/livenessProbe": 404, "": 404, "../configz": 404} {
		response, err := http.Get(server.URL + podplan.HandlerPath(path))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%q: %d", path, response.StatusCode)
		}
	}
}

// TestKubeletGivesUp: the end of the kubelet's request ends the probe, so that probes cannot pile up.
func TestKubeletGivesUp(t *testing.T) {
	ended := make(chan struct{})
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done(); close(ended) }))
	defer app.Close()
	get := &podplan.HTTPGet{Port: port(t, app.Listener.Addr().String()), Path: "/"}
	snapshot := &identity.Snapshot{Workload: &podplan.Workload{Handlers: map[string]podplan.Handler{"app/preStop": {HTTPGet: get}}}}
	server := httptest.NewServer(NewProber(func() *identity.Snapshot { return snapshot }, clientaddr.Ranges{}, slog.New(slog.DiscardHandler)))
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, "GET", server.URL+podplan.HandlerPath("app/preStop"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := http.DefaultClient.Do(request); err == nil {
		t.Error("answered")
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the probe goes on")
	}
}

func TestTimeoutOf(t *testing.T) {
	for key, want := range map[string]time.Duration{"app/livenessProbe": time.Second, "app/preStop": lifecycleTimeout, "app/postStart": lifecycleTimeout} {
		if got := timeoutOf(key, podplan.Handler{}); got != want {
			t.Errorf("%s: %v, want %v", key, got, want)
		}
	}
	if got := timeoutOf("app/readinessProbe", podplan.Handler{TimeoutSeconds: 7}); got != 7*time.Second {
		t.Errorf("got %v", got)
	}
}

func local(t *testing.T, pprof bool) (c Config, ask func(method, path string) (int, string)) {
	t.Helper()
	level := new(slog.LevelVar)
	c = Config{Telemetry: telemetry.New(slog.New(slog.DiscardHandler)), Identity: &identity.Watcher{}, Activity: func() Activity { return Activity{} }, Level: level, Pprof: pprof}
	h := Local(c)
	return c, func(method, path string) (int, string) {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, path, nil)
		r.Host = "127.0.0.1:15000"
		h.ServeHTTP(w, r)
		return w.Code, strings.TrimSpace(w.Body.String())
	}
}

func TestLogLevel(t *testing.T) {
	c, ask := local(t, false)
	for _, step := range []struct {
		method, path string
		status       int
		answer       string
		level        slog.Level
	}{
		{"GET", "/loglevel", 200, "info", slog.LevelInfo},
		{"PUT", "/loglevel?level=debug", 200, "debug", slog.LevelDebug},
		{"PUT", "/loglevel?level=loud", 400, `level: "loud" is not debug, info, warn or error`, slog.LevelDebug},
		{"PUT", "/loglevel", 400, `level: "" is not debug, info, warn or error`, slog.LevelDebug},
		{"GET", "/loglevel?level=error", 200, "debug", slog.LevelDebug}, // a link is no command
		{"PUT", "/loglevel?level=warn", 200, "warn", slog.LevelWarn},
	} {
		if status, answer := ask(step.method, step.path); status != step.status || answer != step.answer || c.Level.Level() != step.level {
			t.Errorf("%s %s: %d %q, level is %s", step.method, step.path, status, answer, c.Level.Level())
		}
	}
}

func TestProfilesOnlyWhenAskedFor(t *testing.T) {
	for pprof, want := range map[bool]int{false: 404, true: 200} {
		_, ask := local(t, pprof)
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine", "/debug/pprof/heap", "/debug/pprof/profile?seconds=1"} {
			if status, _ := ask("GET", path); status != want {
				t.Errorf("pprof %v: %s answers %d", pprof, path, status)
			}
		}
	}
}

// TestHandlerLogsWhenItTurns: the kubelet's event says 502 and no more, so the log must say why, once.
func TestHandlerLogsWhenItTurns(t *testing.T) {
	var out bytes.Buffer
	app, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	key := "web/readinessProbe"
	snapshot := &identity.Snapshot{Workload: &podplan.Workload{Handlers: map[string]podplan.Handler{key: {TCPSocket: &podplan.TCPSocket{Port: port(t, app.Addr().String())}}}}}
	server := httptest.NewServer(NewProber(func() *identity.Snapshot { return snapshot }, clientaddr.Ranges{}, slog.New(slog.NewJSONHandler(&out, nil))))
	defer server.Close()
	ask := func() {
		t.Helper()
		response, err := http.Get(server.URL + podplan.HandlerPath(key))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
	ask()
	addr := app.Addr().String()
	app.Close()
	ask()
	ask()
	if app, err = net.Listen("tcp", addr); err != nil {
		t.Skip("the port went to somebody else:", err)
	}
	defer app.Close()
	ask()
	server.Close()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "connection refused") || !strings.Contains(lines[1], "succeeds again") {
		t.Errorf("logged:\n%s", out.String())
	}
}

// TestNoPageAsks: kubectl port-forward puts the admin port on the localhost of whoever debugs a pod, where any page in
// a browser can reach it, by DNS rebinding under a name of its own.
func TestNoPageAsks(t *testing.T) {
	begun := 0
	c := Config{Telemetry: telemetry.New(slog.New(slog.DiscardHandler)), Identity: &identity.Watcher{}, Activity: func() Activity { return Activity{} }, Level: new(slog.LevelVar),
		Pprof: true, Drain: func() { begun++ }, Quit: func() { begun++ }}
	h := Local(c)
	ask := func(method, path, host string, headers map[string]string) int {
		r := httptest.NewRequest(method, path, nil)
		r.Host = host
		for name, value := range headers {
			r.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	for _, path := range []string{"POST /drain", "POST /quit", "GET /configz", "GET /debug/pprof/heap", "PUT /loglevel?level=error"} {
		method, target, _ := strings.Cut(path, " ")
		for name, status := range map[string]int{
			"another name":       ask(method, target, "rebound.example:15000", nil),
			"a page's origin":    ask(method, target, "localhost:15000", map[string]string{"Origin": "https://page.example", DrainHeader: "1"}),
			"a page of one site": ask(method, target, "127.0.0.1:15000", map[string]string{"Sec-Fetch-Site": "cross-site", DrainHeader: "1"}),
		} {
			if status != http.StatusForbidden {
				t.Errorf("%s from %s: %d", path, name, status)
			}
		}
	}
	if status := ask("POST", "/drain", "127.0.0.1:15000", nil); status != http.StatusForbidden || begun != 0 {
		t.Errorf("a drain without its header: %d, %d begun", status, begun)
	}
	for _, host := range []string{"localhost:15000", "127.0.0.1:15000", "[::1]:15000", "localhost"} {
		if status := ask("POST", "/drain", host, map[string]string{DrainHeader: "1"}); status != http.StatusOK {
			t.Errorf("a drain of the pod itself, by %s: %d", host, status)
		}
	}
}

// deadlines notes whether an answer has a deadline before its first byte.
type deadlines struct {
	*httptest.ResponseRecorder
	deadline  time.Time
	unbounded bool
}

func (d *deadlines) SetWriteDeadline(at time.Time) error {
	d.deadline = at
	return nil
}

func (d *deadlines) Write(p []byte) (int, error) {
	d.unbounded = d.unbounded || d.deadline.IsZero()
	return d.ResponseRecorder.Write(p)
}

// TestMetricsAreNotKept: a peer that asks for metrics and does not read them has a place for a bounded time. From
// outside, the kubelet's probes need places of the same port.
func TestMetricsAreNotKept(t *testing.T) {
	w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	Metrics(Config{Telemetry: telemetry.New(slog.New(slog.DiscardHandler))}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK || w.Body.Len() == 0 || w.unbounded {
		t.Errorf("status %d, %d bytes, without a deadline: %v", w.Code, w.Body.Len(), w.unbounded)
	}
}

// TestProbeOnLoopback: an app that listens on 127.0.0.1 alone is probed there.
func TestProbeOnLoopback(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "fine") }))
	defer app.Close()
	handler := podplan.Handler{HTTPGet: &podplan.HTTPGet{Port: port(t, app.Listener.Addr().String()), Path: "/"}}
	snapshot := &identity.Snapshot{Workload: &podplan.Workload{Handlers: map[string]podplan.Handler{"app/livenessProbe": handler}}}
	for _, onLoopback := range []bool{true, false} {
		prober := NewProber(func() *identity.Snapshot { return snapshot }, clientaddr.Ranges{}, slog.New(slog.DiscardHandler))
		prober.OnLoopback = onLoopback
		l, err := net.Listen("tcp4", "127.0.0.5:0") // the pod's address
		if err != nil {
			t.Fatal(err)
		}
		server := &httptest.Server{Listener: l, Config: &http.Server{Handler: prober}}
		server.Start()
		response, err := http.Get(server.URL + podplan.HandlerPath("app/livenessProbe"))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if (response.StatusCode == http.StatusOK) != onLoopback {
			t.Errorf("on loopback %t: %s", onLoopback, response.Status)
		}
		server.Close()
	}
}
