package manifest

import (
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/internal/api"
)

// KindTripwire is the kind of the object that lies beside the certificates of a kustomization. No cluster knows it:
// where the function did not run, which takes it out, applying fails instead of taking mutual TLS out.
const KindTripwire = "NotRendered"

// TripwirePrefix begins its name, which kubectl, Argo CD and Flux print.
const TripwirePrefix = api.NamePrefix + "function-did-not-run-"

const tripwireMessage = "No cluster has this kind: the function of meshless takes this object out of what is applied. It is still here, " +
	"so kustomize skipped the function, as it does without --enable-alpha-plugins --enable-exec, and the pods would run without mutual TLS; " +
	"or the function is of an earlier release. Build with both flags, or with `meshless build`, of the release that issued."

// Tripwire is that object for a package. Those of two packages in one namespace do not collide.
func Tripwire(pkg string) *yaml.RNode {
	n := node.Object("apiVersion", api.APIVersion, "kind", KindTripwire, "metadata", node.Object("name", TripwirePrefix+pkg), "message", tripwireMessage)
	n.HeadComment = "# Written by `meshless issue`."
	return yaml.NewRNode(n)
}

// IsTripwire tells whether an item is one.
func IsTripwire(item *yaml.RNode) bool {
	return !yaml.IsMissingOrNull(item) && node.Scalar(item.YNode(), "kind") == KindTripwire && node.Scalar(item.YNode(), "apiVersion") == api.APIVersion
}
