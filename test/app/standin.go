package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/meshless-dev/meshless/test/app/load"
)

const (
	callEvery   = 300 * time.Millisecond // per target
	callTimeout = 3 * time.Second
)

// standin listens and calls as its environment says: STANDIN_PORTS is a comma list of ports, discover finds whom to
// call, and MARKER is in every call.
func standin(ctx context.Context, args []string, env map[string]string) error {
	if err := noArgs(flag.NewFlagSet("standin", flag.ContinueOnError), args); err != nil {
		return err
	}
	var l listeners
	if list := env["STANDIN_PORTS"]; list != "" {
		if err := l.ports.Set(list); err != nil {
			return fmt.Errorf("STANDIN_PORTS: %w", err)
		}
	}
	callers := map[string]*load.Generator{} // by URL
	for _, url := range discover(env) {
		callers[url] = &load.Generator{Rate: float64(time.Second) / float64(callEvery), Keepalive: true, Timeout: callTimeout, Marker: env["MARKER"], URLs: []string{url}}
	}
	h := newHandler()
	h.HandleFunc("GET /calls", func(w http.ResponseWriter, _ *http.Request) {
		all := map[string]load.Stats{}
		for url, g := range callers {
			all[url] = g.Stats(false)
		}
		writeJSON(w, all)
	})
	// Callers end at once: what they would do after SIGTERM tells nothing.
	var running sync.WaitGroup
	defer running.Wait()
	offset := time.Duration(0)
	for _, g := range callers {
		at := time.After(offset)
		offset += callEvery / time.Duration(len(callers)) // spread, since they share a small machine
		running.Go(func() {
			select {
			case <-at:
				g.Run(ctx)
			case <-ctx.Done():
			}
		})
	}
	return l.serve(ctx, h)
}

// hostName is a name of DNS with a letter in it, so that neither "1:2" nor a time of day is taken for an address.
var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)

// discover finds the URLs that an environment names: STANDIN_CALLS, values like host:port or http://host:port/path, and
// pairs X_HOST and X_PORT. What the kubelet adds for each Service of the namespace (enableServiceLinks) names whom a
// pod could call, not whom it does, and is left out.
func discover(env map[string]string) []string {
	var found []string
	for part := range strings.SplitSeq(env["STANDIN_CALLS"], ",") {
		if target := asURL(strings.TrimSpace(part)); target != "" {
			found = append(found, target)
		}
	}
	for name, value := range env {
		if strings.HasPrefix(name, "STANDIN_") || name == "MARKER" {
			continue
		}
		if target := asURL(value); target != "" {
			found = append(found, target)
		}
		if prefix, ok := strings.CutSuffix(name, "_HOST"); ok && !serviceLink(env, prefix) {
			if target := asURL(net.JoinHostPort(value, env[prefix+"_PORT"])); target != "" {
				found = append(found, target)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// serviceLink tells whether X_HOST is of the kubelet: it comes with X_SERVICE_HOST, X_SERVICE_PORT and X_PORT=tcp://….
func serviceLink(env map[string]string, prefix string) bool {
	service, ok := strings.CutSuffix(prefix, "_SERVICE")
	return ok && strings.Contains(env[service+"_PORT"], "://")
}

// asURL is the URL to call, or "" where the text is no address of a server elsewhere.
func asURL(text string) string {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" || u.User != nil {
		return ""
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || port == 0 || !elsewhere(u.Hostname()) {
		return ""
	}
	if u.Path == "" {
		u.Path = "/"
	}
	return u.String()
}

func elsewhere(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return !ip.IsUnspecified() && !ip.IsLoopback()
	}
	return hostName.MatchString(host) && host != "localhost" && strings.ContainsFunc(host, func(r rune) bool { return r > '9' })
}
