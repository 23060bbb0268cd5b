// Package shop proves meshless on a real Kubernetes: the examples, rendered by the real function, on the cluster that
// KUBECONFIG names. The tests have the build tag e2e, use kubectl alone, and expect the images of `make images` to be
// on the nodes; test/up.sh makes such a cluster on this machine.
package shop
