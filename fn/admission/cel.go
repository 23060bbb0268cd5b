package admission

import (
	"fmt"
	"strconv"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/internal/netset"
)

// expressionTag marks a node whose value is an expression of CEL, within what literal writes.
const expressionTag = "!cel"

// expression is a node that stands for what an expression of CEL gives.
func expression(text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: expressionTag, Value: text}
}

// literal is a YAML node as an expression of CEL. Literals of CEL hold values of one type, as Kubernetes compiles them,
// so values of several are dynamic.
func literal(n *yaml.Node, indent string) string {
	if n.Kind == yaml.ScalarNode {
		return scalar(n)
	}
	deeper, step := indent+"  ", 1
	open, end := "[", "]"
	if n.Kind == yaml.MappingNode {
		step, open, end = 2, "{", "}"
	}
	dynamic := !uniform(n, step)
	var entries []string
	for i := step - 1; i < len(n.Content); i += step {
		value := literal(n.Content[i], deeper)
		if dynamic {
			value = "dyn(" + value + ")"
		}
		if step == 2 {
			value = strconv.Quote(n.Content[i-1].Value) + ": " + value
		}
		entries = append(entries, value)
	}
	if line := open + strings.Join(entries, ", ") + end; len(line) < 100 && !strings.Contains(line, "\n") {
		return line
	}
	return open + "\n" + deeper + strings.Join(entries, ",\n"+deeper) + "\n" + indent + end
}

func scalar(n *yaml.Node) string {
	switch n.Tag {
	case expressionTag, yaml.NodeTagBool, yaml.NodeTagInt:
		return n.Value
	}
	return strconv.Quote(n.Value)
}

// uniform tells whether all values of a mapping or a list are scalars of one type.
func uniform(n *yaml.Node, step int) bool {
	tag := ""
	for i := step - 1; i < len(n.Content); i += step {
		value := n.Content[i]
		if value.Kind != yaml.ScalarNode || value.Tag == expressionTag || tag != "" && value.Tag != tag {
			return false
		}
		tag = value.Tag
	}
	return true
}

// texts is a list of strings in CEL.
func texts(list []string) string { return literal(node.Value(list), "") }

// within is a condition in CEL: a port is one of a set.
func within(port string, set netset.Ports) string {
	var parts []string
	for _, r := range set {
		if r.First == r.Last {
			parts = append(parts, fmt.Sprintf("%s == %d", port, r.First))
		} else {
			parts = append(parts, fmt.Sprintf("%s >= %d && %s <= %d", port, r.First, port, r.Last))
		}
	}
	if len(parts) == 0 {
		return "false"
	}
	return "(" + strings.Join(parts, " || ") + ")"
}

// jsonText is an expression in CEL for a string as JSON. Other control characters than these are refused
// (controlCharacters).
func jsonText(text string) string {
	for _, r := range [][2]string{{`\`, `\\`}, {`"`, `\"`}, {"\n", `\n`}, {"\r", `\r`}, {"\t", `\t`}, {"\b", `\b`}, {"\f", `\f`}} {
		text += fmt.Sprintf(".replace(%s, %s)", strconv.Quote(r[0]), strconv.Quote(r[1]))
	}
	return `"\"" + ` + text + ` + "\""`
}

// seconds is an expression in CEL for a number of seconds as time.Duration writes it, like 1h0m5s.
func seconds(n string) string {
	return fmt.Sprintf(`(%[1]s >= 3600 ? string(%[1]s / 3600) + "h" : "") + (%[1]s >= 60 ? string(%[1]s %% 3600 / 60) + "m" : "") + string(%[1]s %% 60) + "s"`, n)
}

// setting is a key of a spec in CEL's YAML: an expression as a block, where it has lines.
func setting(text string) *yaml.Node {
	if strings.Contains(text, "\n") {
		return node.Literal(text)
	}
	return node.Text(text)
}
