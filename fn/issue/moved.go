package issue

import (
	"slices"
	"strings"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
)

// tellMoved says of a Service that moves to a workload which runs already that its clients are refused for a while.
// Their maps list the workload of before, and the leaf of the new one does not name the Service. This render replaces
// both, and they reach the pods when their kubelets bring them.
func (i *issuer) tellMoved(leaves []due) {
	var listed map[string][]string
	for _, d := range leaves {
		if d.request.Stored == nil {
			continue // its pods start with the new leaf
		}
		for _, s := range d.workload.Services {
			if names(d.request.Stored.LeafPEM, s.Host) {
				continue
			}
			if listed == nil { // every map is read, and few renders need them
				listed = i.listed()
			}
			before, known := listed[s.Host]
			if !known || slices.Contains(before, d.workload.ID.String()) {
				continue
			}
			i.report.Info(s.Object, "spec.selector", "leads to %s now, which runs already: clients of the namespace refuse it until the kubelets have brought the new certificate or map, "+
				"about a minute. In two commits nobody is refused: name %s beside the present workloads in the annotation %s first, and change the selector when that is synced",
				d.workload.Object, strings.ToLower(d.workload.Object.Kind)+"/"+d.workload.Object.Name, api.WorkloadsAnnotation)
		}
	}
}

// listed are the identities that the maps of the state list, by the host of the Service. A map of another edition says
// nothing.
func (i *issuer) listed() map[string][]string {
	found := map[string][]string{}
	for _, item := range i.model.State.Meshes {
		m, err := meshmap.Parse([]byte(item.GetDataMap()[api.MeshFile]))
		if err != nil || m.Namespace != manifest.NamespaceOf(item) {
			continue
		}
		for _, s := range m.Services {
			found[s.Host] = s.Identities
		}
	}
	return found
}

// names tells whether a stored leaf names a host.
func names(leafPEM, host string) bool {
	certificates, err := svid.ParseCertificates([]byte(leafPEM))
	return err == nil && len(certificates) > 0 && slices.Contains(certificates[0].DNSNames, host)
}
