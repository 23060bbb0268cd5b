package api

// AnnotationPrefix starts every annotation of ours.
const AnnotationPrefix = "meshless.dev/"

// PackageLabel is on the pod template of every workload of the mesh; its value is the name of the package.
const PackageLabel = AnnotationPrefix + "package"

// PackageAnnotation is on the bundles and mesh maps of a package; the name, once given, stays.
const PackageAnnotation = PackageLabel

// SharedAnnotation is on the bundles of a package whose authority other packages share, "true": it is the same in
// renders that see the CertificateAuthority and in those that do not.
const SharedAnnotation = AnnotationPrefix + "shared-ca"

// WorkloadsAnnotation is written by people on a Service whose selector does not say who is behind it, or that has none:
// <kind>/<name> of workloads of its namespace, separated by commas.
const WorkloadsAnnotation = AnnotationPrefix + "workloads"

// PlaintextPortsAnnotation is written by people on a Service whose ports of UDP or SCTP are plaintext on purpose:
// <port>/<protocol>, separated by commas.
const PlaintextPortsAnnotation = AnnotationPrefix + "plaintext-ports"

// DirectLabel is on the pod template of every workload without redirect rules: NetworkPolicies tell its pods by it. The
// value is that of podplan.Plan.DirectName.
const DirectLabel = AnnotationPrefix + "direct"

// DirectPolicyPrefix begins the name of the NetworkPolicy of a workload without redirect rules.
const DirectPolicyPrefix = NamePrefix + "direct-"

// Annotations that a render writes on Services and NetworkPolicies in front of workloads without redirect rules: what
// stood there before, for un-injection (package fn/retarget).
const (
	TargetPortsAnnotation   = AnnotationPrefix + "target-ports"
	NetworkPolicyAnnotation = AnnotationPrefix + "network-policy"
)

// Annotations that a render writes on pod templates.
const (
	WorkloadAnnotation = AnnotationPrefix + "workload" // podplan.Workload, for the proxy
	// YAML of the handlers that injection rewrote, for un-injection
	OriginalAnnotation = AnnotationPrefix + "original"
	// what injection wrote into kubectl's annotation of that name, for un-injection
	DefaultAnnotation = AnnotationPrefix + "default-container"
)

// Annotations that a render writes on state. State is found by IdentityAnnotation, since prefixes and namespaces move
// names.
const (
	// SPIFFE ID of the workload; of the trust domain on bundles and mesh maps
	IdentityAnnotation   = AnnotationPrefix + "identity"
	RecipientsAnnotation = AnnotationPrefix + "recipients" // digest of those to whom the key is sealed
	PublicKeyAnnotation  = AnnotationPrefix + "public-key" // SHA-256 of the SubjectPublicKeyInfo of the sealed key
	// on bundles: digests of public keys, separated by commas; the map gets them
	RevokedAnnotation  = AnnotationPrefix + "revoked-keys"
	NotAfterAnnotation = AnnotationPrefix + "not-after" // expiry of the leaf (RFC 3339), for people
	// when the leaf is due (RFC 3339), for readers without the config
	RenewAfterAnnotation = AnnotationPrefix + "renew-after"
	// on the Secrets, or Certificates of cert-manager, of Jobs and Pods: what was written into the template, which
	// cannot be changed (package fn/hold)
	WrittenAnnotation = AnnotationPrefix + "written"
	// on bundles: SHA-256 of those of their certificates that the config adds, separated by commas
	AdditionalAnnotation = AnnotationPrefix + "additional"
)

// DeclaredAnnotation is on the MutatingAdmissionPolicy of a declared workload: the declaration, with the pod template
// that its pods are to be like, in YAML.
const DeclaredAnnotation = AnnotationPrefix + "declared"

// Annotations that people write on pod templates.
const (
	InjectAnnotation                    = AnnotationPrefix + "inject"
	ExcludeInboundPortsAnnotation       = AnnotationPrefix + "exclude-inbound-ports"
	ExcludeInboundInterfacesAnnotation  = AnnotationPrefix + "exclude-inbound-interfaces"
	ExcludeOutboundPortsAnnotation      = AnnotationPrefix + "exclude-outbound-ports"
	ExcludeOutboundCIDRsAnnotation      = AnnotationPrefix + "exclude-outbound-cidrs"
	ExcludeOutboundInterfacesAnnotation = AnnotationPrefix + "exclude-outbound-interfaces"
	ExcludeOutboundUIDsAnnotation       = AnnotationPrefix + "exclude-outbound-uids"
	ProxyProtocolPortsAnnotation        = AnnotationPrefix + "proxy-protocol-ports"
	PprofAnnotation                     = AnnotationPrefix + "pprof" // enabled or disabled
	PermissivePortsAnnotation           = AnnotationPrefix + "permissive-ports"
	TLSPassthroughPortsAnnotation       = AnnotationPrefix + "tls-passthrough-ports"
	StrictPortsAnnotation               = AnnotationPrefix + "strict-ports"
	TransparentPortsAnnotation          = AnnotationPrefix + "transparent-ports"
	ProxyCPUAnnotation                  = AnnotationPrefix + "proxy-cpu"
	ProxyMemoryAnnotation               = AnnotationPrefix + "proxy-memory"
	ProxyCPULimitAnnotation             = AnnotationPrefix + "proxy-cpu-limit"
	ProxyMemoryLimitAnnotation          = AnnotationPrefix + "proxy-memory-limit"
	QOSClassAnnotation                  = AnnotationPrefix + "qos-class" // Keep or Ignore
	ProxyImageAnnotation                = AnnotationPrefix + "proxy-image"
	LogLevelAnnotation                  = AnnotationPrefix + "log-level"
	RedirectAnnotation                  = AnnotationPrefix + "redirect"    // Rules or None
	AppAddressAnnotation                = AnnotationPrefix + "app-address" // Pod or Loopback
	// Secret of the user's with LeafFile and PlainKeyFile, instead of an issued leaf
	TLSSecretAnnotation = AnnotationPrefix + "tls-secret"
)

// Overrides are the annotations by which a pod template may say otherwise than the config, without AnnotationPrefix.
// The config says which of them count (spec.workloads.overrides).
var Overrides = []string{
	"inject", "exclude-inbound-ports", "exclude-inbound-interfaces", "exclude-outbound-ports", "exclude-outbound-cidrs", "exclude-outbound-interfaces",
	"exclude-outbound-uids", "proxy-protocol-ports", "pprof", "permissive-ports", "tls-passthrough-ports", "strict-ports", "transparent-ports", "proxy-cpu", "proxy-memory",
	"proxy-cpu-limit", "proxy-memory-limit", "qos-class", "proxy-image", "log-level", "redirect", "app-address", "tls-secret",
}
