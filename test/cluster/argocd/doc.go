// Package argocd runs a real Argo CD from its own manifests, and lets it sync packages in each of the ways of
// docs/argocd.md: a rendered branch, the plugin and the build options of examples/argocd. The test serves the
// repositories and commits; Argo CD does the rest.
package argocd
