// Package operators runs pods that no manifest in Git makes, on a real Kubernetes: those of CloudNativePG, built from
// its module, with Debian's PostgreSQL; of a ReplicaSet that kubectl makes; of a CronJob that is not in Git. They are
// declared (spec.workloads.declared), and the API server injects them. They talk with workloads of a manifest while
// leaves are renewed, a primary dies, and proxies, sandboxes and apps are killed; and what the mesh cannot serve is
// refused with the reason.
package operators
