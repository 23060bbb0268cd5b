// Package kptlive deploys a kpt package with `kpt live` on a real Kubernetes: apply, apply again, renewal, a workload
// that leaves the mesh, destroy.
package kptlive
