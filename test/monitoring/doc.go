// Package monitoring holds examples/monitoring against Prometheus's own code: its parser, its rule engine and its
// relabeling, with the metrics that the proxy has. It is a module of its own, since nothing else needs Prometheus; run
// it in its folder: go test ./...
package monitoring
