// Package podsecurity holds rendered pods against the levels of pod security in the admission plugin's own code: pods
// without redirect rules are let in where `restricted` is enforced, and ordinary pods are refused for what the docs
// list, and nothing else. It is a module of its own, since nothing else needs that plugin; run it in its folder:
// go test ./...
package podsecurity
