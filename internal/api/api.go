// Package api holds the names that the three programs of meshless must agree on: ports, paths, annotations, names of
// objects, the form of an identity, and image tags. Constants and no behaviour.
package api

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Ports of the proxy. OutboundPort and InboundPort receive redirected connections; the other three are reached
// directly.
const (
	OutboundPort = 15001 // loopback: what the app opens, redirected by init
	InboundPort  = 15006 // all addresses: what arrives at the pod, redirected by init
	MetricsPort  = 15020 // all addresses: /metrics
	HealthPort   = 15021 // all addresses: /readyz, /livez and the app's rewritten handlers
	AdminPort    = 15000 // loopback: /configz, /drain, /quit
)

// ReservedPorts are the ports that no container of a pod in the mesh may use.
var ReservedPorts = []int{AdminPort, OutboundPort, InboundPort, MetricsPort, HealthPort}

// ResolverIP and ResolverPort are where the proxy of a pod without redirect rules answers the pod's DNS queries.
const (
	ResolverIP   = "127.0.0.53"
	ResolverPort = 53
)

// ResolverDirectory is the volume in which init leaves ResolverFile, which every other container of a pod without
// redirect rules has in place of /etc/resolv.conf.
const (
	ResolverDirectory = "/var/run/meshless-resolver"
	ResolverFile      = "resolv.conf"
	ResolverVolume    = "meshless-resolver"
)

// DirectPort is the port on which the proxy of a pod without redirect rules takes what is for a port of the app: 22000
// and the port, for ports below 10000. Others go into the 12000 ports from 10000 on, each 6000 away from those that are
// its like there. So the ports that one app has are apart, such as Redis's 6379, 16379 and 26379, or RabbitMQ's 5672,
// 15672 and 25672. All are below the ports that Linux gives to connections. Two ports of one pod that come to one, to a
// port of the app or to a reserved one are an error at render.
func DirectPort(port uint16) uint16 {
	if port < 10000 {
		return 22000 + port
	}
	return 10000 + (port-4000)%12000
}

// IsDirectPort tells whether a port is the DirectPort of any.
func IsDirectPort(port uint16) bool { return 10000 <= port && port < 32000 }

// DefaultUID is the user of the proxy. Traffic of this user leaves the pod unredirected, so no other container may run
// as it.
const DefaultUID = 15000

// The proxy marks the sockets with which it leaves the pod by their priority (SO_PRIORITY, which needs no capability,
// is on every packet of a socket that nobody owns any more, and which init's rules take off again); init keeps such
// connections in a zone of conntrack of their own, if they are the proxy's. The proxy dials what the app has dialed,
// from the same address: in one zone, an app's connection that gets the port of one of the proxy's, ended less than ten
// seconds ago by the server's reset, would inherit its entry and leave the pod without being asked where to.
//
// The kernel makes a priority of IP_TOS as well, which apps set on open connections: 0, 2, 4 or 6, and never this one.
const (
	ProxyPriority = 5
	ProxyZone     = 15000
)

// Directory is where the proxy finds its files: one projected volume, so that the kubelet swaps all of them at once.
const Directory = "/var/run/meshless"

// Files in Directory.
const (
	LeafFile      = "tls.crt"       // the X.509-SVID, PEM
	SealedKeyFile = "tls.key.age"   // its PKCS#8 key, PEM in an armored age file
	IdentityFile  = "identity.txt"  // the age identity that opens it
	PlainKeyFile  = "tls.key"       // the PKCS#8 key, PEM, where another party opens it before it reaches the pod
	BundleFile    = "ca.crt"        // the trust bundle, PEM
	MeshFile      = "mesh.yaml"     // meshmap.Map
	WorkloadFile  = "workload.json" // podplan.Workload
)

// Names of injected things. Everything that meshless adds to a pod or a namespace starts with NamePrefix.
const (
	NamePrefix    = "meshless-"
	InitName      = "meshless-init"
	ProxyName     = "meshless-proxy"
	VolumeName    = "meshless"
	APIVersion    = "meshless.dev/v1alpha1"
	DefaultDomain = "cluster.local"
)

// MaxPackage is how long the name of a package may be, so that MembersName is a label.
const MaxPackage = 40

// BundleName is the name of the ConfigMap with BundleFile. Objects carry the name of the package, since several
// packages may have workloads in one namespace.
func BundleName(pkg string) string { return NamePrefix + "bundle-" + pkg }

// Prefixes of the names of the ConfigMaps with BundleFile and MeshFile for one hook, which runs without the others.
const (
	HookBundlePrefix = NamePrefix + "hook-bundle-"
	HookMeshPrefix   = NamePrefix + "hook-mesh-"
)

// MeshName is the name of the ConfigMap with MeshFile.
func MeshName(pkg string) string { return NamePrefix + "mesh-" + pkg }

// MembersName is the name of the members Service: headless, it selects by PackageLabel the pods of one package that are
// in the mesh, ready or not. Its address records, and the names of the pods' addresses, tell who is in the mesh.
func MembersName(pkg string) string { return MembersPrefix + pkg }

// MembersPrefix starts the name of every members Service.
const MembersPrefix = NamePrefix + "members-"

// AliasPrefix starts the name of every alias.
const AliasPrefix = NamePrefix + "alias-"

// AliasName is the name of the alias of a Service: of type ExternalName, it leads to the Service itself, and says to
// packages under the same authority that the Service is in the mesh. A name that gets too long ends in its digest.
func AliasName(service string) string {
	name := AliasPrefix + service
	if len(name) <= 63 {
		return name
	}
	digest := sha256.Sum256([]byte(service))
	return name[:54] + "-" + hex.EncodeToString(digest[:4])
}

// ALPN is the protocol that a meshless proxy offers as a client. A Permissive port tells mesh traffic from an app's own
// TLS by it; it never decides about authentication.
const ALPN = "meshless/1"

// RenewALPN is the protocol of a renewal: two proxies of the mesh show each other their new leaves, so that connections
// between them outlive the old ones. It carries nothing of an app, and is offered alone.
const RenewALPN = "meshless-renew/1"

// WorkloadID is spiffe://<td>/ns/<namespace>/<kind>/<name>; kind is in lower case. The error names the segment that
// SPIFFE does not allow (SPIFFE-ID standard, section 2.2).
func WorkloadID(td spiffeid.TrustDomain, namespace, kind, name string) (spiffeid.ID, error) {
	return spiffeid.FromSegments(td, "ns", namespace, kind, name)
}

// ProxyProtocolSPIFFEID is the type of the PROXY protocol TLV that holds the peer's SPIFFE ID, of the range for custom
// use (section 2.2.8 of the specification).
const ProxyProtocolSPIFFEID = 0xE0
