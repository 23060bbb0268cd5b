package destination

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds of a sweep. Together they keep the load of one proxy on DNS at 33 queries per second and family.
const (
	sweepWidth    = 16                    // queries at once
	sweepSpacing  = 30 * time.Millisecond // per query, on the average of the time until the next sweep
	sweepMinimum  = 30 * time.Second      // how long complete answers hold at least
	sweepFailures = 64                    // after so many the rest of the Services is left to the next sweep
)

// witnessService exists in every cluster, in the API server's own view and so in DNS.
const witnessService = "kubernetes.default"

var errNotAsked = errors.New("not asked, since DNS fails")

// A sweep asks DNS for the addresses of all Services of the mesh, so that an address without a name is not foreign by
// the word of the reverse zone alone, and for the Service that every cluster has, so that it is known whether the word
// of this DNS means anything. Its fields but covered are fixed once it is ready.
type sweep struct {
	pending
	covered  *Map                    // the last map of which all Services were seen to be here; guarded by Resolver.mu
	oldest   time.Time               // when the first of the answers was asked for
	expires  time.Time               // when all, or what failed, is due to be asked for again
	answers  map[string][]netip.Addr // by Service; none where it does not exist
	failed   map[string]error        // by Service
	services map[netip.Addr][]string // answers the other way round
	witness  error                   // why denials are no evidence
	doubt    error                   // why the answers are not all
}

type sweepKey struct {
	domain string
	kind   uint16 // dns.TypeA or dns.TypeAAAA
}

// swept is what a sweep of the Services of m says about an address. It waits as long as patience allows, given when the
// sweep began.
func (r *Resolver) swept(m *Map, k key, patience func(began time.Time) (context.Context, context.CancelFunc)) Facts {
	for range 3 { // what is in flight may be for another map, but each covers what was asked for before it
		s := r.sweep(sweepKey{k.domain, recordType(k.addr)}, m)
		ctx, cancel := patience(s.began)
		err := s.wait(ctx)
		cancel()
		if err != nil {
			return Facts{Doubt: fmt.Errorf("%s has no name, and the Services of the mesh are still being asked for their addresses: %w", k.addr, err)}
		}
		if r.covers(s, m) {
			return s.facts(k.addr)
		}
	}
	return Facts{Doubt: fmt.Errorf("%s has no name, and the mesh map changes faster than its Services can be asked for", k.addr)}
}

// sweep returns the sweep that is in flight or holds for m, or else begins one.
func (r *Resolver) sweep(k sweepKey, m *Map) *sweep {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, now := r.sweeps[k], r.now()
	if last != nil && (!last.done() || (now.Before(last.expires) && last.covers(m))) {
		return last
	}
	next := &sweep{pending: newPending(), oldest: now, answers: map[string][]netip.Addr{}, failed: map[string]error{}, witness: errNoAnswerYet}
	if last != nil && now.Before(last.oldest.Add(sweepPeriod(len(last.answers)))) {
		// its answers still hold, but are not all
		next.oldest, next.answers, next.witness = last.oldest, maps.Clone(last.answers), last.witness
	}
	r.sweeps[k] = next
	go r.runSweep(next, k, m) // bound to no caller, since others may wait for it
	return next
}

// sweepPeriod is how often so many queries may be asked.
func sweepPeriod(queries int) time.Duration {
	return max(sweepMinimum, time.Duration(queries)*sweepSpacing)
}

func (r *Resolver) covers(s *sweep, m *Map) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return s.covers(m)
}

// covers tells whether every Service of m has been asked for, with or without success. The caller holds Resolver.mu; s
// is ready.
func (s *sweep) covers(m *Map) bool {
	if s.covered == m {
		return true
	}
	for _, service := range m.services {
		_, answered := s.answers[service]
		if _, failed := s.failed[service]; !answered && !failed {
			return false
		}
	}
	s.covered = m
	return true
}

func (r *Resolver) runSweep(s *sweep, k sweepKey, m *Map) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), sweepPeriod(len(m.services)), errNotAsked)
	defer cancel()
	if s.witness != nil {
		s.answers[witnessService], s.witness = r.client.testify(ctx, k.domain)
	}
	missing := slices.DeleteFunc(slices.Clone(m.services), func(service string) bool { _, ok := s.answers[service]; return ok })
	if len(s.answers[witnessService]) > 0 {
		r.client.askAll(ctx, missing, k, s)
		if s.witness == nil {
			s.witness = r.client.testifyFamily(ctx, k, s)
		}
	} else { // they would be denied as well, or not answered
		for _, service := range missing {
			s.failed[service] = errNotAsked
		}
	}
	s.services = map[netip.Addr][]string{}
	for _, service := range slices.Sorted(maps.Keys(s.answers)) {
		for _, addr := range s.answers[service] {
			s.services[addr] = append(s.services[addr], service)
		}
	}
	r.count(s.conclude(r.now()))
	close(s.ready)
}

// conclude words what the sweep does not know, says how long it holds, and returns its result for the metrics. Every
// Service is asked for once in a period with success, and every failure costs sweepSpacing: that bounds the load, even
// where DNS dies and comes back.
func (s *sweep) conclude(now time.Time) string {
	failures, worst := 0, cmp.Or(s.witness, errNotAsked)
	for _, service := range slices.Sorted(maps.Keys(s.failed)) {
		if err := s.failed[service]; !errors.Is(err, errNotAsked) {
			if failures++; failures == 1 {
				worst = err
			}
		}
	}
	if len(s.failed) > 0 {
		s.doubt = fmt.Errorf("the address has no name, but DNS does not tell those of %d Services of the mesh: %w", len(s.failed), worst)
	}
	var denied *deniedWitness
	switch {
	case errors.As(s.witness, &denied):
		s.expires = now.Add(negTTL)
		return "sweep_denied"
	case s.witness != nil || s.doubt != nil:
		s.expires = now.Add(max(minTTL, time.Duration(failures)*sweepSpacing))
		return "sweep_error"
	}
	s.expires = s.oldest.Add(sweepPeriod(len(s.answers)))
	return "sweep"
}

// facts are about an address that has no name in the reverse zone.
func (s *sweep) facts(addr netip.Addr) Facts {
	f := Facts{Doubt: s.doubt}
	for _, service := range s.services[addr] {
		f.Names = append(f.Names, Name{Service: service, Confirmed: true, Forward: true})
	}
	if len(f.Names) == 0 && s.witness != nil {
		f.Doubt = s.witness
	}
	return f
}

// askAll asks for the addresses of services into s, several at once.
func (c *client) askAll(ctx context.Context, services []string, k sweepKey, s *sweep) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan string)
	var mu sync.Mutex
	var workers sync.WaitGroup
	for range min(sweepWidth, len(services)) {
		workers.Go(func() {
			for service := range next {
				addrs, _, err := c.addresses(ctx, service+".svc."+k.domain, k.kind)
				mu.Lock()
				if err == nil {
					s.answers[service] = addrs
				} else if s.failed[service] = err; len(s.failed) == sweepFailures {
					cancel(errNotAsked)
				}
				mu.Unlock()
			}
		})
	}
	for _, service := range services {
		next <- service
	}
	close(next)
	workers.Wait()
}

// deniedWitness says that DNS denies what exists, and what is likely wrong.
type deniedWitness struct{ detail string }

func (d *deniedWitness) Error() string { return d.detail }

// testify asks for the Service that every cluster has, forward, and for the name of its addresses, backward. The
// addresses are returned even with an error. The error is nil where DNS tells both: then its denials are evidence.
func (c *client) testify(ctx context.Context, domain string) ([]netip.Addr, error) {
	host := witnessService + ".svc." + domain
	var addrs []netip.Addr
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		more, _, err := c.addresses(ctx, host, kind)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, more...)
	}
	addrs = addrs[:min(len(addrs), maxNames)]
	if len(addrs) == 0 {
		return nil, &deniedWitness{"DNS denies " + host + ", which every cluster has, so it proves nothing that it denies this address a name: " +
			"is spec.clusterDomain right, and does the DNS of this pod (dnsPolicy) serve it?"}
	}
	for _, addr := range addrs {
		answer, err := c.reverse(ctx, addr)
		if err != nil {
			return addrs, err
		}
		if !slices.ContainsFunc(pointers(answer, domain), func(p pointer) bool { return strings.EqualFold(p.target, host+".") }) {
			return addrs, &deniedWitness{fmt.Sprintf("DNS does not tell that %s is %s, so it proves nothing that it denies this address a name: "+
				"let it serve the reverse zones (in CoreDNS: kubernetes %s in-addr.arpa ip6.arpa), or name the address in outbound.excludeCIDRs or meshCIDRs", addr, host, domain)}
		}
	}
	return addrs, nil
}

// testifyFamily asks for the name of an address of the family that is swept, where the Service that every cluster has
// is of the other family alone: the reverse zones of the two are apart, and one of them may be missing. Without any
// Service of the family there is nothing to ask for, and nothing of the mesh to miss.
func (c *client) testifyFamily(ctx context.Context, k sweepKey, s *sweep) error {
	if slices.ContainsFunc(s.answers[witnessService], func(a netip.Addr) bool { return recordType(a) == k.kind }) {
		return nil
	}
	for _, service := range slices.Sorted(maps.Keys(s.answers)) {
		i := slices.IndexFunc(s.answers[service], func(a netip.Addr) bool { return recordType(a) == k.kind && private(a) })
		if i < 0 {
			continue
		}
		addr := s.answers[service][i]
		answer, err := c.reverse(ctx, addr)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(pointers(answer, k.domain), func(p pointer) bool { return p.name.Service == service }) {
			return &deniedWitness{fmt.Sprintf("DNS does not tell that %s is an address of %s, so it proves nothing that it denies this address a name: let it serve the reverse zones of both families "+
				"(in CoreDNS: kubernetes %s in-addr.arpa ip6.arpa), or name the address in outbound.excludeCIDRs or meshCIDRs", addr, service, k.domain)}
		}
		return nil
	}
	return nil
}
