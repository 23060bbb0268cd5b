package sidecar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/admin"
)

const (
	hookPoll    = 100 * time.Millisecond
	hookRequest = 2 * time.Second // for one answer of the proxy
	// hookQuiet is how long nothing must be under way before a drain counts as done: an app that shuts down may close
	// one connection before it opens the next.
	hookQuiet = time.Second
)

// hooks are the lifecycle hooks of a sidecar that is a plain container: programs that the kubelet runs beside the
// proxy, in its container. They ask it over loopback, as the image holds nothing else that could.
type hooks struct {
	health, admin string // addresses
}

var ownPod = hooks{health: atLoopback(api.HealthPort), admin: atLoopback(api.AdminPort)}

func atLoopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// wait is the postStart hook. The kubelet starts the next container only after it, so that the app's first connection
// finds a proxy. An error makes the kubelet start the proxy again; until then the app meets closed ports, and nothing
// leaves in the clear.
func (h hooks) wait(ctx context.Context, a podplan.WaitArgs) error {
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	reason := errors.New("it was not asked")
	for {
		err := h.ready(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil { // a request that the end of the wait cut short says nothing about the proxy
			reason = err
		}
		select {
		case <-time.After(hookPoll):
		case <-ctx.Done():
			return fmt.Errorf("the proxy is not ready after %s: %w", a.Timeout, reason)
		}
	}
}

// drain is the preStop hook. The kubelet tells all containers of a pod to end at once, and the others still need the
// proxy: it stays until nothing is under way. While the cluster learns that the pod ends, new inbound connections are
// still taken; what the app opens is served to the end.
func (h hooks) drain(ctx context.Context, a podplan.DrainArgs) error {
	if h.ready(ctx) == nil { // a pod that was not ready is in no Service, so no client has to learn
		select {
		case <-time.After(a.Delay):
		case <-ctx.Done():
		}
	}
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	var failure error
	for quiet := time.Duration(0); quiet < hookQuiet; {
		activity, err := h.activity(ctx)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			return fmt.Errorf("the proxy has ended: %w", err)
		case err == nil && activity.Idle():
			quiet += hookPoll
		default:
			quiet = 0
		}
		if ctx.Err() == nil {
			failure = err
		}
		select {
		case <-time.After(hookPoll):
		case <-ctx.Done(): // what is left, the proxy cuts and logs when it is told to end
			return failure
		}
	}
	return nil
}

// ready asks /readyz and returns why the proxy is not.
func (h hooks) ready(ctx context.Context) error {
	_, err := ask(ctx, http.MethodGet, "http://"+h.health+"/readyz")
	return err
}

// activity begins a drain, or asks how it goes.
func (h hooks) activity(ctx context.Context) (a admin.Activity, err error) {
	body, err := ask(ctx, http.MethodPost, "http://"+h.admin+admin.DrainPath)
	if err == nil {
		err = json.Unmarshal(body, &a)
	}
	return a, err
}

// ask returns the body of an answer with status 200; the error of another status is its body.
func ask(ctx context.Context, method, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, hookRequest)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set(admin.DrainHeader, "1")
	// no proxy from the environment: it is this pod that is asked
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(body)))
	}
	return body, err
}
