// Package validation is filled by the test: with validation.go of github.com/argoproj/argo-rollouts,
// pkg/apis/rollouts/validation. The package itself also holds what looks references up in a cluster, and carries a
// thousand packages of clouds with it.
package validation
