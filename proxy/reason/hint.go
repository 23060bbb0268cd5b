package reason

import "github.com/meshless-dev/meshless/internal/svid"

// Hint guesses why a connection failed, and tells an operator where to look. It is empty where the error says
// everything.
func (e *Error) Hint(d Direction) string {
	if e.Reason == HandshakeFailed {
		return causeHints[d][e.Cause]
	}
	return hints[d][e.Reason]
}

const (
	moreMemoryHint = "the proxy holds as many connections as its container's memory limit and file descriptors allow (the line \"budget\" at its start): raise meshless.dev/proxy-memory on this workload, or spec.proxy.resources for all, or add replicas"
	tooLargeHint   = "'s handshake is larger than any of a mesh: is its certificate chain over 8 KiB (a leaf and three intermediates), or is it no member of the mesh?"
	givenUpHint    = "it was the connection that was idle for longest, of who has most, and others wanted a place: raise meshless.dev/proxy-memory on this workload, or spec.proxy.resources for all, or add replicas"
	futureHint     = "'s certificate is not valid yet: compare the clocks of the nodes"
	expiredHint    = "'s certificate has expired: was it renewed in Git (meshless status) and synced?"
	revokedHint    = " uses a revoked key: a stolen key, or its new Secret is not synced yet"
)

var hints = map[Direction]map[Reason]string{
	Inbound: {
		SourceLimit:      moreMemoryHint + "; of all who wait, this address has most connections that wait",
		ConnectionLimit:  moreMemoryHint,
		PlaintextLimit:   moreMemoryHint + "; connections without mutual TLS get half of that",
		GivenUp:          givenUpHint,
		ConnectFailed:    "the app does not listen there: is it starting, or bound to 127.0.0.1 only?",
		Alert:            "the client ended the connection with a TLS alert: does it refuse our certificate or identity? Its log says why",
		Idle:             "nothing moved for spec.proxy.idleTimeout, which this mesh sets: give the app a heartbeat, or raise it",
		MemoryLimit:      "the connections of one peer keep more in this proxy than they move: does src_identity not read its answers? If all are honest, raise meshless.dev/proxy-memory on this workload, or spec.proxy.resources for all",
		PeerUnresponsive: "the client or the app answers no packet any more: did its pod or node vanish without a word, or does a firewall forget quiet connections?",
		StuckRecord:      "the client began a TLS record, and did not send the rest for half a minute: is it attacking, or is its network very slow?",
	},
	Outbound: {
		ConnectionLimit:      moreMemoryHint + "; does the app open more and more, and close none?",
		GivenUp:              givenUpHint,
		Idle:                 "nothing moved for spec.proxy.idleTimeout, which this mesh sets: give the app a heartbeat, or raise it",
		MemoryLimit:          "the connections to one peer keep more in this proxy than they move: does the app not read its answers, or the server its requests? If all are honest, raise meshless.dev/proxy-memory on this workload, or spec.proxy.resources for all",
		PeerUnresponsive:     "the server or the app answers no packet any more: did its pod or node vanish without a word, or does a firewall forget quiet connections?",
		StuckRecord:          "the server began a TLS record, and did not send the rest for half a minute: is its network very slow?",
		Alert:                "the server refused us after its side of the handshake: its log says why (revoked, denied by authorization, or a bundle older than our authority)",
		ConnectFailed:        "nothing listens there, or a NetworkPolicy drops it",
		UncertainDestination: "it is not certain whether this address is in the mesh, so the connection is closed: can this pod ask the cluster's DNS (CoreDNS, NetworkPolicies, port 53 by UDP and TCP)? List networks outside the mesh in outbound.excludeCIDRs",
		UnknownDestination:   "the address is outside the mesh, and outbound.unknown is Deny: list it in outbound.excludeCIDRs, or put its Service into the mesh",
	},
}

var causeHints = map[Direction]map[Cause]string{
	Inbound: {
		Timeout:                      "the client connected and sent no TLS in time: is it a port scan, a TCP health check, or a client outside the mesh that waits for the server to speak first?",
		PeerClosed:                   "the client closed during the handshake: does it refuse our certificate (its log says why; one that calls the app's own TLS, such as the API server: meshless.dev/tls-passthrough-ports), is it a TCP health check, or is it a client outside the mesh that waits for the server to speak first (MySQL, SMTP)?",
		NotTLS:                       "the client does not speak TLS 1.3: is it outside the mesh, or does its exclude-outbound-ports or -cidrs bypass its proxy? To let it in as plaintext: meshless.dev/permissive-ports; as TLS that the app terminates: meshless.dev/tls-passthrough-ports",
		PeerRefused:                  "the client refuses our certificate: is it expired, is the client's bundle older than our authority (synced from an earlier commit), or does a client outside the mesh call the app's own TLS (meshless.dev/tls-passthrough-ports)?",
		TooLarge:                     "the client" + tooLargeHint,
		Cause(svid.NoCertificate):    "the client has no certificate of the mesh: is it a TLS client outside the mesh? Where the app terminates TLS of its own: meshless.dev/tls-passthrough-ports",
		Cause(svid.UnknownAuthority): "the client's certificate was signed by an authority that our bundle lacks: is it of another mesh, or were its Secret and our bundle synced from different commits?",
		Cause(svid.Expired):          "the client" + expiredHint,
		Cause(svid.NotYetValid):      "the client" + futureHint,
		Cause(svid.Revoked):          "the client" + revokedHint,
	},
	Outbound: {
		Timeout:                      "the server accepted the connection and did not speak TLS: is it outside the mesh although the map lists it, or is its proxy stopped?",
		PeerClosed:                   "the server closed during the handshake: is it outside the mesh, is its proxy not ready, or does it refuse us?",
		NotTLS:                       "the server does not speak TLS 1.3: was it rendered without the function (has the pod a meshless-proxy?), was its pod started before, or does the port bypass its proxy?",
		PeerRefused:                  "the server refuses us: its log says why (revoked, denied by authorization, or a bundle older than our authority)",
		TooLarge:                     "the server" + tooLargeHint,
		Inconclusive:                 "nothing says whether the server is of the mesh, and it does not say it either: is it outside, name its Service in outbound.plaintextServices, or its network in outbound.excludeCIDRs",
		WrongIdentity:                "another workload answers at this address: do selectors of two Services overlap, or are map and Services synced from different commits?",
		Cause(svid.UnknownAuthority): "the server's certificate was signed by an authority that our bundle lacks: were its Secret and our bundle synced from different commits?",
		Cause(svid.Expired):          "the server" + expiredHint,
		Cause(svid.NotYetValid):      "the server" + futureHint,
		Cause(svid.Revoked):          "the server" + revokedHint,
	},
}
