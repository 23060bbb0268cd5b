// Package openshift holds examples/openshift against OpenShift's own types, and rendered pods against what its
// SecurityContextConstraints say. It is a module of its own, since nothing else needs OpenShift; run it in its folder:
// go test ./...
package openshift
