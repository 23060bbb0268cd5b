// Package controlplane proves spec.tls.controlPlane on the real programs: kubeadm's static Pods of kube-apiserver and
// etcd go through the meshless binary, are started with exactly the command that comes out, and are scanned for what
// they accept. It also applies the policies of declared workloads, and creates their pods. Only paths and ports are
// replaced, since the test owns neither /etc/kubernetes nor port 6443.
//
// TestManifests takes what others wrote: the corpus of package env, what was once found, and manifests out of the Go
// modules from which test programs are built anyway. No copy of them is in the repository.
//
// It also holds what a render says of resources against that API server: classes of pods, quotas and LimitRanges.
//
// It needs kube-apiserver in $KBIN (default ~/.cache/kube-bin) and an etcd of 3.5.8 or later as $ETCD, in $KBIN or in
// PATH; etcd.sh builds one. What is missing is skipped, with CI=true it fails.
package controlplane
