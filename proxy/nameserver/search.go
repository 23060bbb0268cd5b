package nameserver

import (
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/meshless-dev/meshless/internal/meshmap"
)

// Resolvers that get SERVFAIL for a name go on with the next domain of their search list (glibc, Go): the node's own
// domain is among those, and may answer for everything. For so long what a name of the mesh was short for leads nowhere
// else.
const (
	refusedFor = 10 * time.Second
	maxShort   = 1024
)

var errSearched = errors.New("it begins with a name of the mesh that had no address a moment ago, as a resolver makes it by its search list")

// shorts are the short forms of names of the mesh that got SERVFAIL.
type shorts struct {
	mu    sync.Mutex
	until map[string]time.Time // by what a search list completes to the name, with a dot at its end
}

// add remembers what a name is completed from, if it is one of a Service of the cluster.
func (s *shorts) add(m *meshmap.Map, fqdn string, now time.Time) {
	if n := read(m, fqdn); n.class == foreign || n.service == "" {
		return
	}
	fqdn = strings.ToLower(fqdn)
	below := strings.TrimSuffix(fqdn, strings.ToLower(dns.Fqdn(m.ClusterDomain))) // ends in .svc.
	forms := []string{below, strings.TrimSuffix(below, "svc.")}
	if own, ok := strings.CutSuffix(forms[1], "."+m.Namespace+"."); ok {
		forms = append(forms, own+".")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.until) >= maxShort || s.until == nil {
		s.until = map[string]time.Time{}
	}
	for _, form := range forms {
		s.until[form] = now.Add(refusedFor)
	}
}

// begins tells whether a name begins with one of them.
func (s *shorts) begins(fqdn string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	fqdn = strings.ToLower(fqdn)
	for i := range fqdn {
		if fqdn[i] == '.' && now.Before(s.until[fqdn[:i+1]]) {
			return true
		}
	}
	return false
}
