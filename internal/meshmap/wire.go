package meshmap

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
)

// wireMesh is the form of mesh.yaml. Services stand by namespace and name, and a workload of the same namespace is
// named by kind and name alone:
//
//	services:
//	  prod:
//	    web: deployment/web :80
//	    db: {answers: statefulset/db :5432, clusterIPs: [10.96.0.9], plaintextPorts: "9187"}
type wireMesh struct {
	wireHead
	Services    map[string]map[string]wireService `json:"services,omitempty"`
	TrustDomain string                            `json:"trustDomain"`
}

// wireHead is what the file has as the struct has it.
type wireHead struct {
	APIVersion    string                  `json:"apiVersion"`
	ClusterDomain string                  `json:"clusterDomain"`
	Federation    []Federation            `json:"federation,omitempty"`
	Inbound       Inbound                 `json:"inbound"`
	Kind          string                  `json:"kind"`
	Namespace     string                  `json:"namespace"`
	Namespaces    []string                `json:"namespaces,omitempty"`
	OpenPodPorts  map[string]netset.Ports `json:"openPodPorts,omitempty"`
	Outbound      Outbound                `json:"outbound"`
	Outside       []string                `json:"outside,omitempty"`
	Package       string                  `json:"package"`
	RevokedKeys   []string                `json:"revokedKeys,omitempty"`
	ServicePorts  map[string]netset.Ports `json:"servicePorts,omitempty"`
	SharedCA      bool                    `json:"sharedCA,omitempty"`
}

// wireService is one Service: a text when it has nothing but answers.
type wireService struct {
	// "<kind>/<name>" or SPIFFE IDs, separated by spaces, then the ports as ":80,443"
	Answers              string       `json:"answers"`
	ClusterIPs           []netip.Addr `json:"clusterIPs,omitempty"`
	DirectPorts          netset.Ports `json:"directPorts,omitempty"`
	PlaintextPorts       netset.Ports `json:"plaintextPorts,omitempty"`
	PlaintextTargetPorts netset.Ports `json:"plaintextTargetPorts,omitempty"`
}

// plainService is wireService without its methods.
type plainService wireService

// MarshalJSON writes the short form where it says everything.
func (s wireService) MarshalJSON() ([]byte, error) {
	if len(s.ClusterIPs) == 0 && len(s.PlaintextPorts) == 0 && len(s.PlaintextTargetPorts) == 0 && len(s.DirectPorts) == 0 {
		return json.Marshal(s.Answers)
	}
	return json.Marshal(plainService(s))
}

// UnmarshalJSON reads both forms, strictly.
func (s *wireService) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		return json.Unmarshal(data, &s.Answers)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	return decoder.Decode((*plainService)(s))
}

// Marshal is the text that Parse reads. A Service whose host is not below svc.<ClusterDomain>, or is listed twice, is
// an error.
func (m *Map) Marshal() ([]byte, error) {
	wire := wireMesh{TrustDomain: m.TrustDomain, wireHead: wireHead{APIVersion: m.APIVersion, Kind: m.Kind, ClusterDomain: m.ClusterDomain,
		Namespace: m.Namespace, Package: m.Package, Namespaces: m.Namespaces, SharedCA: m.SharedCA, Outside: m.Outside, OpenPodPorts: m.OpenPodPorts, ServicePorts: m.ServicePorts,
		Outbound: m.Outbound, Inbound: m.Inbound, Federation: m.Federation, RevokedKeys: m.RevokedKeys}}
	for _, s := range m.Services {
		name, namespace, err := splitHost(s.Host, m.ClusterDomain)
		if err != nil {
			return nil, err
		}
		if wire.Services == nil {
			wire.Services = map[string]map[string]wireService{}
		}
		if wire.Services[namespace] == nil {
			wire.Services[namespace] = map[string]wireService{}
		}
		if _, twice := wire.Services[namespace][name]; twice {
			return nil, fmt.Errorf("service %q is listed twice", s.Host)
		}
		wire.Services[namespace][name] = s.wire(namespace, m.TrustDomain)
	}
	return yaml.Marshal(wire)
}

func (s Service) wire(namespace, trustDomain string) wireService {
	prefix := "spiffe://" + trustDomain + "/ns/" + namespace + "/"
	var answers []string
	for _, id := range s.Identities {
		answers = append(answers, strings.TrimPrefix(id, prefix))
	}
	if len(s.Ports) > 0 {
		answers = append(answers, ":"+s.Ports.String())
	}
	return wireService{Answers: strings.Join(answers, " "), ClusterIPs: s.ClusterIPs,
		PlaintextPorts: s.PlaintextPorts, PlaintextTargetPorts: s.PlaintextTargetPorts, DirectPorts: s.DirectPorts}
}

func (w *wireMesh) mesh() (*Map, error) {
	m := &Map{APIVersion: w.APIVersion, Kind: w.Kind, TrustDomain: w.TrustDomain, ClusterDomain: w.ClusterDomain,
		Namespace: w.Namespace, Package: w.Package, Namespaces: w.Namespaces, SharedCA: w.SharedCA, Outside: w.Outside, OpenPodPorts: w.OpenPodPorts, ServicePorts: w.ServicePorts,
		Outbound: w.Outbound, Inbound: w.Inbound, Federation: w.Federation, RevokedKeys: w.RevokedKeys}
	for namespace, services := range w.Services {
		for name, s := range services {
			service, err := w.service(namespace, name, s)
			if err != nil {
				return nil, fmt.Errorf("services.%s.%s: %w", namespace, name, err)
			}
			m.Services = append(m.Services, service)
		}
	}
	slices.SortFunc(m.Services, func(a, b Service) int { return strings.Compare(a.Host, b.Host) })
	return m, nil
}

func (w *wireMesh) service(namespace, name string, s wireService) (Service, error) {
	if name == "" || namespace == "" || strings.Contains(name+namespace, ".") {
		return Service{}, fmt.Errorf("is not the name of a Service in a namespace")
	}
	out := Service{Host: name + "." + namespace + ".svc." + w.ClusterDomain, ClusterIPs: s.ClusterIPs,
		PlaintextPorts: s.PlaintextPorts, PlaintextTargetPorts: s.PlaintextTargetPorts, DirectPorts: s.DirectPorts}
	for answer := range strings.FieldsSeq(s.Answers) {
		if ports, ok := strings.CutPrefix(answer, ":"); ok {
			var err error
			if out.Ports, err = netset.ParsePorts(ports); err != nil {
				return Service{}, err
			}
			continue
		}
		if !strings.HasPrefix(answer, "spiffe://") {
			td, err := spiffeid.TrustDomainFromString(w.TrustDomain)
			if err != nil {
				return Service{}, err
			}
			kind, workload, _ := strings.Cut(answer, "/")
			id, err := api.WorkloadID(td, namespace, kind, workload)
			if err != nil {
				return Service{}, fmt.Errorf("%q: %w", answer, err)
			}
			answer = id.String()
		}
		out.Identities = append(out.Identities, answer)
	}
	return out, nil
}

// splitHost splits <name>.<namespace>.svc.<domain>.
func splitHost(host, domain string) (name, namespace string, err error) {
	short, below := strings.CutSuffix(host, ".svc."+domain)
	name, namespace, two := strings.Cut(short, ".")
	if !below || !two || name == "" || namespace == "" || strings.Contains(namespace, ".") {
		return "", "", fmt.Errorf("service %q: host is not <name>.<namespace>.svc.%s", host, domain)
	}
	return name, namespace, nil
}
