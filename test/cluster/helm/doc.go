// Package helm runs releases of Helm 3 and Helm 4 in the mesh, on a real Kubernetes, with meshless as their
// post-renderer: the life of a release from install to uninstall, hooks, charts of others, and the way into the mesh
// and out again under a load.
package helm
