package attack

// direct: pods without redirect rules. That an app leaves past its proxy is no attack there (docs/no-redirect.md).
var direct = []Attack{
	{"forged answers for a name of the mesh: foreign addresses, aliases, hints of HTTPS records, servers of SRV records, other names' addresses", DNS,
		"without redirect rules none reaches the app; the name leads to the proxy, or has no address", "proxy/nameserver.TestAttackAnswers"},
	{"a name of the mesh leads to a stranger, to another workload, to the pod itself", DNS,
		"without redirect rules the connection ends; not a byte of the app leaves", "proxy/sidecar.TestAttackDirectDNS"},
	{"the name by which an app came, with every other answer about the address forged", DNS,
		"who answers is of that Service; nothing leaves in plaintext", "proxy/destination.TestAttackDialed"},
	{"a Service of another package that an operator made, and that has no alias", Mishap, "without redirect rules its pods have no address: their names tell that they are of the mesh", "proxy/nameserver.TestAttackOperator"},
	{"a name of the mesh has no address, and the resolver goes on with a domain of the node that answers for everything", Mishap, "without redirect rules that domain answers nothing for the name", "proxy/nameserver.TestAttackSearch"},
	{"DNS queries without end, to name servers that do not answer", App, "as many as may be are under way; others are answered by TCP", "proxy/nameserver.TestAttackFlood"},
	{"connections to the pod's name server that are silent", App, "they are bounded, and end", "proxy/nameserver.TestAttackConnections"},
	{"an app that holds a Service's port on all addresses", App, "the name has no address: no connection meets the app in the Service's place", "proxy/loopback.TestTaken"},
	{"a Service on the proxy's own ports", Tenant, "the name has no address", "proxy/sidecar.TestDirectOwnPorts"},
	{"plaintext, and foreign certificates, at direct ports", Stranger, "refused, as where rules lead there", "proxy/sidecar.TestAttackDirectPorts"},
	{"the same over the network, and through the Service", Stranger, "refused; on the wire is TLS 1.3 alone", "test/kernel.TestDirect"},
	{"a direct port at an address that is not the pod's", Neighbor, "refused", "proxy/sidecar.TestDirectForeignAddress"},
	{"a Service, a NetworkPolicy, a map or a label that leads past a proxy without redirect rules, after the render", Tenant,
		"`verify` refuses it", "fn/verify.TestRetargetAttacks"},
	{"the NetworkPolicy of a workload without redirect rules is gone", Tenant, "`verify` refuses it", "fn/verify.TestRetargetMissing"},
	{"another resolv.conf, sysctl, user or mode of a pod without redirect rules, after the render", Tenant, "`verify` refuses it", "fn/verify.TestNoRedirect"},
	{"a NetworkPolicy that selects pods without redirect rules by the labels that a render writes", Tenant, "it opens no port of the app", "fn/retarget.TestAttackOwnLabels"},
	{"a NetworkPolicy without a namespace, applied where pods without redirect rules are", Tenant, "a render warns", "fn/retarget.TestAttackNamespace"},
	{"addresses in the manifest of an app without redirect rules: hostAliases, arguments, variables", Mishap, "a render warns", "fn/lint.TestAttackAddresses"},
	{"a port that one workload of a namespace leaves out, dialed at a pod without redirect rules", Mishap, "mutual TLS, or nothing", "fn/manifest.TestAttackOpenPodPorts"},
	{"a resolv.conf that leads the proxy to itself, to nobody, or has no end", Mishap, "init fails the pod, and leaves no file", "init/resolver.TestRefused"},
}
