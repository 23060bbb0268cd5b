package nameserver

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
)

// How long it is kept whether a name exists, and of how many.
const (
	existsFor = time.Minute
	lacksFor  = 5 * time.Second
	maxFacts  = 4096

	reverseWidth = 8 // queries at once about the addresses of one answer
)

// facts are names of the mesh that exist in DNS, or do not.
type facts struct {
	mu  sync.Mutex
	all map[string]fact
}

type fact struct {
	exists bool
	until  time.Time
}

// inMesh tells whether DNS says that a Service of a namespace which the map does not know is in the mesh: by its alias,
// where several packages share an authority, or since our own package has come to its namespace.
func (s *Server) inMesh(ctx context.Context, m *meshmap.Map, service string, kind uint16) (bool, error) {
	service, namespace, _ := strings.Cut(service, ".")
	var markers []string
	if m.SharedCA {
		markers = append(markers, api.AliasName(service))
	}
	if m.Package != "" {
		markers = append(markers, api.MembersName(m.Package))
	}
	for _, marker := range markers {
		if exists, err := s.exists(ctx, dns.Fqdn(marker+"."+namespace+".svc."+m.ClusterDomain), kind); exists || err != nil {
			return exists, err
		}
	}
	return false, nil
}

// members tells whether an address of an answer is that of a pod of the mesh, by its name: a Service that no render
// knows, as operators make them, has no alias.
func (s *Server) members(ctx context.Context, m *meshmap.Map, records []dns.RR) (bool, error) {
	var found atomic.Bool
	var queries errgroup.Group
	queries.SetLimit(reverseWidth)
	for _, rr := range records {
		arpa, err := dns.ReverseAddr(addressOf(rr).String())
		if err != nil {
			return false, err
		}
		queries.Go(func() error {
			is, err := s.fact(ctx, arpa, dns.TypePTR, func(rr dns.RR) bool {
				ptr, ok := rr.(*dns.PTR)
				return ok && strings.HasPrefix(read(m, ptr.Ptr).service, api.MembersPrefix)
			})
			if is {
				found.Store(true)
			}
			return err
		})
	}
	err := queries.Wait()
	return found.Load(), err
}

// exists tells whether DNS has the name, in the family of the addresses that are asked for.
func (s *Server) exists(ctx context.Context, name string, kind uint16) (bool, error) {
	return s.fact(ctx, name, kind, func(rr dns.RR) bool { return strings.EqualFold(rr.Header().Name, name) })
}

// fact tells whether a record of the answer to a question shows something.
func (s *Server) fact(ctx context.Context, name string, kind uint16, shows func(dns.RR) bool) (bool, error) {
	key := name + " " + dns.TypeToString[kind]
	s.known.mu.Lock()
	f, ok := s.known.all[key]
	s.known.mu.Unlock()
	if ok && s.o.Now().Before(f.until) {
		return f.exists, nil
	}
	answer, err := s.forward(ctx, name, kind)
	if err != nil {
		return false, fmt.Errorf("whether it is in the mesh: %w", err)
	}
	f = fact{until: s.o.Now().Add(lacksFor)}
	if slices.ContainsFunc(answer.Answer, shows) {
		f = fact{exists: true, until: s.o.Now().Add(existsFor)}
	}
	s.known.mu.Lock()
	defer s.known.mu.Unlock()
	if len(s.known.all) >= maxFacts {
		clear(s.known.all) // it is asked again
	}
	s.known.all[key] = f
	return f.exists, nil
}
