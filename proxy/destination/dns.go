package destination

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

const (
	maxNames     = 32 // bounds the forward queries that one reverse answer can cause
	confirmWidth = 4  // of these at once
)

// errCutOff is an answer of more than 64 KiB: DNS cannot say more (RFC 1035, section 4.2.2).
var errCutOff = errors.New("cuts its answer off even by TCP")

// client asks DNS servers one after the other.
type client struct {
	servers []netip.AddrPort
	timeout time.Duration
}

// names returns the names of addr below svc.<domain> and how long they hold. That there are none is no error.
func (c *client) names(ctx context.Context, addr netip.Addr, domain string) ([]Name, time.Duration, error) {
	answer, err := c.reverse(ctx, addr)
	if err != nil {
		return nil, 0, err
	}
	found := pointers(answer, domain)
	if len(found) == 0 {
		return nil, negativeTTL(answer), nil
	}
	if len(found) > maxNames {
		return nil, 0, fmt.Errorf("%s has more than %d names", addr, maxNames)
	}
	names, ttls := make([]Name, len(found)), make([]time.Duration, len(found))
	var queries errgroup.Group
	queries.SetLimit(confirmWidth)
	for i, p := range found {
		queries.Go(func() error {
			confirmed, ttl, err := c.confirm(ctx, p.target, addr)
			names[i] = p.name
			names[i].Confirmed = confirmed
			ttls[i] = min(seconds(p.ttl), ttl)
			return err
		})
	}
	if err := queries.Wait(); err != nil {
		return nil, 0, err
	}
	return names, min(maxTTL, slices.Min(ttls)), nil
}

// confirm tells whether the address records of name contain addr. A writer of an address's reverse zone must not be
// able to claim a name of the mesh by that.
func (c *client) confirm(ctx context.Context, name string, addr netip.Addr) (bool, time.Duration, error) {
	addrs, ttl, err := c.addresses(ctx, name, recordType(addr))
	if err != nil || !slices.Contains(addrs, addr) {
		return false, minTTL, err
	}
	return true, ttl, nil
}

// addresses are what the A or AAAA records of name contain, and how long they hold. That there are none is no error.
// errCutOff comes with those that did fit.
func (c *client) addresses(ctx context.Context, name string, kind uint16) ([]netip.Addr, time.Duration, error) {
	answer, err := c.query(ctx, name, kind)
	if answer == nil {
		return nil, 0, err
	}
	addrs, ttl := addressesIn(answer, name)
	return addrs, ttl, err
}

func addressesIn(answer *dns.Msg, name string) ([]netip.Addr, time.Duration) {
	var addrs []netip.Addr
	ttl := maxTTL
	for _, rr := range answer.Answer {
		if !strings.EqualFold(rr.Header().Name, dns.Fqdn(name)) {
			continue // the target of an alias is another name
		}
		var ip net.IP
		switch rr := rr.(type) {
		case *dns.A:
			ip = rr.A
		case *dns.AAAA:
			ip = rr.AAAA
		}
		if addr, ok := netip.AddrFromSlice(ip); ok {
			addrs = append(addrs, addr.Unmap())
			ttl = min(ttl, seconds(rr.Header().Ttl))
		}
	}
	return addrs, ttl
}

func (c *client) reverse(ctx context.Context, addr netip.Addr) (*dns.Msg, error) {
	name, err := dns.ReverseAddr(addr.String())
	if err != nil {
		return nil, err
	}
	return c.query(ctx, name, dns.TypePTR)
}

// recordType is the type of the records that can contain addr.
func recordType(addr netip.Addr) uint16 {
	if addr.Is6() {
		return dns.TypeAAAA
	}
	return dns.TypeA
}

// query asks each server until one answers, and a second time since a datagram can be lost. NOERROR and NXDOMAIN are
// answers, everything else is not. An answer that is cut off even by TCP comes with errCutOff.
func (c *client) query(ctx context.Context, name string, kind uint16) (*dns.Msg, error) {
	err := errors.New("no name server is configured")
	for _, server := range slices.Concat(c.servers, c.servers) {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
			break
		}
		var answer *dns.Msg
		if answer, err = c.ask(ctx, server, name, kind); answer != nil {
			return answer, err
		}
	}
	return nil, fmt.Errorf("%s query for %s: %w", dns.TypeToString[kind], name, err)
}

// ask asks one server by UDP, and by TCP where the answer is cut off.
func (c *client) ask(ctx context.Context, server netip.AddrPort, name string, kind uint16) (*dns.Msg, error) {
	question := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	question.SetEdns0(1232, false) // fits every path without fragments
	var last *dns.Msg
	for _, network := range []string{"udp", "tcp"} {
		transport := dns.Client{Net: network, Timeout: c.timeout}
		answer, _, err := transport.ExchangeContext(ctx, question, server.String())
		if err != nil {
			return nil, fmt.Errorf("server %s: %w", server, err)
		}
		if err := fits(question, answer); err != nil {
			return nil, fmt.Errorf("server %s: %w", server, err)
		}
		if !answer.Truncated {
			return answer, nil
		}
		last = answer
	}
	return last, fmt.Errorf("server %s: %w", server, errCutOff)
}

// fits checks that answer is one to question, and that it says something.
func fits(question, answer *dns.Msg) error {
	if !answer.Response || len(answer.Question) != 1 ||
		answer.Question[0].Qtype != question.Question[0].Qtype ||
		!strings.EqualFold(answer.Question[0].Name, question.Question[0].Name) {
		return errors.New("answers another question")
	}
	if answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError {
		return fmt.Errorf("answers %s", dns.RcodeToString[answer.Rcode])
	}
	return nil
}

// negativeTTL is how long the absence of a name holds (RFC 2308, section 5).
func negativeTTL(answer *dns.Msg) time.Duration {
	for _, rr := range answer.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return seconds(min(soa.Minttl, soa.Hdr.Ttl))
		}
	}
	return minTTL
}

func seconds(ttl uint32) time.Duration { return time.Duration(ttl) * time.Second }
