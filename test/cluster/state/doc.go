// Package state runs databases of others in the mesh, whose members find each other by Services that no template's
// labels select: the Redis of Argo CD's own install for high availability, with a Service for each member, and a
// PostgreSQL whose primary moves, with Services by a label of run time and by endpoints that somebody writes. The
// programs are Debian's (test/env/servers).
package state
