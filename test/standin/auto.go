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
)

const (
	callEvery   = 300 * time.Millisecond // per target
	callTimeout = 3 * time.Second
)

// outcome is what came of the calls to one target.
type outcome struct {
	OK        int    `json:"ok"`
	Failed    int    `json:"failed"`
	LastError string `json:"last_error,omitempty"`
}

type calls struct {
	mu       sync.Mutex
	outcomes map[string]outcome // by target
}

func (c *calls) add(target string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.outcomes[target]
	if err == nil {
		o.OK++
	} else {
		o.Failed++
		o.LastError = err.Error()
	}
	c.outcomes[target] = o
}

func (c *calls) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	writeJSON(w, c.outcomes)
}

// auto listens and calls as its environment says.
func auto(ctx context.Context, args []string, env map[string]string) error {
	if err := nothing(flag.NewFlagSet("auto", flag.ContinueOnError), args); err != nil {
		return err
	}
	var on ports
	if list := env["STANDIN_PORTS"]; list != "" {
		if err := on.Set(list); err != nil {
			return fmt.Errorf("STANDIN_PORTS: %w", err)
		}
	}
	found := discover(env)
	c := &calls{outcomes: map[string]outcome{}}
	for _, target := range found {
		c.outcomes[target] = outcome{}
	}
	a := newApp()
	a.Handle("GET /calls", c)
	// Callers end at once: what they would do after SIGTERM tells nothing.
	var callers sync.WaitGroup
	for i, target := range found {
		callers.Go(func() {
			pause(ctx, time.Duration(i)*callEvery/time.Duration(len(found))) // spread, since they share a small machine
			c.keepCalling(ctx, target, env["MARKER"])
		})
	}
	defer callers.Wait()
	return listen(ctx, on, a)
}

// keepCalling calls in turn on kept connections and on ones of their own.
func (c *calls) keepCalling(ctx context.Context, target, marker string) {
	for n := 0; ctx.Err() == nil; n++ {
		var err error
		if n%2 == 0 {
			_, err = keptRequest(ctx, callTimeout, target, marker)
		} else {
			_, _, err = request(ctx, oneShot, callTimeout, target, marker)
		}
		if ctx.Err() == nil {
			c.add(target, err)
		}
		pause(ctx, callEvery)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
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
