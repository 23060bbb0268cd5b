// Package gitops does with rendered manifests what people and GitOps engines do with them, on a real Kubernetes: apply,
// apply again, server-side apply, prune. The way into the mesh and out of it is package adoption's.
package gitops
