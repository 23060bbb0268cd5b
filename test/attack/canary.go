package attack

// canary: rules that are missing.
var canary = []Attack{
	{"rules of a running pod are flushed, a chain is emptied, a rule for everything is put in front, another mesh redirects first", Neighbor,
		"the proxy is not ready within ten seconds, names the chain, logs an error, and an alert fires; nftables and iptables, IPv4 and IPv6", "init/apply.TestRulesLost"},
	{"rules are flushed under a running pod with its app", Neighbor, "not ready by probe, log and metric; ready again when init has run again", "test/kernel.TestRulesFlushed"},
	{"a kubelet starts the sidecar although init has not run, or the rules are gone by then", Mishap, "the startup probe or postStart hook fails and says why; a native sidecar's app never starts", "test/kernel.TestInitNeverRan"},
	{"init of another release, which has no canaries, beside this proxy", Mishap, "not ready from the first check on", "init/apply.TestRulesNeverWritten"},
	{"the proxy has no descriptor left for its check", Mishap, "what was proved stays, is counted as unknown, and the next check that can be made counts", "init/apply.TestCheckCannotBeMade"},
	{"init runs again in a running pod, many times", Mishap, "no check fails meanwhile", "init/apply.TestCanariesOfARerun"},
	{"the app takes a canary address, or dials one, to feign rules that are not there", App, "refused by the egress filter", "init/apply.TestAppCannotFeignRules"},
}
