// Package budget derives what a proxy may hold at once from its container's memory limit and its descriptors. There is
// no other cap: who gives the container more memory gets more connections. It imports nothing of ours.
//
// The sum holds by construction:
//
//	base + handshakes + buffers + connections + park + listeners ≤ memory
//	reserve + 2 × connections + park + listeners ≤ descriptors
package budget

import (
	"cmp"
	"log/slog"
)

// What things cost at most, in bytes, with what the kernel keeps for their sockets: cgroup v2 counts that, too. Tests
// here and in proxy/sidecar hold them against what is measured.
const (
	// Connection is one that is idle, relayed with mutual TLS: two sockets at 3.8 KiB, and 3 KiB of Go's heap, a third
	// of which may be garbage.
	Connection = 12 << 10
	// Standard is one whose records are those of crypto/tls, with its buffers and two goroutines.
	Standard = 52 << 10
	// Plaintext is what one without TLS costs in addition: two goroutines and two pipes.
	Plaintext = 8 << 10
	// Parked is one that waits: a socket, a hello in it, and what Go knows of it.
	Parked = 8 << 10
	// Handshake is one that is under way, in addition.
	Handshake = 64 << 10
	// Listener is one of a loopback address: a socket, a goroutine, and what Go knows of both.
	Listener = 12 << 10
)

// Descriptors that a connection takes, and one without TLS in addition: Go keeps a pipe for each direction.
const (
	FilesOfConnection = 2
	FilesOfPlaintext  = 4
)

const (
	base = 16 << 20 // the program, its files, the mesh map, the admin ports
	// parts of the memory
	handshakePart = 16
	bufferPart    = 8
	// of memory and of descriptors, for listeners on loopback addresses
	listenerPart = 16
	// the machine's memory has one part for a proxy that has no limit
	machinePart = 8
	// queuePart is for the queues of sockets: of the machine's memory, or of the container's where they count as its
	// own. That is not part of the sum, which has a fifth to spare when every connection is idle, and they are not when
	// their queues are full.
	queuePart      = 16
	defaultMachine = 4 << 30
	// Connections of one admin port take a sixth of the descriptors that are left, since there are four listeners, and
	// files and DNS beside them. An answer takes adminBytes, all of one port a sixth of the memory
	adminPart          = 6
	adminBytes         = 40 << 10
	minAdmin, maxAdmin = 16, 1024
	// handshakesPart of the connections may be under way in each direction
	handshakesPart = 4
	// parkPart: for so many connections one more can wait for a place
	parkPart = 8
	// reservePart of the descriptors is for files, DNS and the admin ports, at most maxReserve
	reservePart = 8
	maxReserve  = 512
	// names is for the DNS queries of a pod without redirect rules, those by TCP at their largest
	names                      = 6 << 20
	minListeners, maxListeners = 64, 4096
)

// Floors and ceilings: a proxy with less memory than it says it needs still works.
const (
	minHandshakes, maxHandshakes = 16, 256 // more would only share the processors
	minConnections               = 64
	minBuffers, maxBuffers       = 2 << 20, 256 << 20
	defaultMemory                = 256 << 20 // where nothing is known
)

// Resources are what a proxy has.
type Resources struct {
	Memory      int64 // the container's limit, in bytes; 0: none
	Machine     int64 // memory of the machine, for a container without a limit; 0: unknown
	Descriptors int   // RLIMIT_NOFILE; 0: unknown
	// SocketsCount: what the kernel queues for sockets counts as the container's memory, as in cgroup v2.
	SocketsCount bool
	// StandardRecords: crypto/tls keeps the records, as in FIPS 140-3 mode. Its connections cost several times as much.
	StandardRecords bool
	// Direct: no rules redirect. The proxy answers the pod's DNS queries, and listens for Services on loopback
	// addresses.
	Direct bool
}

// Budget is what follows from Resources.
type Budget struct {
	Memory      int64 // bytes that the proxy may use
	Limited     bool  // they are a limit of the container
	Descriptors int   // 0: unknown

	Each        Cost  // of one connection; default: of mutual TLS with our records
	Connections int   // at once, inbound and outbound together
	Park        int   // that wait for a place, beyond Connections
	Handshakes  int   // under way at once, in each direction
	Buffers     int64 // bytes that the relay may hold for what was not passed on yet
	Admin       int   // connections of each port of metrics, health and admin
	Queues      int64 // bytes that the kernel may hold for the relay, in the queues of sockets
	Listeners   int   // on loopback addresses; 0 with redirect rules
	// By says what bounds Connections: "memory" or "descriptors".
	By string
}

// For computes the budget.
func For(r Resources) Budget {
	b := Budget{Memory: r.Memory, Limited: r.Memory > 0, Descriptors: r.Descriptors, By: "memory", Each: Cost{Connection, FilesOfConnection}}
	if r.StandardRecords {
		b.Each.Bytes = Standard
	}
	if b.Memory <= 0 {
		b.Memory = r.Machine / machinePart
	}
	if b.Memory <= 0 {
		b.Memory = defaultMemory
	}
	// two directions have handshakes
	b.Handshakes = int(min(max(b.Memory/handshakePart/2/Handshake, minHandshakes), maxHandshakes))
	b.Buffers = min(max(b.Memory/bufferPart, minBuffers), maxBuffers)
	rest := b.Memory - base - b.Buffers - 2*int64(b.Handshakes)*Handshake
	if r.Direct {
		b.Listeners = listeners(b)
		rest -= names + int64(b.Listeners)*Listener
	}
	b.Queues = max(r.Machine, defaultMachine) / queuePart
	if r.SocketsCount && b.Limited {
		b.Queues = b.Memory / queuePart
	}
	b.Connections = max(int(rest/(b.Each.Bytes+Parked/parkPart)), minConnections)
	if b.Descriptors > 0 {
		files := b.Descriptors - min(b.Descriptors/reservePart, maxReserve) - b.Listeners
		if n := files * parkPart / (FilesOfConnection*parkPart + 1); n < b.Connections {
			b.Connections, b.By = max(n, 1), "descriptors"
		}
	}
	b.Park = max(b.Connections/parkPart, 1)
	// Handshakes under way in both directions leave places. Else two proxies that call each other could each wait for a
	// place of the other.
	b.Handshakes = max(min(b.Handshakes, b.Connections/handshakesPart), 1)
	b.Admin = int(min(b.Memory/adminPart/adminBytes, maxAdmin))
	if b.Descriptors > 0 {
		b.Admin = min(b.Admin, (b.Descriptors-FilesOfConnection*b.Connections-b.Park-b.Listeners)/adminPart)
	}
	b.Admin = max(b.Admin, minAdmin)
	return b
}

// listeners is how many there may be on loopback addresses.
func listeners(b Budget) int {
	n := int(b.Memory / listenerPart / Listener)
	if b.Descriptors > 0 {
		n = min(n, b.Descriptors/listenerPart)
	}
	return min(max(n, minListeners), maxListeners)
}

// Strangers is how many connections without mutual TLS may come in: they get half of what there is.
func (b Budget) Strangers() int {
	each := cmp.Or(b.Each, Cost{Connection, FilesOfConnection})
	memory, files := int64(b.Connections)*each.Bytes, b.Connections*each.Files
	return max(1, min(int(memory/2/(each.Bytes+Plaintext)), files/2/(FilesOfConnection+FilesOfPlaintext)))
}

// KernelShare is what of the memory the kernel takes for the sockets of all connections. Go must not fill it with
// garbage.
func (b Budget) KernelShare() int64 {
	const ofSockets = 2 * 3800
	return int64(b.Connections)*ofSockets + int64(b.Park)*ofSockets/2
}

// LogValue says what follows from what.
func (b Budget) LogValue() slog.Value {
	attrs := []slog.Attr{slog.Int64("memory_bytes", b.Memory), slog.Bool("memory_limited", b.Limited), slog.Int("descriptors", b.Descriptors),
		slog.Int("connections", b.Connections), slog.String("bounded_by", b.By), slog.Int("waiting", b.Park), slog.Int("handshakes_each_way", b.Handshakes), slog.Int64("buffer_bytes", b.Buffers), slog.Int64("queue_bytes", b.Queues)}
	if b.Listeners > 0 {
		attrs = append(attrs, slog.Int("loopback_listeners", b.Listeners))
	}
	return slog.GroupValue(attrs...)
}
