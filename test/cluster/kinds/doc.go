// Package kinds shows that what the function makes of pods of every kind lives on a real Kubernetes: Deployments that
// roll under load, StatefulSets by their pods' names, Jobs that end, Services of every shape, probes of every kind,
// both forms of the sidecar; and that namespaces whose pod-security level forbids the init container are refused twice.
// One kustomization is rendered and deployed once; the tests look at it.
package kinds
