// Package meshmap holds the mesh map, mesh.yaml: who is who for the workloads of one namespace. The function writes it,
// the proxy reads it back. One struct, one writer, one strict parser; the package knows no Kubernetes types.
package meshmap

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
)

// UnknownPolicy says what the proxy does with a connection to a destination outside the mesh.
type UnknownPolicy string

// The modes of Unknown.
const (
	Passthrough UnknownPolicy = "Passthrough" // relay it as it is
	DenyUnknown UnknownPolicy = "Deny"        // close it
)

// Mode says what an inbound port accepts.
type Mode string

// The modes of an inbound port.
const (
	Strict     Mode = "Strict"     // mutual TLS only
	Permissive Mode = "Permissive" // mutual TLS with our ALPN, everything else passes as plaintext
)

// DefaultPolicy says who may connect to a workload that no rule names.
type DefaultPolicy string

// The modes of Default.
const (
	AllowMesh   DefaultPolicy = "AllowMesh" // any identity of the trust domain, and of no other
	DenyDefault DefaultPolicy = "Deny"      // nobody but for whom a rule allows
)

// Map is mesh.yaml, the map of who is who for the workloads of one namespace. It is derived from the manifests at every
// render and holds no secret. It lists the Services of its own namespace, and of other namespaces only what deviates:
// so it grows with the namespace, not with the mesh. The form of the file is shorter than that of the struct (see
// wireMesh), so that a map of 10,000 Services fits into a ConfigMap.
type Map struct {
	APIVersion    string `json:"apiVersion"` // api.APIVersion
	Kind          string `json:"kind"`       // "Mesh"
	TrustDomain   string `json:"trustDomain"`
	ClusterDomain string `json:"clusterDomain"`
	Namespace     string `json:"namespace"` // of the workloads that read this map
	// Package is the name under which the package that made the map goes in the cluster: the members Service of each of
	// its namespaces is api.MembersName(Package).
	Package string `json:"package"`
	// Namespaces are the other namespaces in which the package has workloads of the mesh, sorted. A Service there is in
	// the mesh unless Outside lists it.
	Namespaces []string `json:"namespaces,omitempty"`
	// SharedCA: packages that are not known here have the same authority, and tell by aliases (api.AliasName) which of
	// their Services are in the mesh.
	SharedCA bool      `json:"sharedCA,omitempty"`
	Outbound Outbound  `json:"outbound"`
	Inbound  Inbound   `json:"inbound"`
	Services []Service `json:"services,omitempty"` // of Namespace, and of others those that deviate
	// Outside are Services of Namespace and Namespaces that lead out of the mesh, <service>.<namespace>, sorted: the
	// manifests show it, or the config allows it by name.
	Outside []string `json:"outside,omitempty"`
	// OpenPodPorts are, by namespace, the ports that some pods there take without their proxy, of all namespaces of the
	// package. Which pods these are, a pod's address does not tell, where no Service lists them.
	OpenPodPorts map[string]netset.Ports `json:"openPodPorts,omitempty"`
	// ServicePorts are the ports on which Services are dialed, <service>.<namespace>, of all namespaces of the package
	// and those that the config names; of headless ones the ports of the pods as well. Of one
	// that has ports of UDP or SCTP alone there is none. Only where a workload of Namespace has no redirect rules: its
	// proxy listens on them.
	ServicePorts map[string]netset.Ports `json:"servicePorts,omitempty"`
	Federation   []Federation            `json:"federation,omitempty"` // other trust domains
	// hex SHA-256 of the SubjectPublicKeyInfo; in every trust domain
	RevokedKeys []string `json:"revokedKeys,omitempty"`
}

// Outbound is how the proxy treats what the app opens.
type Outbound struct {
	Unknown   UnknownPolicy  `json:"unknown"`
	MeshCIDRs []netip.Prefix `json:"meshCIDRs,omitempty"` // mutual TLS with any identity of the trust domain
	// ClusterCIDRs are networks of the cluster's pods and Services beside those that the proxy learns: without an
	// answer of DNS nothing leaves to them.
	ClusterCIDRs []netip.Prefix `json:"clusterCIDRs,omitempty"`
}

// Inbound is how the proxy treats what arrives.
type Inbound struct {
	Mode    Mode          `json:"mode"`    // of every port that the workload does not except
	Default DefaultPolicy `json:"default"` // for workloads that no policy names
	// who would be denied is logged and counted, and let in; identity is still required
	DryRun bool     `json:"dryRun,omitempty"`
	Policy []Policy `json:"policy,omitempty"`
}

// Policy is who may connect to one workload. A workload with a policy is closed to everyone whom no rule allows.
type Policy struct {
	Workload string `json:"workload"` // SPIFFE ID
	Rules    []Rule `json:"rules,omitempty"`
}

// Rule allows the identities of From to reach Ports; no Ports means every port.
type Rule struct {
	Ports netset.Ports `json:"ports,omitempty"` // of the container, not of the Service
	// SPIFFE IDs, of federated trust domains too; * stands for characters within one path segment
	From []string `json:"from"`
}

// Service is a Service whose workloads are in the mesh.
type Service struct {
	Host       string       `json:"host"` // <service>.<namespace>.svc.<clusterDomain>, no trailing dot
	ClusterIPs []netip.Addr `json:"clusterIPs,omitempty"`
	// for people and for the graph; a port that is not listed is still in the mesh
	Ports      netset.Ports `json:"ports,omitempty"`
	Identities []string     `json:"identities"` // SPIFFE IDs that may answer
	// Ports on which the workloads behind the Service opted out of the mesh (meshless.dev/exclude-inbound-ports), as
	// dialed through the clusterIP and as dialed at an endpoint. Every other port is mutual TLS or nothing.
	PlaintextPorts       netset.Ports `json:"plaintextPorts,omitempty"`
	PlaintextTargetPorts netset.Ports `json:"plaintextTargetPorts,omitempty"`
	// DirectPorts are ports of the workloads behind the Service that have no redirect rules: as dialed at an endpoint,
	// they are reached at api.DirectPort. Through the clusterIP the Service leads there itself.
	DirectPorts netset.Ports `json:"directPorts,omitempty"`
}

// Parse reads mesh.yaml. Unknown fields, unknown modes, malformed identities and identities of another trust domain are
// errors: a map that is not understood whole is not used at all.
func Parse(data []byte) (*Map, error) {
	var wire wireMesh
	if err := yaml.UnmarshalStrict(data, &wire); err != nil {
		return nil, fmt.Errorf("%s: %w", api.MeshFile, err)
	}
	m, err := wire.mesh()
	if err == nil {
		err = m.validate()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", api.MeshFile, err)
	}
	return m, nil
}

func (m *Map) validate() error {
	if m.APIVersion != api.APIVersion || m.Kind != "Mesh" {
		return fmt.Errorf("is %s %s, want %s Mesh: function and proxy must be of one release", m.APIVersion, m.Kind, api.APIVersion)
	}
	td, err := spiffeid.TrustDomainFromString(m.TrustDomain)
	if err != nil {
		return fmt.Errorf("trustDomain: %w", err)
	}
	if m.Outbound.Unknown != Passthrough && m.Outbound.Unknown != DenyUnknown {
		return fmt.Errorf("outbound.unknown: %q is neither Passthrough nor Deny", m.Outbound.Unknown)
	}
	if m.Inbound.Mode != Strict && m.Inbound.Mode != Permissive {
		return fmt.Errorf("inbound.mode: %q is neither Strict nor Permissive", m.Inbound.Mode)
	}
	if m.Inbound.Default != AllowMesh && m.Inbound.Default != DenyDefault {
		return fmt.Errorf("inbound.default: %q is neither AllowMesh nor Deny", m.Inbound.Default)
	}
	if err := m.validateNames(); err != nil {
		return err
	}
	var errs []error
	for _, err := range ValidateFederation(td.Name(), m.Federation, m.Outbound.MeshCIDRs) {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, s := range m.Services {
		if err := s.validate(td); err != nil {
			return fmt.Errorf("service %q: %w", s.Host, err)
		}
	}
	for _, p := range m.Inbound.Policy {
		if err := p.validate(td, m.Federation); err != nil {
			return fmt.Errorf("policy of %q: %w", p.Workload, err)
		}
	}
	for _, key := range m.RevokedKeys {
		if err := ValidateKeyDigest(key); err != nil {
			return fmt.Errorf("revokedKeys: %w", err)
		}
	}
	return nil
}

// validateNames checks the names that are asked for in DNS.
func (m *Map) validateNames() error {
	if !label(m.Namespace) {
		return fmt.Errorf("namespace: %q is not the name of a namespace", m.Namespace)
	}
	if !label(m.Package) || len(m.Package) > api.MaxPackage {
		return fmt.Errorf("package: %q is not the name of a package", m.Package)
	}
	for _, namespace := range m.Namespaces {
		if !label(namespace) || namespace == m.Namespace {
			return fmt.Errorf("namespaces: %q is not the name of another namespace", namespace)
		}
	}
	for namespace := range m.OpenPodPorts {
		if !label(namespace) {
			return fmt.Errorf("openPodPorts: %q is not the name of a namespace", namespace)
		}
	}
	for _, service := range m.Outside {
		if !short(service) {
			return fmt.Errorf("outside: %q is not <service>.<namespace>", service)
		}
	}
	for service := range m.ServicePorts {
		if !short(service) {
			return fmt.Errorf("servicePorts: %q is not <service>.<namespace>", service)
		}
	}
	return nil
}

// short tells whether s is <service>.<namespace>.
func short(s string) bool {
	name, namespace, _ := strings.Cut(s, ".")
	return label(name) && label(namespace)
}

// label tells whether s is a label as Kubernetes gives them to Services and namespaces (RFC 1123, section 2.1).
func label(s string) bool {
	return s != "" && len(s) <= 63 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" && s[0] != '-' && s[len(s)-1] != '-'
}

func (s Service) validate(td spiffeid.TrustDomain) error {
	if s.Host == "" || s.Host != strings.ToLower(s.Host) || strings.HasSuffix(s.Host, ".") {
		return fmt.Errorf("host must be a lower-case name without a trailing dot")
	}
	if len(s.Identities) == 0 {
		return fmt.Errorf("lists no identity that may answer")
	}
	for _, id := range s.Identities {
		if err := memberOf(td, id); err != nil {
			return err
		}
	}
	return nil
}

func (p Policy) validate(td spiffeid.TrustDomain, federation []Federation) error {
	if err := memberOf(td, p.Workload); err != nil {
		return err
	}
	for _, r := range p.Rules {
		if len(r.From) == 0 {
			return fmt.Errorf("a rule allows nobody; leave it out to deny")
		}
		for _, pattern := range r.From {
			if err := ValidateRulePattern(pattern, td.Name(), federation); err != nil {
				return err
			}
		}
	}
	return nil
}

// ValidateIDPattern checks a pattern for SPIFFE IDs: spiffe://<trust domain>/<segments>, with * within segments of the
// path only.
func ValidateIDPattern(pattern string) error {
	if strings.ContainsAny(pattern, `?[\`) {
		return fmt.Errorf("pattern %q: only * is special", pattern)
	}
	if _, err := spiffeid.FromString(strings.ReplaceAll(pattern, "*", "x")); err != nil {
		return fmt.Errorf("pattern %q: %w", pattern, err)
	}
	if strings.Contains(PatternDomain(pattern), "*") {
		return fmt.Errorf("pattern %q: the trust domain is fixed, * may stand in the path only", pattern)
	}
	return nil
}

// MatchID tells whether id matches a pattern that ValidateIDPattern accepts; * does not cross a slash.
func MatchID(pattern string, id spiffeid.ID) bool {
	ok, err := path.Match(pattern, id.String())
	return ok && err == nil
}

// ValidateKeyDigest checks that s is a lower-case hexadecimal SHA-256 digest.
func ValidateKeyDigest(s string) error {
	if len(s) != 64 || strings.Trim(s, "0123456789abcdef") != "" {
		return fmt.Errorf("%q is not the SHA-256 of a public key: 64 lower-case hexadecimal digits", s)
	}
	return nil
}

func memberOf(td spiffeid.TrustDomain, s string) error {
	id, err := spiffeid.FromString(s)
	if err != nil {
		return fmt.Errorf("identity %q: %w", s, err)
	}
	if !id.MemberOf(td) || id.Path() == "" {
		return fmt.Errorf("identity %q is not a workload of trust domain %q", s, td.Name())
	}
	return nil
}
