package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// The ledger adds up: every request that reached the server is answered or failed, and errors that differ by the
// client's port alone are one kind.
func TestGeneratorCounts(t *testing.T) {
	var served, refused atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			refused.Add(1)
			http.Error(w, "no", http.StatusTeapot)
			return
		}
		served.Add(1)
	}))
	defer server.Close()
	g := &Generator{Rate: 200, Keepalive: true, Timeout: time.Second, URLs: []string{server.URL + "/", server.URL + "/no"}}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	g.Run(ctx)
	s := g.Stats(true)
	if s.Answered() == 0 || int64(s.Answered()) != served.Load() || int64(s.Failed) != refused.Load() || s.Errors["status 418"] != s.Failed || len(s.Errors) != 1 {
		t.Errorf("%s; the server answered %d and refused %d", s, served.Load(), refused.Load())
	}
	if again := g.Stats(false); again.Requests != 0 || again.Errors == nil {
		t.Errorf("after a reset: %+v", again)
	}
}

// A kept connection that the server closes instead of an answer is no failure; its end is counted.
func TestGeneratorReopens(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				if _, err := http.ReadRequest(in); err != nil {
					return
				}
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				http.ReadRequest(in) // the second request: no answer
			}()
		}
	}()
	g := &Generator{Rate: 50, Keepalive: true, Timeout: time.Second, Marker: "m", URLs: []string{"http://" + listener.Addr().String() + "/"}}
	for n := range 3 {
		g.one(2 * n) // on a kept connection
	}
	if s := g.Stats(false); s.Reopened == 0 || s.Failed > 0 || s.Requests != 3 {
		t.Errorf("%s, want connections that ended and were reopened", s)
	}
}

func TestLedgerKinds(t *testing.T) {
	var l Ledger
	for i := range 50 {
		l.Record(fmt.Errorf("read tcp 10.0.0.1:%d->10.0.0.2:80: reset", 40000+i), false, time.Duration(i)*time.Millisecond)
		l.Record(fmt.Errorf("error %d", i), false, 0)
	}
	l.Record(nil, true, 7*time.Second)
	s := l.Stats(false)
	if s.Requests != 101 || s.Failed != 100 || s.Reopened != 1 || s.Slowest != 7000 {
		t.Errorf("%+v", s)
	}
	if s.Errors["read tcp 10.0.0.1->10.0.0.2:80: reset"] != 50 || len(s.Errors) != maxKinds || s.Errors["others"] == 0 {
		t.Errorf("kinds: %v", s.Errors)
	}
	var sum Stats
	sum.Add(s)
	sum.Add(s)
	if sum.Requests != 202 || sum.Errors["others"] != 2*s.Errors["others"] || !strings.HasPrefix(sum.String(), "202 requests, 200 failed, 2 kept connections ended, slowest 7000 ms\n\t") {
		t.Error(sum)
	}
	l.Record(errors.New("error 1"), false, 0)
	if before := s.Errors["error 1"]; before != 1 {
		t.Errorf("a copy that was handed out changed: %d", before)
	}
}
