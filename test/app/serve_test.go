package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/app/client"
	"github.com/meshless-dev/meshless/test/app/talk"
)

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

// TestCallTalks: call holds the client's half of a conversation, and says what is wrong with the server's.
func TestCallTalks(t *testing.T) {
	ctx, terminate := context.WithCancel(t.Context())
	defer terminate()
	port := freePort(t)
	for { // until the kernel gives one with a short conversation
		n, err := strconv.Atoi(port)
		if pattern, ok := talk.Of(n); ok && pattern < talk.LongIdle || err != nil {
			break
		}
		port = freePort(t)
	}
	go func() { _ = run(ctx, []string{"talk", port}, nil, io.Discard) }()
	if err := run(t.Context(), []string{"call", "--retries", "20", "talk://127.0.0.1:" + port}, nil, io.Discard); err != nil {
		t.Error(err)
	}
	mute := freePort(t)
	go func() { _ = run(ctx, []string{"serve", "--listen", "127.0.0.2", "--port", mute}, nil, io.Discard) }()
	if err := run(t.Context(), []string{"call", "--retries", "20", "http://127.0.0.2:" + mute + "/"}, nil, io.Discard); err != nil {
		t.Error(err)
	}
	for _, url := range []string{"http://127.0.0.1:" + mute, "talk://127.0.0.1:" + mute, "talk://127.0.0.1"} {
		if err := run(t.Context(), []string{"call", "--retries", "0", url}, nil, io.Discard); !errors.Is(err, errFailed) {
			t.Errorf("%s: %v, want it to fail: the server listens on 127.0.0.2 alone", url, err)
		}
	}
}
