// Package failures shows what happens to running pods of the mesh when something dies: a pod that serves, the proxy (by
// SIGKILL, and by the kernel for want of memory), the pod's sandbox, the kubelet. Two deployments of the same manifest
// stand side by side, in the mesh and not, each under a load of its own: what fails without a mesh, too, is not ours.
//
// Some tests need the processes of the node, and with them this machine's cluster (test/up.sh); elsewhere they skip,
// and with CI=true they fail. They disturb whoever else uses the cluster.
package failures
