package cli

import (
	"errors"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
)

// function is the KRM function: a ResourceList in, a ResourceList out. After an error the output holds the results and
// no items: the exit code decides for kustomize and kpt, and whoever ignores it gets nothing that could be applied half
// done.
func (p *program) function() error {
	list, err := readResourceList(p.in)
	if err != nil {
		return err
	}
	if run := handOverTo(); run != "" {
		if pipeline.HasPaths(list.items) { // in whose place the object would be written
			return errors.New(handOverVariable + ": is set, which is for the builds of `meshless issue --build` alone, and this input is a package; unset it")
		}
		object, err := handOver{list.items, list.functionConfig}.object(run)
		if err != nil {
			return err
		}
		list.items = []*yaml.RNode{object}
		return list.write(p.out)
	}
	r := &report.Report{}
	settleStyles(list.items, r)
	mode := pipeline.Build
	if pipeline.HasPaths(list.items) {
		mode = pipeline.StoreOrCheck
	}
	list.items = p.renderItems(list.items, list.functionConfig, pipeline.Options{Mode: mode}, r)
	if list.results, err = resultsNode(r); err != nil {
		return err
	}
	if r.Failed() {
		list.functionConfig = nil // what was refused may be a key; it is not echoed
	}
	if err := list.write(p.out); err != nil {
		return err
	}
	return p.conclude(r)
}

// settleStyles gives texts that kpt would change when it writes the output a style in which it does not, and says so:
// it has written the input already. Of kustomize's input such texts have another style.
func settleStyles(items []*yaml.RNode, r *report.Report) {
	for _, item := range items {
		for _, field := range node.SettleStyles(item.YNode()) {
			r.Warn(report.ObjectOf(item), field, "is a text that kpt changes whenever it writes it, most often a folded one (>) with lines that are indented more, to which it adds line feeds: "+
				"it may have done so before this render. Compare it with the source, and write it there as a literal text (|) or in quotes")
		}
	}
}

// renderItems loads the config and renders; nil after an error. It consumes the items.
func (p *program) renderItems(items []*yaml.RNode, configNode *yaml.RNode, o pipeline.Options, r *report.Report) []*yaml.RNode {
	if r.File == "" { // that of the items
		r.Locate([]*yaml.RNode{configNode}) // where its file is known
	}
	config, err := v1alpha1.Load(configNode)
	if err != nil {
		reportConfig(configNode, err, r)
		return nil
	}
	line := p.newProgress()
	defer line.end()
	o.Now, o.CAIdentity, o.MayConsume, o.Progress = p.now(), p.secret.read, true, line.step
	return pipeline.Run(items, config, o, r)
}

// reportConfig reports each mistake of a config with its field.
func reportConfig(config *yaml.RNode, err error, r *report.Report) {
	object := report.Object{}
	if !yaml.IsMissingOrNull(config) && config.YNode().Kind == yaml.MappingNode {
		object = report.ObjectOf(config)
	}
	for _, mistake := range v1alpha1.Mistakes(err) {
		r.Error(object, mistake.Path, "%s", mistake.Message)
	}
}

// resultsNode is the report in the form of the function specification; nil when it is empty.
func resultsNode(r *report.Report) (*yaml.RNode, error) {
	results := r.Results()
	if len(results) == 0 {
		return nil, nil
	}
	text, err := yaml.Marshal(results)
	if err != nil {
		return nil, err
	}
	return yaml.Parse(string(text))
}
