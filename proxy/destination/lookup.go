package destination

// Lookup is what DNS says about an address, and what is known of the network that it lies in. It holds no decision, so
// that it stays true when the mesh map changes.
type Lookup struct {
	Names []Name
	Err   error // DNS did not answer; Names holds what it said earlier
	// why it proves nothing that DNS has no name, or no other name, for the address
	Uncertain error
	// why an address without a name may be in the mesh all the same, although DNS answers as it should; empty if it may
	// not
	Doubt string
	// no network of the cluster's is near: without an answer the address counts as outside the mesh
	Remote bool
	// it is a server that this proxy asks: no mesh can have it, since DNS comes before the mesh
	NameServer bool
	// by which name of the mesh the app has come to the address, where the pod has no redirect rules: its connection is
	// one to that Service by mutual TLS, or none. Its Service is empty elsewhere
	Dialed Name
}

// Name is a name of an address below svc.<clusterDomain>.
type Name struct {
	Service   string // <service>.<namespace>, in lower case
	Endpoint  bool   // the address is an endpoint's (a pod's), not the Service's clusterIP
	Confirmed bool   // the name's own address records contain the address
	// found in the Service's address records alone: its clusterIP or, if it is headless, an endpoint; DNS does not say
	// which
	Forward bool
	// DNS confirmed it within the last minutes, but does not say it now; the Service was in the mesh then
	Remembered bool
	// the Service has an alias (api.AliasName): its package says that it is in the mesh
	Alias bool
	// the members Service of our own package is in the Service's namespace: a namespace that the map does not know yet
	Ours bool
}
