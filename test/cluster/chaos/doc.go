// Package chaos lets the machine die under a mesh that runs: for a while it kills at random what a node is made of,
// from single containers to containerd, under a load and while certificates rotate. Afterwards everything must be as if
// nothing had been, and at no time may a request have left a pod in the clear. It needs the node's processes to be of
// this machine, as in the cluster of test/up.sh, and disturbs whatever else runs there.
//
// CHAOS_SEED=N repeats the choices of a run.
package chaos
