package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/app/client"
	"github.com/meshless-dev/meshless/test/app/load"
	"github.com/meshless-dev/meshless/test/program"
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

// TestStandin: a server that calls itself and somebody who is not there, as its environment says.
func TestStandin(t *testing.T) {
	port, nobody := freePort(t), freePort(t)
	address, err := os.Hostname() // loopback names nobody to call
	if err != nil {
		t.Fatal(err)
	}
	if _, err := net.LookupHost(address); err != nil {
		program.Missing(t, "a machine that knows its own name: %v", err)
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
