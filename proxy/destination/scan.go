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
	"golang.org/x/sync/errgroup"
)

// Bounds of a scan. Together they keep the load of one proxy on DNS at 33 queries per second and family.
const (
	scanWidth    = 16                    // queries at once
	scanSpacing  = 30 * time.Millisecond // per query, on the average of the time until the next scan
	scanMinimum  = 30 * time.Second      // how long complete answers hold at least
	scanFailures = 64                    // after so many the rest of the Services is left to the next scan
)

// probeService exists in every cluster, in the API server's own view and so in DNS.
const probeService = "kubernetes.default"

var errNotAsked = errors.New("not asked, since DNS fails")

// A scan asks DNS for the addresses of all Services of the map, and of the members Services of the package: an address
// without a name is not foreign by the word of the reverse zone alone. It also asks for the Service that every cluster
// has, the known-good probe: that tells whether the word of this DNS means anything. Its fields but covered are fixed
// once it is kept.
type scan struct {
	covered   *Map                    // the last map of which all Services were seen to be here; guarded by Resolver.mu
	oldest    time.Time               // when the first of the answers was asked for
	expires   time.Time               // when all, or what failed, is due to be asked for again
	answers   map[string][]netip.Addr // by Service; none where it does not exist
	failed    map[string]error        // by Service
	services  map[netip.Addr][]string // answers the other way round
	probe     error                   // why denials are no evidence; nil after a good probe
	uncertain error                   // why the answers are not all
}

type scanKey struct {
	domain string
	kind   uint16 // dns.TypeA or dns.TypeAAAA
}

// scan is what a scan of the Services says about an address; l is what the reverse zone says.
func (r *Resolver) scan(ctx context.Context, q question, l Lookup) Lookup {
	unanswered := Lookup{Names: l.Names, Uncertain: errNoAnswerYet}
	k := scanKey{q.domain, recordType(q.addr)}
	for range 3 { // what is in flight may be for another map, but each covers what was asked for before it
		r.mu.Lock()
		last := r.scans[k]
		if last != nil && r.now().Before(last.expires) && last.covers(q.m) {
			r.mu.Unlock()
			return last.lookup(q.addr)
		}
		f := join(r, "scan "+dns.TypeToString[k.kind]+" "+k.domain, func() *scan { return r.runScan(context.WithoutCancel(ctx), last, k, q.m) },
			func(s *scan) {
				r.scans[k] = s
				r.learn(s)
			})
		r.mu.Unlock()
		result, err := r.await(ctx, q, f, unanswered)
		if err != nil {
			return Lookup{Uncertain: fmt.Errorf("%s has no name, and the Services of the mesh are still being asked for their addresses: %w", q.addr, err)}
		}
		if s := result.(*scan); r.covers(s, q.m) {
			return s.lookup(q.addr)
		}
	}
	return Lookup{Uncertain: fmt.Errorf("%s has no name, and the mesh map changes faster than its Services can be asked for", q.addr)}
}

// scanned is what the last scan found for an address, without a new one.
func (r *Resolver) scanned(q question) []Name {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last := r.scans[scanKey{q.domain, recordType(q.addr)}]; last != nil {
		return last.lookup(q.addr).Names
	}
	return nil
}

// scanPeriod is how often so many queries may be asked.
func scanPeriod(queries int) time.Duration {
	return max(scanMinimum, time.Duration(queries)*scanSpacing)
}

func (r *Resolver) covers(s *scan, m *Map) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return s.covers(m)
}

// covers tells whether every Service of m has been asked for, with or without success. The caller holds Resolver.mu.
func (s *scan) covers(m *Map) bool {
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

// runScan asks for what last does not answer, or for everything where its answers are too old.
func (r *Resolver) runScan(ctx context.Context, last *scan, k scanKey, m *Map) *scan {
	now := r.now()
	s := &scan{oldest: now, answers: map[string][]netip.Addr{}, failed: map[string]error{}, probe: errNoAnswerYet}
	if last != nil && now.Before(last.oldest.Add(scanPeriod(len(last.answers)))) {
		s.oldest, s.answers, s.probe = last.oldest, maps.Clone(last.answers), last.probe
	}
	ctx, cancel := context.WithTimeoutCause(ctx, scanPeriod(len(m.services)), errNotAsked)
	defer cancel()
	if s.probe != nil {
		s.answers[probeService], s.probe = r.client.probe(ctx, k.domain)
	}
	missing := slices.DeleteFunc(slices.Clone(m.services), func(service string) bool { _, ok := s.answers[service]; return ok })
	if len(s.answers[probeService]) > 0 {
		r.client.askAll(ctx, missing, k, s)
		if s.probe == nil {
			s.probe = r.client.probeFamily(ctx, k, s)
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
	s.conclude(r.now())
	r.count(s.result())
	return s
}

// conclude words what the scan does not know and sets how long it holds. Every Service is asked for once in a period
// with success, and every failure costs scanSpacing: that bounds the load, even where DNS dies and comes back.
func (s *scan) conclude(now time.Time) {
	failures, worst := 0, cmp.Or(s.probe, errNotAsked)
	for _, service := range slices.Sorted(maps.Keys(s.failed)) {
		if err := s.failed[service]; !errors.Is(err, errNotAsked) {
			if failures++; failures == 1 {
				worst = err
			}
		}
	}
	if len(s.failed) > 0 {
		s.uncertain = fmt.Errorf("the address has no name, but DNS does not tell those of %d Services of the mesh: %w", len(s.failed), worst)
	}
	switch s.result() {
	case ScanDenied:
		s.expires = now.Add(negTTL)
	case ScanIncomplete:
		s.expires = now.Add(max(minTTL, time.Duration(failures)*scanSpacing))
	default:
		s.expires = s.oldest.Add(scanPeriod(len(s.answers)))
	}
}

func (s *scan) result() Result {
	var denied *probeDenied
	switch {
	case errors.As(s.probe, &denied):
		return ScanDenied
	case s.probe != nil || s.uncertain != nil:
		return ScanIncomplete
	}
	return ScanComplete
}

// lookup is about an address that has no name in the reverse zone.
func (s *scan) lookup(addr netip.Addr) Lookup {
	l := Lookup{Uncertain: s.uncertain}
	for _, service := range s.services[addr] {
		l.Names = append(l.Names, Name{Service: service, Confirmed: true, Forward: true})
	}
	if len(l.Names) == 0 && s.probe != nil {
		l.Uncertain = s.probe
	}
	return l
}

// askAll asks for the addresses of services into s, several at once.
func (c *client) askAll(ctx context.Context, services []string, k scanKey, s *scan) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex
	var queries errgroup.Group
	queries.SetLimit(scanWidth)
	for _, service := range services {
		queries.Go(func() error {
			addrs, _, err := c.addresses(ctx, service+".svc."+k.domain, k.kind)
			mu.Lock()
			defer mu.Unlock()
			if err == nil || isMembers(service) && errors.Is(err, errCutOff) {
				// thousands of pods do not fit into one answer: what is there counts, the others have names of their
				// own
				s.answers[service] = addrs
			} else if s.failed[service] = err; len(s.failed) == scanFailures {
				cancel(errNotAsked)
			}
			return nil
		})
	}
	_ = queries.Wait() // failures are in s
}

// probeDenied says that DNS denies what exists, and what is likely wrong.
type probeDenied struct{ detail string }

func (d *probeDenied) Error() string { return d.detail }

// probe asks for the Service that every cluster has, forward, and for the name of its addresses, backward. The
// addresses are returned even with an error. The error is nil where DNS tells both: then its denials are evidence.
func (c *client) probe(ctx context.Context, domain string) ([]netip.Addr, error) {
	host := probeService + ".svc." + domain
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
		return nil, &probeDenied{"DNS denies " + host + ", which every cluster has, so it proves nothing that it denies this address a name: " +
			"is spec.clusterDomain right, and does the DNS of this pod (dnsPolicy) serve it?"}
	}
	for _, addr := range addrs {
		answer, err := c.reverse(ctx, addr)
		if err != nil {
			return addrs, err
		}
		if !slices.ContainsFunc(pointers(answer, domain), func(p pointer) bool { return strings.EqualFold(p.target, host+".") }) {
			return addrs, &probeDenied{fmt.Sprintf("DNS does not tell that %s is %s, so it proves nothing that it denies this address a name: "+
				"let it serve the reverse zones (in CoreDNS: kubernetes %s in-addr.arpa ip6.arpa), or name the address in outbound.excludeCIDRs or meshCIDRs", addr, host, domain)}
		}
	}
	return addrs, nil
}

// probeFamily asks for the name of an address of the family that is scanned, where the Service that every cluster has
// is of the other family alone: the reverse zones of the two are apart, and one of them may be missing. Without any
// Service of the family there is nothing to ask for, and nothing of the mesh to miss.
func (c *client) probeFamily(ctx context.Context, k scanKey, s *scan) error {
	if slices.ContainsFunc(s.answers[probeService], func(a netip.Addr) bool { return recordType(a) == k.kind }) {
		return nil
	}
	for _, service := range slices.Sorted(maps.Keys(s.answers)) {
		i := slices.IndexFunc(s.answers[service], func(a netip.Addr) bool { return recordType(a) == k.kind && special.Contains(a) })
		if i < 0 {
			continue
		}
		addr := s.answers[service][i]
		answer, err := c.reverse(ctx, addr)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(pointers(answer, k.domain), func(p pointer) bool { return p.name.Service == service }) {
			return &probeDenied{fmt.Sprintf("DNS does not tell that %s is an address of %s, so it proves nothing that it denies this address a name: let it serve the reverse zones of both families "+
				"(in CoreDNS: kubernetes %s in-addr.arpa ip6.arpa), or name the address in outbound.excludeCIDRs or meshCIDRs", addr, service, k.domain)}
		}
		return nil
	}
	return nil
}
