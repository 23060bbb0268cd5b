package main

import (
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

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
