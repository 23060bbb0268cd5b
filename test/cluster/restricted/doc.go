// Package restricted runs workloads without redirect rules in a namespace for which the API server enforces the
// pod-security level restricted, beside ordinary ones: both talk with each other in both directions, while
// certificates are renewed and proxies die. A real kube-router enforces NetworkPolicies meanwhile, so that the ports
// of the apps are shut to strangers. It runs as a process of the node, as in the cluster of test/up.sh.
package restricted
