package attack

// admission: floods, bursts and limits of connections.
var admission = []Attack{
	{"600 strangers beside a burst: silent, half a hello, a foreign certificate, no TLS", Stranger,
		"1,500 connections of one pod all get in; half a core", "proxy/sidecar.TestBurstOfOnePod"},
	{"the same right after a restart of the server", Stranger,
		"4,000 members of 200 addresses all get in; half a core", "proxy/sidecar.TestBurstOfManyPods"},
	{"silent connections of one address", Stranger, "they hold no slot of a handshake; others get in", "proxy/sidecar.TestInboundFlood"},
	{"10,000 handshakes that stall, from 3 addresses and from 400", Stranger,
		"slots are bounded and change hands within seconds; members get in", "proxy/sidecar.TestHandshakeFlood"},
	{"connections that stall, from 500 addresses", Stranger, "a part of the slots stays for those who came through before", "proxy/listen.TestStalledLeaveSlots"},
	{"connections that stall one source after the other, of sources that came through before", Member,
		"a quarter of the slots stays for those that hold none; outbound, one hung server takes no other's", "proxy/listen.TestProvedStallersLeaveSlots"},
	{"sources that come and go behind one that stalls", Stranger, "the queue keeps none of them", "proxy/listen.TestStallerHidesNobody"},
	{"metrics that are asked for and not read", Stranger, "the place comes back within 15 s; the kubelet shares it", "proxy/admin.TestMetricsAreNotKept"},
	{"more connections than can wait", Stranger, "those of the source with most are refused", "proxy/listen.TestFullPark"},
	{"many addresses that fail, to have proved ones forgotten", Stranger, "they displace each other", "proxy/listen.TestRememberedSources"},
	{"an identity takes all places, from ten addresses", Member, "it gives up idle ones when another identity comes", "proxy/sidecar.TestMemberDoesNotStarve"},
	{"all idle connections that the budget gives, in 128 MiB", Member, "they fit; one client more gets in", "proxy/sidecar.TestFullOfIdle"},
	{"plaintext on a Permissive port takes all places", Stranger, "half is left to members", "proxy/sidecar.TestPlaintextDoesNotStarve"},
	{"more idle connections than there are descriptors for", Member, "the budget ends before the descriptors do; others get in", "proxy/sidecar.TestFewDescriptors"},
	{"no file descriptor is left", Mishap, "no spin; served again once there is one", "proxy/sidecar.TestOutOfDescriptors"},
	{"half hellos that begin behind the greeting of a Permissive port", Stranger, "no more at once than handshakes; the rest end", "proxy/sidecar.TestLateHalfHellos"},
	{"a hello of the mesh is held back until the app of a Permissive port has spoken", Neighbor, "the client tries again: mutual TLS or nothing",
		"proxy/sidecar.TestHelloHeldBack"},
	{"a proxy moved into another namespace with its files", Mishap, "it refuses the identity, and the pod stays in Init", "proxy/sidecar.TestNamespace"},
}
