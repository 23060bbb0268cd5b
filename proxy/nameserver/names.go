package nameserver

import (
	"slices"
	"strings"

	"github.com/meshless-dev/meshless/internal/meshmap"
)

// class is what a name is to the mesh.
type class int

const (
	foreign   class = iota // outside of the cluster, or out of the mesh by the map
	elsewhere              // of a Service in a namespace that the map does not know
	unled                  // of the mesh, and nobody says on which ports it is dialed
	led                    // of a Service whose ports the map lists
)

// name is a name below svc.<clusterDomain>, or another.
type name struct {
	class    class
	service  string // <service>.<namespace>, in lower case; empty where the name has none
	endpoint bool   // it is of a pod behind the Service
}

// notInMesh exists in every cluster, and is in no mesh.
const notInMesh = "kubernetes.default"

// nameCharacters are those of names in a cluster. The underscore is not Kubernetes' own, but DNS has it.
const nameCharacters = "abcdefghijklmnopqrstuvwxyz0123456789-_."

// read classifies a name, which ends in a dot. The case of letters says nothing (RFC 4343). A name below the cluster's
// domain with other characters than Kubernetes gives is nobody's, and counts for the mesh's.
func read(m *meshmap.Map, fqdn string) name {
	fqdn = strings.ToLower(fqdn)
	domain := "." + strings.ToLower(m.ClusterDomain) + "."
	below, ok := strings.CutSuffix(fqdn, domain)
	if !ok {
		return name{}
	}
	odd := strings.ContainsFunc(below, func(r rune) bool { return !strings.ContainsRune(nameCharacters, r) })
	labels := strings.Split(below, ".")
	kind, labels := labels[len(labels)-1], labels[:len(labels)-1]
	switch {
	case kind != "svc" && kind != "pod" || len(labels) == 0:
		return name{}
	case odd:
		return name{class: unled}
	}
	namespace := labels[len(labels)-1]
	ours := namespace == m.Namespace || slices.Contains(m.Namespaces, namespace)
	if kind == "pod" || len(labels) == 1 {
		if ours {
			return name{class: unled}
		}
		return name{}
	}
	n := name{service: labels[len(labels)-2] + "." + namespace, endpoint: len(labels) == 3 && !strings.HasPrefix(labels[0], "_")}
	ports, listed := m.ServicePorts[n.service]
	switch {
	case slices.Contains(m.Outside, n.service), n.service == notInMesh:
	case listed && len(ports) == 0: // of UDP or SCTP alone, which pass as they are
	case listed:
		n.class = led
	case ours:
		n.class = unled
	default:
		n.class = elsewhere
	}
	return n
}
