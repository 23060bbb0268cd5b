package sidecar

import (
	"net"
	"sync"

	"github.com/meshless-dev/meshless/proxy/redirect"
)

// rules is what proves that the rules of meshless-init are in force. A sidecar that is not redirected by them has none.
type rules struct {
	checker *redirect.Checker
	probes  *redirect.Probes

	mu      sync.Mutex
	missing map[redirect.Chain]bool
	unknown bool // the last check could not be made
}

// proveRules makes what proves the rules; it listens, so it comes before the sandbox.
func (s *Sidecar) proveRules() (err error) {
	o := s.options
	r := &rules{missing: map[redirect.Chain]bool{}}
	r.checker, err = redirect.New(redirect.Options{Clients: o.Redirect.Clients, OriginalDst: o.Redirect.Outbound, Interval: o.RulesInterval,
		Accepts: func() bool { return s.outbound.Accepts() }, Report: s.rulesChecked})
	if err != nil {
		return err
	}
	r.probes = &redirect.Probes{OriginalDst: o.Redirect.Inbound, Own: o.Redirect.OwnAddress, Report: func(missing bool) {
		s.telemetry.RulesMissing(redirect.Prerouting, missing)
		s.noteRules(redirect.Prerouting, missing, redirect.ErrDirect)
	}}
	s.rules = r
	return nil
}

func (r *rules) close() {
	if r != nil {
		r.checker.Close()
	}
}

// rulesChecked reports what the canaries have met.
func (s *Sidecar) rulesChecked(v redirect.Verdict) {
	s.telemetry.RulesChecked(v)
	unknown := v.Result == redirect.Unknown
	if unknown && !s.rules.unknown {
		s.log.Warn("the rules of meshless-init could not be checked; what was known of them stays", "error", v.Why.Error())
	}
	if s.rules.unknown = unknown; unknown || v.Result == redirect.Failed && len(v.Missing) == 0 {
		return
	}
	for _, chain := range []redirect.Chain{redirect.Output, redirect.EgressFilter} {
		s.noteRules(chain, v.IsMissing(chain), v.Why)
	}
}

// noteRules logs when a chain is missing, and when it is there again.
func (s *Sidecar) noteRules(chain redirect.Chain, missing bool, why error) {
	s.rules.mu.Lock()
	defer s.rules.mu.Unlock()
	switch was := s.rules.missing[chain]; {
	case missing && !was:
		s.log.Error("the rules of meshless-init are not in force: plaintext may pass the proxy by", "chain", string(chain), "error", why.Error())
	case !missing && was:
		s.log.Info("the rules of meshless-init are in force again", "chain", string(chain))
	}
	s.rules.missing[chain] = missing
}

// rulesErr is why they are not proved.
func (s *Sidecar) rulesErr() error {
	if s.rules == nil {
		return nil
	}
	return s.rules.checker.Err()
}

// canary is connection.Config.Canary.
func (s *Sidecar) canary() func(*net.TCPConn) bool {
	if s.rules == nil {
		return nil
	}
	return s.rules.checker.Arrived
}
