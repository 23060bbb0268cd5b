// Package resolver is what init does in a pod without redirect rules. It needs no capability and changes nothing of the
// network. It leaves a resolv.conf for the pod's other containers that names the proxy in place of the kubelet's name
// servers, and says in plain text what of the pod the proxy protects, and what it does not.
package resolver
