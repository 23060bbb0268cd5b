// Package lab runs rendered pods on this machine's kernel, without Kubernetes. Nodes and their pods are network
// namespaces, joined by routed veth pairs; Services are nftables rules in each node's namespace; a DNS server answers
// on the first node as CoreDNS does; and a kubelet in miniature starts init containers, sidecars and apps as the
// rendered pod says: its arguments, user, capabilities, read-only root, probes, and projected volumes that are swapped
// as the kubelet's atomic writer swaps them.
//
// What the lab does not know (an env source, a volume type, a probe kind) is an error, never ignored, so that a test
// cannot pass because part of a manifest was left out. It needs root on Linux. Everything it makes lives in namespaces
// and processes of its own, which end with the test, also when the test is killed.
package lab
