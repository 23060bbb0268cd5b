package v1alpha1

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// The kinds of this package.
const (
	APIVersion               = api.APIVersion
	KindMutualTLS            = "MutualTLS"
	KindCertificateAuthority = "CertificateAuthority"
)

// MutualTLS is the config of the function.
type MutualTLS struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              Spec `json:"spec"`
}

// Issuance says whether a render may make certificates.
type Issuance string

// The values of Issuance.
const (
	IssuanceAuto Issuance = "Auto" // only where the result is written back
	// not at all: what is missing is an error, and in a package of kpt whatever is left to do
	IssuanceNever Issuance = "Never"
)

// Spec is what a MutualTLS asks for.
type Spec struct {
	TrustDomain   string            `json:"trustDomain,omitempty"`   // SPIFFE trust domain; default cluster.local
	ClusterDomain string            `json:"clusterDomain,omitempty"` // DNS suffix of Services; default cluster.local
	Issuance      Issuance          `json:"issuance,omitempty"`      // default Auto
	Sealing       Sealing           `json:"sealing,omitempty"`       // required with issuer RollingCA
	Certificates  Certificates      `json:"certificates,omitempty"`
	TLS           TLS               `json:"tls,omitempty"`
	Workloads     WorkloadSelectors `json:"workloads,omitempty"`
	Inbound       Inbound           `json:"inbound,omitempty"`
	Outbound      Outbound          `json:"outbound,omitempty"`
	Redirect      Redirect          `json:"redirect,omitempty"` // how traffic gets to the proxies, see no-redirect.md
	Authorization Authorization     `json:"authorization,omitempty"`
	Federation    []Federation      `json:"federation,omitempty"` // other trust domains, see certificates.md
	Sidecar       Sidecar           `json:"sidecar,omitempty"`
	Proxy         Proxy             `json:"proxy,omitempty"`
	Init          InitContainer     `json:"init,omitempty"`
}

// Sealing says to whom workload keys are sealed.
type Sealing struct {
	// Age: the proxy opens the keys. SOPS: Flux does before it applies, see flux.md; default Age
	Format         string              `json:"format,omitempty"`
	Recipients     []string            `json:"recipients,omitempty"`     // age1… or age1pq…, never mixed
	Namespaces     map[string][]string `json:"namespaces,omitempty"`     // instead of Recipients, by namespace
	IdentitySecret SecretKey           `json:"identitySecret,omitempty"` // with format Age
}

// The values of Sealing.Format.
const (
	SealingAge = "Age" // an age file in the Secret, which the proxy opens with the identity of its namespace
	// a value that SOPS encrypted to age recipients, which Flux decrypts before it applies the Secret
	SealingSOPS = "SOPS"
)

// SecretKey names the Secret, in each namespace of the mesh, that holds the age identity.
type SecretKey struct {
	Name string `json:"name,omitempty"` // of the Secret; default meshless-identity
	Key  string `json:"key,omitempty"`  // of its key that holds the age identity file; default identity.txt
}

// Certificates says how leaves are made.
type Certificates struct {
	// RollingCA: authorities in the state. CertManager: cert-manager issues, and nothing is sealed. See certificates.md
	Issuer string `json:"issuer,omitempty"`
	// of the keys of leaves and authorities; default ECDSA-P256
	KeyAlgorithm string          `json:"keyAlgorithm,omitempty"`
	Validity     metav1.Duration `json:"validity,omitempty"` // of a leaf; default 720h
	// a leaf is due when this much is left; default half of validity
	RenewBefore metav1.Duration `json:"renewBefore,omitempty"`
	// the policy of the rolling authorities; required with issuer RollingCA
	CA CA `json:"ca,omitempty"`
	// who signs otherwise; required with issuer CertManager
	CertManager CertManager `json:"certManager,omitempty"`
}

// CA is the policy of the rolling certificate authority.
type CA struct {
	// who opens CA keys: CI or an operator, never the cluster
	Recipients    []string        `json:"recipients,omitempty"`
	SigningPeriod metav1.Duration `json:"signingPeriod,omitempty"` // how long one authority signs; default 2160h
	// CA certificates in PEM that are trusted beside the rolling ones and sign nothing here, see certificates.md
	Additional string `json:"additional,omitempty"`
}

// WorkloadSelectors choose the workloads of the mesh: those that an include matches (all when there is none) and no
// exclude does.
type WorkloadSelectors struct {
	Include []Selector `json:"include,omitempty"` // default: every workload in the input
	Exclude []Selector `json:"exclude,omitempty"` // takes out what include took in

	Templates []PodTemplate `json:"templates,omitempty"` // kinds of custom resources that hold pod templates

	// workloads whose pods operators and controllers make without a pod template in the input
	Declared []DeclaredWorkload `json:"declared,omitempty"`

	// annotations by which pod templates may say otherwise than this config, without meshless.dev/; an empty list
	// allows none; default all but proxy-image, since whoever chooses the proxy's program holds the workload's key
	Overrides []string `json:"overrides,omitempty"`
}

// PodTemplate says where a kind of custom resource keeps a pod template; entries of one kind add up. Those of Argo
// Rollouts and OpenShift DeploymentConfigs are known.
type PodTemplate struct {
	Group string `json:"group,omitempty"` // like argoproj.io; empty for the core group
	Kind  string `json:"kind"`            // like Rollout
	// keys, joined by dots; [] stands for every entry of a list: spec.template, spec.jobs[].template
	Path string `json:"path"`
}

// EveryEntry is the step of a template's path that stands for every entry of a list.
const EveryEntry = "[]"

// Steps are the keys of a validated path, and EveryEntry behind one that holds a list.
func (t PodTemplate) Steps() []string {
	return strings.Split(strings.ReplaceAll(t.Path, EveryEntry, "."+EveryEntry), ".")
}

// Selector matches a workload when every field that is set does.
type Selector struct {
	// like Deployment; upper and lower case are one
	Kind          string                `json:"kind,omitempty"`
	Name          string                `json:"name,omitempty"`          // glob
	Namespace     string                `json:"namespace,omitempty"`     // glob
	LabelSelector *metav1.LabelSelector `json:"labelSelector,omitempty"` // on the labels of the pod template
}

// Inbound is what the proxies accept.
type Inbound struct {
	Mode         meshmap.Mode `json:"mode,omitempty"`         // default Strict
	ExcludePorts PortList     `json:"excludePorts,omitempty"` // not redirected to the proxy at all

	// what arrives through these interfaces is not redirected: docker0, net1; whole names, and never eth0 or lo
	ExcludeInterfaces []string `json:"excludeInterfaces,omitempty"`

	// networks of the addresses that apps see in place of their clients': one of IPv4, /8 to /24, one of IPv6, /64,
	// that nothing in reach of the pods has; default: 198.18.0.0/15 or another that is free, and fd6d:6573:686c::/64
	ClientCIDRs []netip.Prefix `json:"clientCIDRs,omitempty"`
}

// Outbound is what the proxies do with what the app opens.
type Outbound struct {
	Unknown      meshmap.UnknownPolicy `json:"unknown,omitempty"`      // default Passthrough
	ExcludePorts PortList              `json:"excludePorts,omitempty"` // not redirected to the proxy at all
	ExcludeCIDRs []netip.Prefix        `json:"excludeCIDRs,omitempty"` // networks not redirected to the proxy at all

	// what leaves through these interfaces is not redirected: net1, tun0; whole names, and never eth0 or lo
	ExcludeInterfaces []string `json:"excludeInterfaces,omitempty"`
	// what processes of these users open is not redirected; never root or sidecar.uid
	ExcludeUIDs []int64 `json:"excludeUIDs,omitempty"`

	MeshCIDRs []netip.Prefix `json:"meshCIDRs,omitempty"` // mutual TLS with any identity of the trust domain
	// networks of the cluster's pods and Services outside of the private ranges, such as global IPv6: where DNS does
	// not answer, nothing leaves to them in plaintext
	ClusterCIDRs []netip.Prefix `json:"clusterCIDRs,omitempty"`
	// <service>.<namespace>: Services that are not in the mesh although no manifest shows it, such as those of an
	// operator's pods
	PlaintextServices []string `json:"plaintextServices,omitempty"`
}

// Redirect says how traffic gets to the proxies.
type Redirect struct {
	Mode RedirectMode `json:"mode,omitempty"` // of workloads that None does not select; default Rules
	None []Selector   `json:"none,omitempty"` // workloads of mode None; default: those that Mode says
	// ports of Services that no manifest shows, <service>.<namespace>: [5432], on which proxies without rules take what
	// their apps send there
	Services map[string]PortList `json:"services,omitempty"`
}

// RedirectMode is how traffic gets to a proxy.
type RedirectMode string

// The values of RedirectMode.
const (
	RedirectRules RedirectMode = "Rules" // rules of the pod's network, which the init container makes with NET_ADMIN
	// by DNS and by the ports of Services, without any capability: for namespaces that enforce baseline or restricted
	RedirectNone RedirectMode = "None"
)

// Authorization says who may connect to whom.
type Authorization struct {
	Mode    AuthorizationMode     `json:"mode,omitempty"`    // default Enforce
	Default meshmap.DefaultPolicy `json:"default,omitempty"` // default AllowMesh
	Rules   []AuthorizationRule   `json:"rules,omitempty"`   // none: Default alone decides

	// the ingress rules of the NetworkPolicies in the input are rules as well
	FromNetworkPolicies bool `json:"fromNetworkPolicies,omitempty"`
}

// AuthorizationMode says what becomes of those whom no rule allows.
type AuthorizationMode string

// The values of AuthorizationMode.
const (
	AuthorizationEnforce AuthorizationMode = "Enforce" // whoever no rule allows is refused
	// whoever no rule allows is logged, counted and let in, provided it has an identity of the mesh
	AuthorizationDryRun AuthorizationMode = "DryRun"
)

// AuthorizationRule opens ports of the workloads that To matches to From. A workload that a rule matches is closed to
// everyone whom no rule allows.
type AuthorizationRule struct {
	To    Selector `json:"to"`              // the workloads that the rule opens
	Ports PortList `json:"ports,omitempty"` // of the container; default all
	From  []Peer   `json:"from"`            // who may connect
	// the workloads may be missing; otherwise a rule that selects none is an error
	Optional bool `json:"optional,omitempty"`
}

// Peer is a selector of workloads or a pattern of SPIFFE IDs, not both. A selector without a namespace selects in the
// namespace of the workload that the rule opens; "*" is every namespace.
type Peer struct {
	Selector `json:",inline"`
	// of our trust domain or a federated one; * stands for characters within one path segment
	SPIFFEID string `json:"spiffeID,omitempty"`
}

// Sidecar says how the proxy is placed into the pod.
type Sidecar struct {
	Mode SidecarMode `json:"mode,omitempty"` // default Native
	UID  int64       `json:"uid,omitempty"`  // of the proxy; no other container may run as it; default 15000

	// Keep: a Guaranteed pod stays one, by limits that are the requests. Ignore: it becomes Burstable; default: as
	// Ignore, with a warning
	QOSClass QOSClass `json:"qosClass,omitempty"`
}

// QOSClass says what becomes of the quality of service class of a Guaranteed pod.
type QOSClass string

// The values of QOSClass.
const (
	QOSClassKeep   QOSClass = "Keep"   // the injected containers get limits that equal their requests
	QOSClassIgnore QOSClass = "Ignore" // the pod may become Burstable, without a warning
)

// SidecarMode is the form of the proxy in a pod.
type SidecarMode string

// The forms of the proxy.
const (
	NativeSidecar    SidecarMode = "Native"    // an init container that keeps running: Kubernetes 1.29 and later
	ContainerSidecar SidecarMode = "Container" // the first of the containers: any Kubernetes
)

// Proxy configures the sidecar.
type Proxy struct {
	Image string `json:"image,omitempty"` // default: that of the release
	// Always, IfNotPresent, Never; default: that of Kubernetes
	ImagePullPolicy corev1.PullPolicy `json:"imagePullPolicy,omitempty"`
	// default: requests 10m, 32Mi and 16Mi of ephemeral storage; limit 256Mi of memory, and 512Mi of ephemeral storage
	// in pods that limit it themselves
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
	// debug, info, warn, error; default info
	LogLevel string `json:"logLevel,omitempty"`
	// a connection ends when no byte has moved for so long, as 8h; at least 1m; default: never
	IdleTimeout metav1.Duration `json:"idleTimeout,omitempty"`
	// run Go's cryptography in FIPS 140-3 mode (GODEBUG=fips140=on)
	FIPS140 bool `json:"fips140,omitempty"`
	// whose record layer of TLS protects connections; with fips140 it is Standard; default Own
	Records podplan.Records `json:"records,omitempty"`
}

// InitContainer configures the init container.
type InitContainer struct {
	// default: that of the release, for the back end
	Image string `json:"image,omitempty"`
	// Always, IfNotPresent, Never; default: that of Kubernetes
	ImagePullPolicy corev1.PullPolicy `json:"imagePullPolicy,omitempty"`
	// default: requests 10m, 16Mi and 16Mi of ephemeral storage; limit 64Mi of memory, and 512Mi of ephemeral storage
	// in pods that limit it themselves
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
	// Auto: nftables, or iptables-nft where the image has it; NFTables: over netlink, or not at all; IPTables:
	// iptables-nft or iptables-legacy, see config.md; default Auto
	Backend podplan.Backend `json:"backend,omitempty"`
}

// PortList is a list of ports and ranges: [80, "9000-9010"].
type PortList []PortOrRange

// PortOrRange is 80, "80" or "9000-9010" in YAML.
type PortOrRange struct{ netset.Ports }

// UnmarshalJSON accepts a number and the text of netset.ParsePorts.
func (p *PortOrRange) UnmarshalJSON(data []byte) (err error) {
	text := string(data)
	if len(text) > 1 && text[0] == '"' {
		text = text[1 : len(text)-1]
	}
	p.Ports, err = netset.ParsePorts(text)
	return err
}

// MarshalJSON writes the text form.
func (p PortOrRange) MarshalJSON() ([]byte, error) { return []byte(`"` + p.String() + `"`), nil }

// Set is the union of the list.
func (l PortList) Set() netset.Ports {
	var text string
	for _, p := range l {
		if len(p.Ports) > 0 {
			text += "," + p.String()
		}
	}
	if text == "" {
		return nil
	}
	set, _ := netset.ParsePorts(text[1:]) // parts that ParsePorts made
	return set
}
