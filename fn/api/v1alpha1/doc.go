// Package v1alpha1 holds the objects of meshless.dev/v1alpha1 that people write or commit: MutualTLS, the function's
// config, and CertificateAuthority, its state. Reading is strict (an unknown field is an error that names it), then
// defaulted, then validated; nothing else of the function sees a config that did not pass all three.
package v1alpha1
