package cli

import (
	"path"

	"sigs.k8s.io/kustomize/kyaml/kio/kioutil"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/internal/api"
)

// tripwireFile lies in the state folder of a kustomization.
var tripwireFile = path.Join(pipeline.StateFolder, "tripwire.yaml")

// withTripwire adds the tripwire to the state of a kustomization, if there is any: without certificates, a build that
// skips the function takes nothing out. Where the output is stored with its state, as in a kpt package, nobody builds.
func withTripwire(state []*yaml.RNode) ([]*yaml.RNode, error) {
	for _, item := range state {
		pkg := item.GetAnnotations()[api.PackageAnnotation]
		if pkg == "" {
			continue
		}
		tripwire := manifest.Tripwire(pkg)
		for key, value := range map[string]string{kioutil.PathAnnotation: tripwireFile, kioutil.IndexAnnotation: "0"} {
			if err := tripwire.PipeE(yaml.SetAnnotation(key, value)); err != nil {
				return nil, err
			}
		}
		return append(state, tripwire), nil
	}
	return state, nil
}
