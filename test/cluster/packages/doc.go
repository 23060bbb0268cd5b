// Package packages proves that packages which are rendered apart, with one CA, are one mesh: in two namespaces and in
// one, by every kind of address, and while one of them changes or goes. The kubelet has its default period, so clients
// work for a minute with maps that are older than what they call.
package packages
