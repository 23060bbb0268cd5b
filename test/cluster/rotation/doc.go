// Package rotation changes everything that can be changed in a mesh that runs, on a real Kubernetes and under a load:
// leaves, authorities, revoked keys, recipients, policy. Each change is a commit of the real commands, rendered and
// applied. No allowed caller may notice, no pod may restart, and the test waits until every proxy says that it uses
// what was applied.
package rotation
