package main

import "syscall"

// allPeers are in the order of the tables. The first three are no TLS: what the machine gives, and what a relay alone
// costs.
var allPeers = []peer{
	{
		name: "direct", title: "no proxy", note: "generator and backend alone",
		missing: always,
	},
	{
		name: "relay-copy", title: "TCP relay, copying", note: "plaintext; Go, read and write with 32 KiB",
		missing: always, start: startRelay(false),
	},
	{
		name: "relay-splice", title: "TCP relay, splicing", most: spliceConnections, note: "plaintext; Go, splice(2)",
		missing: always, start: startRelay(true),
	},
	{
		name: "ours", title: "meshless", tls: true, ours: true, note: "its defaults",
		missing: always, start: startOurs(hybridKeys), reload: publishOurs,
	},
	{
		name: "ours-x25519", title: "meshless, X25519", tls: true, ours: true, note: "its defaults, but for the key exchange",
		missing: always, start: startOurs(classicalKeys), reload: publishOurs,
	},
	{
		name: "nginx", title: "nginx stream", tls: true, program: "nginx", note: "a worker per core, buffers of 16 KiB (default)",
		missing: noNginx, start: startNginx(false), reload: signalAfterWrite(syscall.SIGHUP),
	},
	{
		name: "nginx-64k", title: "nginx stream, 64 KiB", tls: true, slow: true, program: "nginx", note: "the same with buffers of 64 KiB",
		missing: noNginx, start: startNginx(true), reload: signalAfterWrite(syscall.SIGHUP),
	},
	{
		name: "haproxy", title: "HAProxy", tls: true, program: "haproxy", note: "a thread per core, buffers of 16 KiB (default)",
		missing: noProgram("haproxy"), start: startHAProxy(false), reload: signalAfterWrite(syscall.SIGUSR2),
	},
	{
		name: "haproxy-64k", title: "HAProxy, 64 KiB", tls: true, slow: true, program: "haproxy", note: "the same with buffers of 64 KiB",
		missing: noProgram("haproxy"), start: startHAProxy(true), reload: signalAfterWrite(syscall.SIGUSR2),
	},
	{
		name: "stunnel", title: "stunnel", tls: true, program: "stunnel", note: "a thread per connection",
		missing: noProgram("stunnel4"), start: startStunnel, reload: signalAfterWrite(syscall.SIGHUP),
	},
	{
		name: "ghostunnel", title: "ghostunnel", tls: true, program: "ghostunnel", note: "Go, without its log",
		missing: noGhostunnel, start: startGhostunnel, reload: signalAfterWrite(syscall.SIGUSR1),
	},
	{
		name: "direct-pods", title: "no proxy, between pods", pods: true, note: "generator and backend in two network namespaces",
		missing: noNamespaces,
	},
	{
		name: "ours-pods", title: "meshless, redirected", tls: true, ours: true, pods: true, most: podConnections, note: "the same, the shipped proxy behind the rules of meshless-init",
		missing: noNamespaces, start: startRedirected(hybridKeys), reload: publishOurs,
	},
	{
		name: "ours-pods-x25519", title: "meshless, redirected, X25519", tls: true, ours: true, pods: true, slow: true, most: podConnections, note: "the same, but for the key exchange",
		missing: noNamespaces, start: startRedirected(classicalKeys), reload: publishOurs,
	},
}
