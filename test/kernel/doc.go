// Package kernel proves meshless on a real kernel: the example shop, rendered by the real function through the real
// kustomize, runs in network namespaces with the real init and proxy, and its packets are read off the wire; and a
// matrix of conversations, of every pattern that a proxy can get wrong, is held between pods in the mesh and outside
// it, on two nodes. It needs root and Linux, no cluster and no network. Without root it skips, with CI=true it fails.
package kernel
