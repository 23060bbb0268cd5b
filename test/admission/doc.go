// Package admission holds the policies that a render writes for declared workloads against the API server's own
// packages: what they do to a pod is what package inject does to a pod template. It is a module of its own, since the
// packages of the API server are for tests alone.
package admission
