// Package adoption takes an app that runs into the mesh and out again, by the commits of docs/adoption.md, with kubectl
// on a real Kubernetes, under a load: a server-first protocol, probes of a second, a Job.
package adoption
