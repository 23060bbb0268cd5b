// Package flux lets the real Flux sync what meshless rendered: its source-controller, kustomize-controller and
// helm-controller run as pods with the manifests of their modules, and read a Git repository that the test serves. The
// branches are written by examples/flux/render.sh, and the objects of Flux are those of examples/flux.
package flux
