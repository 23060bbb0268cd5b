package redirect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
)

// outcome is what the canaries of one family met.
type outcome struct {
	redirect, filter       Result
	redirectErr, filterErr error
}

// check makes the canaries of all families. It returns the chains that are missing, in which case why says what was
// met; with none missing, why is what kept a check from being made, or nil.
func (c *Checker) check(ctx context.Context) (missing []Chain, why error) {
	outcomes := make([]outcome, len(c.families))
	var both sync.WaitGroup
	for i, f := range c.families {
		both.Go(func() {
			o := &outcomes[i]
			o.redirect, o.redirectErr = c.redirected(ctx, f)
			o.filter, o.filterErr = c.filtered(ctx, f, o.redirect == Passed)
		})
	}
	both.Wait()
	var failed, unknown []error
	note := func(chain Chain, result Result, err error) {
		switch result {
		case Failed:
			failed = append(failed, err)
			if !slices.Contains(missing, chain) {
				missing = append(missing, chain)
			}
		case Unknown:
			unknown = append(unknown, err)
		}
	}
	for _, o := range outcomes {
		note(Output, o.redirect, o.redirectErr)
		note(EgressFilter, o.filter, o.filterErr)
	}
	if len(failed) > 0 {
		return missing, errors.Join(failed...)
	}
	return nil, errors.Join(unknown...)
}

// redirected makes the canary that the chain output has to lead to the outbound port.
func (c *Checker) redirected(ctx context.Context, f family) (Result, error) {
	for len(f.arrivals) > 0 {
		<-f.arrivals
	}
	to := netip.AddrPortFrom(f.canary, api.OutboundPort)
	conn, err := c.dial(ctx, f.canary, to)
	if err != nil {
		return undone(err), fmt.Errorf("%s is not redirected: %w", to, err)
	}
	defer reset(conn)
	from := addrPort(conn.LocalAddr())
	wait := time.NewTimer(c.options.Timeout)
	defer wait.Stop()
	for {
		select {
		case a := <-f.arrivals:
			if a == (arrival{from, to}) {
				return Passed, nil
			}
		case <-wait.C:
			accepts := c.options.Accepts()
			for len(f.arrivals) > 0 { // a process that stood still finds both at once
				if <-f.arrivals == (arrival{from, to}) {
					return Passed, nil
				}
			}
			if !accepts {
				return Unknown, fmt.Errorf("%s is redirected, and the proxy has no place left to take it", to)
			}
			return Failed, fmt.Errorf("%s is led to somebody else", to)
		case <-ctx.Done():
			return Unknown, ctx.Err()
		}
	}
}

// filtered makes the canary that the egress filter has to refuse. A filter without resets drops it; that is told from
// other losses by the redirect, which has just let a connection pass.
func (c *Checker) filtered(ctx context.Context, f family, passes bool) (Result, error) {
	to := addrPort(f.filter.Addr())
	conn, err := c.dial(ctx, f.canary, to)
	if err == nil {
		defer reset(conn)
		if f.took(addrPort(conn.LocalAddr()), c.options.Timeout) {
			return Failed, fmt.Errorf("the egress filter does not refuse %s", to)
		}
		return Unknown, fmt.Errorf("%s is led to somebody else, so that the egress filter cannot be checked", to)
	}
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return Passed, nil
	case passes && errors.As(err, &timeout) && timeout.Timeout() && ctx.Err() == nil:
		return Passed, nil
	case undone(err) == Failed:
		return Failed, fmt.Errorf("canary to %s: %w", to, err)
	}
	return Unknown, fmt.Errorf("canary to %s: %w", to, err)
}

// took tells whether a connection from this address has arrived where none may. All that have are taken out of the
// queue, which would fill up.
func (f family) took(from netip.AddrPort, within time.Duration) bool {
	_ = f.filter.SetDeadline(time.Now().Add(within))
	for {
		conn, err := f.filter.AcceptTCP()
		if err != nil {
			return false
		}
		is := addrPort(conn.RemoteAddr()) == from
		reset(conn)
		if is {
			return true
		}
	}
}

// undone is what a connection proves that could not be made. Refused means that nothing has redirected it. An address
// that cannot be bound is no longer local, so init's routes are gone, too. All else, such as for lack of descriptors,
// memory, ports or entries of conntrack, says nothing of the rules.
func undone(err error) Result {
	var call *os.SyscallError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return Failed
	case errors.Is(err, syscall.EADDRNOTAVAIL) && errors.As(err, &call) && call.Syscall == "bind":
		return Failed
	}
	return Unknown
}

// dial connects from the canary address.
func (c *Checker) dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: c.options.Timeout, KeepAlive: -1, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Control: bindAddress}
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}
