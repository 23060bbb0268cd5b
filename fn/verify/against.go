package verify

import (
	"slices"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
)

// Against reports where items are not what a render leaves of them: a render of its own output changes nothing. Only
// what the objects say counts, not how it is written.
func Against(items, rendered []*yaml.RNode, r *report.Report) {
	left := map[report.Object][]*yaml.RNode{} // more than one where nobody applies them, such as kustomizations
	for _, item := range manifest.Flatten(rendered) {
		key := manifest.Key(report.ObjectOf(item))
		left[key] = append(left[key], item)
	}
	for _, item := range manifest.Flatten(items) {
		object := report.ObjectOf(item)
		wants := left[manifest.Key(object)]
		if len(wants) == 0 {
			r.Error(object, "", "is not what the config asks for: a render takes it out")
			continue
		}
		want := wants[0]
		left[manifest.Key(object)] = wants[1:]
		have, errHave := node.Values(item.YNode())
		should, errShould := node.Values(want.YNode())
		if errHave != nil || errShould != nil {
			r.Error(object, "", "cannot be held against the config: it cannot be read")
			continue
		}
		for _, d := range compare("", have, should) {
			r.Error(object, d.path[1:], "%s: the config asks for it", d)
		}
	}
	for _, item := range manifest.Flatten(rendered) {
		if object := report.ObjectOf(item); slices.Contains(left[manifest.Key(object)], item) {
			r.Error(object, "", "is missing, and the config asks for it")
		}
	}
}
