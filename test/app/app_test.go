package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/app/client"
	"github.com/meshless-dev/meshless/test/app/load"
)

func TestDiscover(t *testing.T) {
	env := map[string]string{
		"STANDIN_CALLS": "reviews:9080, http://details:9080/details/0",
		"STANDIN_PORTS": "8080",
		"CATALOG_ADDR":  "productcatalogservice:3550",
		"PAYMENT_URL":   "http://payment.shop.svc:80/charge",
		"REDIS_ADDR":    "redis-cart:6379",
		"DB_HOST":       "db",
		"DB_PORT":       "5432",
		"CACHE_HOST":    "cache", // no port
		"BY_IP":         "10.0.0.7:80",
		// What names nobody to call.
		"LISTEN_ADDR": "0.0.0.0:8080", "PORT": ":8080", "SELF": "localhost:8080", "TIME": "12:30", "IMAGE": "redis:alpine", "SECURE": "https://example.org:443",
		"URI": "postgres://db:5432/x", "PATH": "/bin:/usr/bin", "MARKER": "a:1", "EMPTY": "",
		// What the kubelet adds for the Service frontend, and for the API server.
		"FRONTEND_SERVICE_HOST": "10.96.0.9", "FRONTEND_SERVICE_PORT": "80", "FRONTEND_PORT": "tcp://10.96.0.9:80", "FRONTEND_PORT_80_TCP_ADDR": "10.96.0.9",
		"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_PORT": "tcp://10.96.0.1:443",
	}
	want := []string{
		"http://10.0.0.7:80/", "http://db:5432/", "http://details:9080/details/0", "http://payment.shop.svc:80/charge", "http://productcatalogservice:3550/",
		"http://redis-cart:6379/", "http://reviews:9080/",
	}
	if got := discover(env); !slices.Equal(got, want) {
		t.Errorf("discover: got  %v\nwant %v", got, want)
	}
}

func TestFlags(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"", "want a command: serve, call"},
		{"sing", `"sing" is none of`},
		{"serve --port 0", `"0" is not a port`},
		{"serve 8080", `"8080" is not a flag`},
		{"call", "want URLs"},
		{"call db:5432", `"db:5432" does not begin with http:// or udp://`},
		{"talk", "want one argument"},
		{"load http://a", "--rate 0"},
		{"load --rate 5", "want URLs"},
		{"load --rate 5 http://a --for 3s", `"--for" does not begin`},
		{"standin now", `"now" is not a flag`},
	} {
		err := run(t.Context(), strings.Fields(test.args), nil, io.Discard)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("app %s: got %v, want %q", test.args, err, test.want)
		}
	}
	if err := run(t.Context(), []string{"standin"}, []string{"STANDIN_PORTS=http"}, io.Discard); err == nil || !strings.Contains(err.Error(), "STANDIN_PORTS") {
		t.Errorf("standin with a bad port: %v", err)
	}
	g, err := parseLoad(strings.Fields("--rate 2.5 --keepalive --for 3s http://a http://b"), map[string]string{"MARKER": "m"})
	if err != nil || g.Rate != 2.5 || !g.Keepalive || g.runs != 3*time.Second || g.port != 8090 || g.Marker != "m" || len(g.URLs) != 2 {
		t.Errorf("load: %+v, %v", g, err)
	}
	var p ports
	if err := errors.Join(p.Set("80,443"), p.Set("9000")); err != nil || !slices.Equal(p, ports{80, 443, 9000}) {
		t.Errorf("ports: %v, %v", p, err)
	}
}

// TestServe follows a server from its start to its end by SIGTERM, with a request under way.
func TestServe(t *testing.T) {
	port := freePort(t)
	base := "http://127.0.0.1:" + port
	ctx, terminate := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"serve", "--port", port}, nil, io.Discard) }()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"call", "--retries", "20", base + "/"}, nil, &out); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	var line client.Answer
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line.Status != 200 || !strings.Contains(line.Body, `"port":`+port) {
		t.Errorf("call printed %s (%v)", &out, err)
	}
	for _, step := range []struct {
		path   string
		status int
	}{{"/healthz", 200}, {"/fail", 200}, {"/healthz", 503}, {"/heal", 200}, {"/healthz", 200}, {"/echo?n=70000", 200}, {"/echo", 400}, {"/slow?d=x", 400}, {"/tls", 503}, {"/headers", 503}} {
		if status, _, _ := client.Send(t.Context(), time.Second, http.MethodGet, base+step.path, ""); status != step.status {
			t.Errorf("GET %s: got %d, want %d", step.path, status, step.status)
		}
	}
	if _, body, err := client.Send(t.Context(), time.Second, http.MethodPost, base+"/echo", "said"); body != "said" || err != nil {
		t.Errorf("POST /echo: %q, %v", body, err)
	}
	out.Reset()
	err := run(t.Context(), []string{"load", "--rate", "50", "--keepalive", "--for", "300ms", "--port", freePort(t), base + "/"}, nil, &out)
	if err != nil || !strings.Contains(out.String(), `"failed":0`) {
		t.Errorf("load: %s (%v)", &out, err)
	}
	slow := make(chan error, 1)
	go func() {
		_, _, err := client.Send(context.Background(), 5*time.Second, http.MethodGet, base+"/slow?d=1500ms", "")
		slow <- err
	}()
	time.Sleep(200 * time.Millisecond) // until it is under way
	terminate()
	if _, _, err := client.Send(t.Context(), time.Second, http.MethodGet, base+"/", ""); err != nil {
		t.Errorf("just after SIGTERM: %v", err)
	}
	if err := errors.Join(<-slow, <-ended); err != nil {
		t.Errorf("the request under way, and the end: %v", err)
	}
	if err := run(t.Context(), []string{"call", "--retries", "0", base + "/"}, nil, io.Discard); !errors.Is(err, errFailed) {
		t.Errorf("a call after the end: %v", err)
	}
}

func TestGRPCHealth(t *testing.T) {
	port := freePort(t)
	ctx, terminate := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"serve", "--port", port}, nil, io.Discard) }()
	if err := run(t.Context(), []string{"call", "--retries", "20", "http://127.0.0.1:" + port + "/healthz"}, nil, io.Discard); err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	for path, status := range map[string]byte{"/heal": serving, "/fail": notServing} {
		if _, _, err := client.Send(t.Context(), time.Second, http.MethodGet, "http://127.0.0.1:"+port+path, ""); err != nil {
			t.Fatal(err)
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:"+port+healthCheckPath, bytes.NewReader(make([]byte, 5)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/grpc")
		response, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if want := []byte{0, 0, 0, 0, 2, fieldStatus << 3, status}; err != nil || !bytes.Equal(body, want) || response.Trailer.Get("Grpc-Status") != "0" {
			t.Errorf("after %s: %v, trailers %v (%v), want %v", path, body, response.Trailer, err, want)
		}
	}
	terminate()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestServeOtherProtocols: HTTPS and datagrams, and a server that knows no gRPC.
func TestServeOtherProtocols(t *testing.T) {
	plain, secure, datagrams := freePort(t), freePort(t), freePort(t)
	ctx, terminate := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"serve", "--http1", "--port", plain, "--tls-port", secure, "--udp-port", datagrams}, nil, io.Discard)
	}()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"call", "--retries", "20", "udp://127.0.0.1:" + datagrams}, nil, &out); err != nil || !strings.Contains(out.String(), `"body":"app: anybody there?"`) {
		t.Errorf("datagram: %s (%v)", &out, err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get("https://127.0.0.1:" + secure + "/tls")
	if err != nil {
		t.Fatal(err)
	}
	if response.Body.Close(); response.StatusCode != http.StatusOK {
		t.Errorf("GET /tls over HTTPS: %s", response.Status)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:"+plain+"/headers", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "probe.example"
	r.Header.Set("X-Probe", "yes")
	if response, err = http.DefaultClient.Do(r); err != nil {
		t.Fatal(err)
	}
	if response.Body.Close(); response.StatusCode != http.StatusOK {
		t.Errorf("GET /headers as a probe asks: %s", response.Status)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	if response, err := (&http.Client{Transport: &http.Transport{Protocols: protocols}}).Get("http://127.0.0.1:" + plain + "/"); err == nil {
		response.Body.Close()
		t.Errorf("HTTP/2, as gRPC speaks it, is answered with %s", response.Status)
	}
	terminate()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestStandin: a server that calls itself and somebody who is not there, as its environment says.
func TestStandin(t *testing.T) {
	port, nobody := freePort(t), freePort(t)
	address, err := os.Hostname() // loopback names nobody to call
	if err != nil {
		t.Fatal(err)
	}
	if _, err := net.LookupHost(address); err != nil {
		t.Skipf("this machine does not know its own name: %v", err)
	}
	ctx, terminate := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"standin"}, []string{"STANDIN_PORTS=" + port, "SELF_ADDR=" + address + ":" + port, "OTHER_ADDR=" + address + ":" + nobody, "MARKER=m"}, io.Discard)
	}()
	self, other := "http://"+address+":"+port+"/", "http://"+address+":"+nobody+"/"
	var calls map[string]load.Stats
	for deadline := time.Now().Add(10 * time.Second); calls[self].Answered() < 3 || calls[other].Failed < 1; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("calls: %v", calls)
		}
		if _, body, err := client.Send(t.Context(), time.Second, http.MethodGet, "http://127.0.0.1:"+port+"/calls", ""); err == nil {
			if err := json.Unmarshal([]byte(body), &calls); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(calls) != 2 || calls[other].Answered() > 0 || len(calls[other].Errors) == 0 {
		t.Errorf("calls: %v", calls)
	}
	terminate()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// freePort is a port that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
}
