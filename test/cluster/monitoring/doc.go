// Package monitoring runs the Prometheus of examples/monitoring in the mesh: it scrapes Strict apps by the addresses of
// their pods, with and without a Service, and the proxies. prometheus.sh builds the program.
package monitoring
