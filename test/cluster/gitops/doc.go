// Package gitops does with rendered manifests what people and GitOps engines do with them, on a real Kubernetes: apply,
// apply again, server-side apply, prune, and the way out of the mesh and in again by the commits of docs/adoption.md,
// under a load.
package gitops
