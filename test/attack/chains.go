package attack

// chains: certificates of strangers.
var chains = []Attack{
	{"chains that are expensive to verify: many parents of one name and key on any curve, RSA-8192, loops, lines", Stranger,
		"refused; the stranger's keys are never used", "internal/svid.TestStrangersKeysAreNotUsed"},
	{"a chain that claims an authority by name or key", Stranger, "refused after one signature, or two where it names no key", "internal/svid.TestStrangersCostOneSignature"},
	{"genuine intermediates above a forged leaf, again and again", Stranger, "refused; the intermediates are verified once", "internal/svid.TestGenuineIntermediates"},
	{"chains that crypto/x509 refuses: times, constraints, usages, path lengths, policies, critical extensions", Stranger,
		"refused", "internal/svid.TestAsTheStandardLibrary"},
	{"RSA keys below 2048 bits, or expensive keys, in leaf, intermediate or authority", Stranger, "refused, in a render too", "internal/svid.TestKeys"},
	{"certificates or a hello larger than any of a mesh", Stranger, "not parsed, and the connection is closed", "proxy/relay.TestHandshakeIsSmall"},
	{"a key exchange on P-521 or P-384", Stranger, "refused before it is computed", "proxy/identity.TestGroups"},
	{"every kind of these against a proxy, a member between them", Stranger, "none gets in, the member always does", "proxy/sidecar.TestStrangers"},
}
