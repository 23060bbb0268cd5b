// Package controlplane proves spec.tls.controlPlane on the real programs: kubeadm's static Pods of kube-apiserver and
// etcd go through the meshless binary, are started with exactly the command that comes out, and are scanned for what
// they accept. Only paths and ports are replaced, since the test owns neither /etc/kubernetes nor port 6443.
//
// It needs kube-apiserver in $KBIN (default ~/.cache/kube-bin) and an etcd of 3.5.8 or later as $ETCD, in $KBIN or in
// PATH; etcd.sh builds one. What is missing is skipped, with CI=true it fails.
package controlplane
