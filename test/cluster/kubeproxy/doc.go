// Package kubeproxy shows that Services lead from proxy to proxy by mutual TLS whichever way kube-proxy writes its
// rules, with nftables or with iptables: by clusterIP, headless, by a pod's own clusterIP, and by the node's port. It
// restarts kube-proxy of this machine's cluster (test/up.sh) and puts it back; on other clusters it skips, and with
// CI=true it fails.
package kubeproxy
