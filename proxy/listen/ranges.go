package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/meshless-dev/meshless/internal/clientaddr"
)

// findTimeout bounds one trial. It is over at once, unless nothing answers there.
const findTimeout = time.Second

// FindRanges finds the ranges of client addresses that meshless-init has made local to this pod, by connecting to
// itself from each: the first candidate that works is init's choice, since init leaves one of them alone. Call it
// before the sandbox, which forbids to listen. It is an error if there is none: without it, connections would lead from
// the proxy back to the proxy.
func FindRanges(ctx context.Context, configured clientaddr.Ranges) (clientaddr.Ranges, error) {
	var found clientaddr.Ranges
	var failures []error
	own, err := interfaceAddresses()
	if err != nil {
		return found, fmt.Errorf("list the addresses of the pod: %w", err)
	}
	for _, candidate := range configured.Candidates() {
		err := tryRange(ctx, candidate, own, "127.0.0.1:0")
		if err == nil {
			found.V4 = candidate
			break
		}
		failures = append(failures, err)
	}
	if !found.V4.IsValid() {
		return found, notLocal(failures...)
	}
	v6 := configured.WithDefaults().V6
	switch err := tryRange(ctx, v6, own, "[::1]:0"); {
	case err == nil:
		found.V6 = v6
	case !errors.Is(err, errNoLoopback): // a pod without IPv6 has no such connections either
		return clientaddr.Ranges{}, notLocal(err)
	}
	return found, nil
}

func notLocal(failures ...error) error {
	return fmt.Errorf("no network of client addresses is local to this pod, from which to dial the app: meshless-init of the same release makes it so, "+
		"with the same --client-cidrs and before the proxy starts (is spec.init.image older than spec.proxy.image? Does a patch of the rendered output put meshless-init behind meshless-proxy?): %w", errors.Join(failures...))
}

var errNoLoopback = errors.New("no loopback address of the family")

// tryRange connects to a loopback address from the first address of the range. That it can be bound is not enough: IPv6
// binds any address. A range that holds an address of the pod itself is none that init has made.
func tryRange(ctx context.Context, p netip.Prefix, own []netip.Addr, loopback string) error {
	if i := slices.IndexFunc(own, p.Contains); i >= 0 {
		return fmt.Errorf("%s: %s is an address of this pod", p, own[i])
	}
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	l, err := config.Listen(ctx, "tcp", loopback)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", p, errNoLoopback, err)
	}
	defer l.Close()
	to := AddrPort(l.Addr())
	from := clientaddr.Ranges{V4: p, V6: p}.Probe(to.Addr())
	c, err := DialTCP(ctx, AppDialer(from, findTimeout), to)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	Reset(c)
	return nil
}
