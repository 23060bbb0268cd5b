// Package flux lets the real Flux sync what meshless rendered: its source-controller and kustomize-controller run as
// pods with the manifests of their modules, and read Git repositories that the test serves. The branches are written by
// examples/flux/render.sh, and the objects of Flux are those of examples/flux.
package flux
