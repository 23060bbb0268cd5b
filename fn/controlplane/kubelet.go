package controlplane

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
)

// The kubelet's config (k8s.io/kubelet/config).
const (
	kubeletGroup = "kubelet.config.k8s.io"
	kubeletKind  = "KubeletConfiguration"
)

// applyKubeletConfig edits a KubeletConfiguration that is an item.
func applyKubeletConfig(item *yaml.RNode, tls v1alpha1.TLS, r *report.Report) bool {
	if err := node.ResolveAliases(item); err != nil {
		r.ErrorIn(item, "", "its YAML aliases cannot be resolved: %v", err)
		return true
	}
	if editKubelet(item.YNode(), tls) {
		r.Info(report.ObjectOf(item), "tlsMinVersion", "the kubelet has %s", describe(tls))
	}
	return true
}

// applyConfigMap edits every KubeletConfiguration that stands as text in a ConfigMap, as in kubeadm's kubelet-config,
// and tells whether there was one.
func applyConfigMap(item *yaml.RNode, tls v1alpha1.TLS, r *report.Report) (handled bool) {
	data := node.Get(item.YNode(), "data")
	if data == nil || data.Kind != yaml.MappingNode {
		return false
	}
	for i := 0; i+1 < len(data.Content); i += 2 {
		key, value := data.Content[i].Value, data.Content[i+1]
		if value.Kind != yaml.ScalarNode || !strings.Contains(value.Value, kubeletGroup) || !strings.Contains(value.Value, kubeletKind) {
			continue
		}
		text, ours, err := editKubeletText(value.Value, tls)
		switch {
		case err != nil:
			r.Warn(report.ObjectOf(item), "data."+key, "names a %s and is left as it is: %v", kubeletKind, err)
		case ours && text != value.Value:
			value.Value = text
			r.Info(report.ObjectOf(item), "data."+key, "the kubelet has %s", describe(tls))
		}
		handled = handled || ours
	}
	return handled
}

// editKubeletText returns the text of a KubeletConfiguration with the settings, unchanged where they are there, and
// whether it is one.
func editKubeletText(text string, tls v1alpha1.TLS) (edited string, ours bool, err error) {
	decoder := yaml.NewDecoder(strings.NewReader(text))
	var document, second yaml.Node
	if err := decoder.Decode(&document); err != nil {
		return "", false, errors.New("it is no YAML")
	}
	if err := decoder.Decode(&second); err != io.EOF {
		return "", false, errors.New("it is more than one document")
	}
	item := yaml.NewRNode(&document)
	if item.YNode().Kind != yaml.MappingNode {
		return text, false, nil // prose
	}
	if err := node.CheckItem(item); err != nil {
		return "", false, err
	}
	if group, _, _ := strings.Cut(item.GetApiVersion(), "/"); group != kubeletGroup || item.GetKind() != kubeletKind {
		return text, false, nil
	}
	if err := node.ResolveAliases(item); err != nil {
		return "", false, err
	}
	if !editKubelet(item.YNode(), tls) {
		return text, true, nil
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoderWithOptions(&out, &yaml.EncoderOptions{SeqIndent: yaml.SequenceIndentStyle(yaml.DeriveSeqIndentStyle(text))})
	if err := encoder.Encode(&document); err != nil {
		return "", false, err
	}
	return out.String(), true, encoder.Close()
}

// editKubelet sets the fields of a KubeletConfiguration and tells whether that changed anything.
func editKubelet(config *yaml.Node, tls v1alpha1.TLS) (changed bool) {
	if have := node.Get(config, "tlsMinVersion"); have == nil {
		node.Set(config, "tlsMinVersion", node.Text(tls.MinVersion))
		changed = true
	} else if have.Kind != yaml.ScalarNode || have.Value != tls.MinVersion {
		setText(have, tls.MinVersion)
		changed = true
	}
	const suites = "tlsCipherSuites"
	if tls.MinVersion == v1alpha1.VersionTLS13 && node.Index(config, suites) >= 0 {
		node.Drop(config, suites)
		changed = true
	}
	var names, curves []*yaml.Node
	for _, name := range tls.CipherSuites {
		names = append(names, node.Text(name))
	}
	for _, curve := range tls.CurvePreferences {
		curves = append(curves, node.Value(curve))
	}
	changed = setList(config, suites, names) || changed
	return setList(config, "tlsCurvePreferences", curves) || changed
}

// setList gives a field a list and tells whether that changed anything; an empty one leaves the field as it is.
func setList(config *yaml.Node, field string, want []*yaml.Node) (changed bool) {
	same := func(a, b *yaml.Node) bool { return a.Kind == b.Kind && a.Value == b.Value }
	have := node.Get(config, field)
	if len(want) == 0 || have != nil && have.Kind == yaml.SequenceNode && slices.EqualFunc(have.Content, want, same) {
		return false
	}
	list := node.Sequence(config, field)
	list.Content = want
	return true
}

// describe words what a kubelet got, for a finding.
func describe(tls v1alpha1.TLS) string {
	text := "tlsMinVersion " + tls.MinVersion
	if len(tls.CipherSuites) > 0 {
		text += ", tlsCipherSuites " + strings.Join(tls.CipherSuites, ",")
	}
	if len(tls.CurvePreferences) > 0 {
		text += ", tlsCurvePreferences " + joinCurves(tls.CurvePreferences)
	}
	return text
}

func joinCurves(curves []int32) string {
	var texts []string
	for _, c := range curves {
		texts = append(texts, strconv.Itoa(int(c)))
	}
	return strings.Join(texts, ",")
}
