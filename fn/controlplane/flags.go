package controlplane

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
)

// flagSyntax is the library that reads a program's flags.
type flagSyntax int

const (
	pflag  flagSyntax = iota // --flag; Kubernetes' components take _ for -
	goflag                   // --flag and -flag
)

// commandLine is what a container runs: the words of its command, then those of its args. Edits go to the YAML nodes at
// once.
type commandLine struct {
	command, args *yaml.Node // sequences, or nil
	syntax        flagSyntax
	start         int // the first word after the program's name
}

func newCommandLine(container *yaml.Node) *commandLine {
	sequence := func(key string) *yaml.Node {
		if n := node.Get(container, key); n != nil && n.Kind == yaml.SequenceNode && len(n.Content) > 0 {
			return n
		}
		return nil
	}
	return &commandLine{command: sequence("command"), args: sequence("args")}
}

func (l *commandLine) words() []*yaml.Node {
	var words []*yaml.Node
	for _, list := range []*yaml.Node{l.command, l.args} {
		if list != nil {
			words = append(words, list.Content...)
		}
	}
	return words
}

// runners start the program that their arguments name: those of Kubernetes' own images, and usual init processes.
var runners = []string{"go-runner", "kube-log-runner", "hyperkube", "tini", "dumb-init", "env", "nice"}

// program finds what the container runs by the first word, or by the first that names one after a runner. Later words
// prove nothing: "ls /var/lib/etcd" is not etcd.
func (l *commandLine) program() (*program, bool) {
	words := l.words()
	for i, word := range words {
		if p := findProgram(word.Value); p != nil {
			l.start, l.syntax = i+1, p.flags
			return p, true
		}
		if !slices.Contains(runners, path.Base(words[0].Value)) {
			break
		}
	}
	return nil, false
}

// use is where a flag stands: one word, or two when its value is a word of its own.
type use struct{ at, words int }

// find returns the uses of a flag and where further flags may be put.
func (l *commandLine) find(flag string) (uses []use, end int) {
	words := l.words()
	for i := l.start; i < len(words); i++ {
		if words[i].Value == "--" {
			return uses, i // what follows are no flags
		}
		name, _, inline := strings.Cut(words[i].Value, "=")
		if l.flagName(name) != flag {
			continue
		}
		u := use{i, 1}
		if !inline && i+1 < len(words) {
			u.words, i = 2, i+1
		}
		uses = append(uses, u)
	}
	return uses, len(words)
}

// flagName is the name of a flag as its program understands it, or "" for a word that is no flag.
func (l *commandLine) flagName(word string) string {
	name, long := strings.CutPrefix(word, "--")
	if l.syntax == goflag {
		if !long {
			name, long = strings.CutPrefix(word, "-")
		}
	} else {
		name = strings.ReplaceAll(name, "_", "-")
	}
	if !long {
		return ""
	}
	return name
}

// value is what a flag is set to, the last one where it stands several times, or "".
func (l *commandLine) value(flag string) string {
	uses, _ := l.find(flag)
	if len(uses) == 0 {
		return ""
	}
	last := uses[len(uses)-1]
	if last.words == 2 {
		return l.words()[last.at+1].Value
	}
	_, value, _ := strings.Cut(l.words()[last.at].Value, "=")
	return value
}

func (l *commandLine) has(flag string) bool {
	uses, _ := l.find(flag)
	return len(uses) > 0
}

// set gives a flag one value and tells whether that changed anything. The first use is kept in its form, further ones
// go: lists would add up.
func (l *commandLine) set(flag, value string) (changed bool) {
	uses, end := l.find(flag)
	if len(uses) == 0 {
		l.insert(end, fmt.Sprintf("--%s=%s", flag, value))
		return true
	}
	first := uses[0]
	word, text := l.words()[first.at], value
	if first.words == 2 {
		word = l.words()[first.at+1]
	} else {
		name, _, _ := strings.Cut(word.Value, "=")
		text = name + "=" + value
	}
	if word.Kind != yaml.ScalarNode || word.Value != text {
		setText(word, text)
		changed = true
	}
	return l.remove(uses[1:]) || changed
}

// drop takes a flag out and tells whether it was there.
func (l *commandLine) drop(flag string) bool {
	uses, _ := l.find(flag)
	return l.remove(uses)
}

func (l *commandLine) remove(uses []use) bool {
	for _, u := range slices.Backward(uses) {
		for i := u.at + u.words - 1; i >= u.at; i-- {
			list, at := l.locate(i)
			list.Content = slices.Delete(list.Content, at, at+1)
		}
	}
	return len(uses) > 0
}

// insert puts a word before word number i, in the style of its neighbour.
func (l *commandLine) insert(i int, text string) {
	list, at := l.locate(i - 1) // there is one: the program's name
	if at == len(list.Content)-1 && list == l.command && l.args != nil && len(l.args.Content) > 0 {
		list, at = l.args, -1
	}
	word := node.Text(text)
	neighbour := list.Content[max(at, 0)]
	word.Style = neighbour.Style & (yaml.SingleQuotedStyle | yaml.DoubleQuotedStyle)
	if at >= 0 {
		word.FootComment, neighbour.FootComment = neighbour.FootComment, ""
	}
	list.Content = slices.Insert(list.Content, at+1, word)
}

// locate returns the list that holds word number i, and where.
func (l *commandLine) locate(i int) (list *yaml.Node, at int) {
	if l.command == nil {
		return l.args, i
	}
	if n := len(l.command.Content); i >= n {
		return l.args, i - n
	}
	return l.command, i
}

// setText makes a node a string and keeps its quotes and comments.
func setText(n *yaml.Node, text string) {
	n.Kind, n.Tag, n.Value, n.Content = yaml.ScalarNode, yaml.NodeTagString, text, nil
	n.Style &= yaml.SingleQuotedStyle | yaml.DoubleQuotedStyle
}

var shells = []string{"sh", "bash", "ash", "dash"}

// warnShell names a component that a shell starts: its flags stand in a script.
func warnShell(item *yaml.RNode, l *commandLine, r *report.Report) {
	words := l.words()
	if len(words) < 2 || !slices.Contains(shells, path.Base(words[0].Value)) {
		return
	}
	for _, word := range words[1:] {
		fields := strings.Fields(word.Value)
		for i, field := range fields {
			if p := findProgram(field); p != nil && (i == 0 || slices.Contains([]string{"exec", "&&", ";", "then"}, fields[i-1])) {
				r.Warn(report.ObjectOf(item), "spec.containers", "starts %s in a shell, so its flags cannot be set; run it as command: [%s, …], or set --%s there", p.name, p.name, p.minVersion)
				return
			}
		}
	}
}
