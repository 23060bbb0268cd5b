package telemetry

import (
	"github.com/meshless-dev/meshless/proxy/redirect"
)

func (t *Telemetry) makeRules() {
	t.rulesMissing = t.gauge("redirect_missing", "1 while a chain of the rules of meshless-init is found not to be in force.", "chain")
	t.rulesChecks = t.counter("redirect_checks_total", "Checks of whether the rules of meshless-init are in force, by result.", "result")
}

// RulesMissing records whether a chain of init's rules is not in force.
func (t *Telemetry) RulesMissing(chain redirect.Chain, missing bool) {
	value := 0.0
	if missing {
		value = 1
	}
	t.rulesMissing.WithLabelValues(string(chain)).Set(value)
}

// RulesChecked counts a check by canaries, and records which of their chains are missing. What could not be checked
// stays as it was.
func (t *Telemetry) RulesChecked(v redirect.Verdict) {
	t.rulesChecks.WithLabelValues(string(v.Result)).Inc()
	if v.Result == redirect.Unknown || v.Result == redirect.Failed && len(v.Missing) == 0 {
		return
	}
	for _, chain := range []redirect.Chain{redirect.Output, redirect.EgressFilter} {
		t.RulesMissing(chain, v.IsMissing(chain))
	}
}
