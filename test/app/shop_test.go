package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// startDB runs a store on a loopback port; the test's end stops it and fails if it does not end cleanly.
func startDB(t *testing.T) database {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- new(store).serve(ctx, listener) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("db ended with %v", err)
		}
	})
	return database(listener.Addr().String())
}

func TestOrderTravelsFromPageToDatabaseAndBack(t *testing.T) {
	apiServer := httptest.NewServer(apiHandler(startDB(t)))
	defer apiServer.Close()
	page := httptest.NewServer(webHandler(apiServer.URL))
	defer page.Close()
	for _, order := range []string{"two <apples>", "one pear"} {
		if status, body := do(t, http.MethodPost, page.URL+"/", order); status != http.StatusOK {
			t.Fatalf("POST %q: status %d: %s", order, status, body)
		}
	}
	status, body := do(t, http.MethodGet, page.URL+"/", "")
	if want := "two &lt;apples&gt;\none pear\n"; status != http.StatusOK || !strings.Contains(body, want) {
		t.Errorf("GET /: status %d, body %q, want it to hold %q", status, body, want)
	}
	var out bytes.Buffer
	if err := report(t.Context(), apiServer.URL, &out); err != nil || !strings.Contains(out.String(), "one pear") {
		t.Errorf("report printed %q, error %v", out.String(), err)
	}
}

func TestServerSpeaksFirst(t *testing.T) {
	conn, err := net.Dial("tcp", string(startDB(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != greeting {
		t.Errorf("db greets with %q (%v), want %q", line, err, greeting)
	}
}

func TestWithoutDatabase(t *testing.T) {
	apiServer := httptest.NewServer(apiHandler("127.0.0.1:1"))
	defer apiServer.Close()
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/orders": 503} {
		if status, body := do(t, http.MethodGet, apiServer.URL+path, ""); status != want {
			t.Errorf("GET %s: status %d (%s), want %d", path, status, body, want)
		}
	}
	if err := report(t.Context(), apiServer.URL, io.Discard); err == nil {
		t.Error("report succeeds without a database")
	}
}

func TestOrdersOfSeveralLinesAreRefused(t *testing.T) {
	apiServer := httptest.NewServer(apiHandler(startDB(t)))
	defer apiServer.Close()
	for _, order := range []string{"", "a\nPUT b", strings.Repeat("x", 5000)} {
		if status, _ := do(t, http.MethodPost, apiServer.URL+"/orders", order); status != http.StatusBadRequest {
			t.Errorf("POST of %d bytes: status %d, want 400", len(order), status)
		}
	}
}

func TestRoles(t *testing.T) {
	for _, args := range [][]string{nil, {"shelf"}, {"web", "api"}} {
		if err := run(t.Context(), args, nil, io.Discard); err == nil {
			t.Errorf("run(%q) succeeds", args)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	for _, role := range []string{"web", "api", "db"} { // a role that is told to stop ends without an error
		if err := run(ctx, []string{role}, []string{"LISTEN=127.0.0.1:0"}, io.Discard); err != nil {
			t.Errorf("run(%q): %v", role, err)
		}
	}
}

func do(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}
