package verify

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// difference is a field that is not what it should be. Have or want is nil where the field must be there, or must not.
type difference struct {
	path       string
	have, want any
}

// String says what stands there and what should.
func (d difference) String() string {
	switch {
	case d.want == nil:
		return fmt.Sprintf("is %s, and must not be there", brief(d.have))
	case d.have == nil:
		return fmt.Sprintf("is missing, and must be %s", brief(d.want))
	}
	have, want := d.have, d.want
	if h, ok := have.(string); ok { // of long texts, what is alike says nothing
		if w, ok := want.(string); ok && len(h)+len(w) > 2*most {
			from := 0
			for from < min(len(h), len(w)) && h[from] == w[from] {
				from++
			}
			from = max(0, strings.LastIndexByte(h[:from], '\n'))
			have, want = h[from:], w[from:]
		}
	}
	return fmt.Sprintf("is %s, and must be %s", brief(have), brief(want))
}

// most is how much of a value a message quotes, in bytes.
const most = 160

// brief is a value as JSON, cut where it would fill the line.
func brief(v any) string {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return "unreadable"
	}
	text := strings.TrimSpace(out.String())
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// equal tells whether two nodes say the same in the same order. Of nodes that say the same in another way, it does not
// know.
func equal(a, b *yaml.Node) bool {
	return a.Kind == b.Kind && a.Kind != yaml.AliasNode && a.Value == b.Value && a.ShortTag() == b.ShortTag() && slices.EqualFunc(a.Content, b.Content, equal)
}

// jsonOf is a struct as values of JSON.
func jsonOf(v any) (any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return node.ParseJSON(data)
}

// compare lists where two values differ, in the order of their fields. Lists of named things, such as containers, are
// compared by name; a path has the index at which the thing stands.
func compare(path string, have, want any) []difference {
	switch want := want.(type) {
	case map[string]any:
		if have, ok := have.(map[string]any); ok {
			return compareObjects(path, have, want)
		}
	case []any:
		if have, ok := have.([]any); ok {
			return compareLists(path, have, want)
		}
	}
	if same(path, have, want) {
		return nil
	}
	if strings.HasSuffix(path, "["+api.WorkloadAnnotation+"]") { // JSON, of which only what it says counts
		for _, read := range []func([]byte) (any, error){readWorkload, node.ParseJSON} {
			h, errHave := read([]byte(fmt.Sprint(have)))
			w, errWant := read([]byte(fmt.Sprint(want)))
			if errHave == nil && errWant == nil {
				return compare(path, h, w)
			}
		}
	}
	return []difference{{path, have, want}}
}

// readWorkload reads workload.json with texts behind it, in which variables were substituted or were not.
func readWorkload(text []byte) (any, error) {
	w, err := podplan.ParseWorkload(text)
	if err != nil {
		return nil, err
	}
	return jsonOf(w)
}

func compareObjects(path string, have, want map[string]any) (list []difference) {
	keys := map[string]bool{}
	for key := range have {
		keys[key] = true
	}
	for key := range want {
		keys[key] = true
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		at := path + "." + key
		if strings.ContainsAny(key, "./") { // an annotation or a label
			at = path + "[" + key + "]"
		}
		list = append(list, compare(at, have[key], want[key])...)
	}
	return list
}

func compareLists(path string, have, want []any) (list []difference) {
	haveNames, wantNames := names(have), names(want)
	if haveNames == nil || wantNames == nil {
		for i := range max(len(have), len(want)) {
			list = append(list, compare(fmt.Sprintf("%s[%d]", path, i), at(have, i), at(want, i))...)
		}
		return list
	}
	if !slices.Equal(haveNames, wantNames) {
		list = append(list, difference{path, anys(haveNames), anys(wantNames)})
	}
	for i, name := range haveNames {
		if j := slices.Index(wantNames, name); j >= 0 {
			list = append(list, compare(fmt.Sprintf("%s[%d]", path, i), have[i], want[j])...)
		}
	}
	return list
}

// names are those of a list of named things, each once; nil for any other list.
func names(list []any) []string {
	out := []string{}
	for _, v := range list {
		object, _ := v.(map[string]any)
		name, ok := object["name"].(string)
		if !ok || slices.Contains(out, name) {
			return nil
		}
		out = append(out, name)
	}
	return out
}

func at(list []any, i int) any {
	if i < len(list) {
		return list[i]
	}
	return nil
}

func anys(texts []string) []any {
	out := make([]any, len(texts))
	for i, text := range texts {
		out[i] = text
	}
	return out
}

// same tells whether two scalars mean the same to Kubernetes. Quantities have many spellings, and container runtimes
// take capabilities in any case.
func same(path string, have, want any) bool {
	if have == want {
		return true
	}
	switch {
	case strings.Contains(path, ".resources."):
		a, errA := resource.ParseQuantity(fmt.Sprint(have))
		b, errB := resource.ParseQuantity(fmt.Sprint(want))
		return errA == nil && errB == nil && a.Cmp(b) == 0
	case strings.Contains(path, ".capabilities."):
		return strings.EqualFold(fmt.Sprint(have), fmt.Sprint(want))
	}
	return false
}
