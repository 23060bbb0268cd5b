// Command bench measures the proxy side by side with what people would pick instead, on one machine and in one run: a
// load generator, two hops of mutual TLS (client side and server side), and a backend, all but the hops its own. It is
// run by `make bench`; docs/performance.md says what is measured and what came of it. Linux alone: it reads /proc,
// splices, and makes network namespaces where it may.
//
// The package is a program and nothing imports it. It starts itself again as generator, backend and plain relay
// (worker_linux.go), so that the CPU time and the memory of the proxies are theirs alone. Every process it starts ends
// with it.
package main
