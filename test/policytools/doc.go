// Package policytools holds what is rendered against the tools that people gate manifests with: kube-score,
// kube-linter, Gatekeeper's gator and Kyverno's rule podSecurity. Each runs over examples, applications of others and
// workloads of which no tool says anything (testdata/strict.yaml), before and after the injection. What it then says
// beyond has to be in the tables of docs/policy-tools.md, all of those lines have to occur, and with the exceptions of
// examples/policies nothing is left.
//
// programs.sh builds kube-score, gator and kyverno-podsecurity into $KBIN. The rules of Gatekeeper's library stand in
// testdata/templates.yaml. Nothing here can build kube-linter.
package policytools
