package attack

// supplier makes what CI runs and what is built in.
const supplier Origin = "supplier"

// secrets: keys, and what is built and released.
var secrets = []Attack{
	{"an exec function of the package looks for the CA identity in environment blocks, memory, descriptors, by ptrace", Tenant,
		"found nowhere; as root in memory alone", "fn/cli.TestIdentityIsHidden"},
	{"a process of the proxy's user reads its memory, environment, descriptors, or traces it", App, "refused by the kernel", "proxy/sandbox.TestMemoryIsPrivate"},
	{"the proxy is made to crash, for the keys in its core dump", App, "no core is written", "proxy/sandbox.TestNoCore"},
	{"a Service's port, target or node port beyond 16 bits, negative, or by a name that is none", Tenant, "the render names the field", "fn/manifest.FuzzServicePorts"},
	{"two workloads whose state would have one name, or an object with the name of a workload's state", Tenant,
		"the render names both, before anything is issued", "fn/pipeline.TestGolden"},
	{"an authority of somebody else's in a bundle, or in the CertificateAuthority as one that signed once", Tenant,
		"an error of issue, or of verify with --base or --ca; a bare build prints it", "fn/cli.TestScripts"},
	{"the tag of an action that CI runs is moved to other code", supplier, "CI runs the commit that is named", ".TestPins"},
	{"a release is built of other code than its commit's", supplier, "a second build has other bytes", "test/reproducible.TestBuilds"},
}
