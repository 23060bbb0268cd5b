package verify

import (
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
)

// Against reports where items are not what a render leaves of them: a render of its own output changes nothing. Only
// what the objects say counts, not how it is written.
func Against(items, rendered []*yaml.RNode, r *report.Report) {
	left := map[report.Object]*yaml.RNode{}
	for _, item := range manifest.Flatten(rendered) {
		left[manifest.Key(report.ObjectOf(item))] = item
	}
	for _, item := range manifest.Flatten(items) {
		object := report.ObjectOf(item)
		want := left[manifest.Key(object)]
		delete(left, manifest.Key(object))
		if want == nil {
			r.Error(object, "", "is not what the config asks for: a render takes it out")
			continue
		}
		have, errHave := generic(item.YNode())
		should, errShould := generic(want.YNode())
		if errHave != nil || errShould != nil {
			r.Error(object, "", "cannot be held against the config: it cannot be read")
			continue
		}
		for _, d := range compare("", have, should) {
			r.Error(object, d.path[1:], "%s: the config asks for it", d)
		}
	}
	for _, item := range manifest.Flatten(rendered) {
		if object := report.ObjectOf(item); left[manifest.Key(object)] != nil {
			r.Error(object, "", "is missing, and the config asks for it")
		}
	}
}
