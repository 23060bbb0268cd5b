// Package controlplane writes the TLS settings of a config into the components of Kubernetes itself: static Pods of
// kube-apiserver, kube-controller-manager, kube-scheduler and etcd get flags, kubelet configs get fields. Comments,
// order and everything else stay as they are, and a second Apply changes nothing.
//
// What cannot be edited, or would keep a component from starting, is an error or a warning that names it: a control
// plane that is down cannot be mended through itself.
package controlplane

import (
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
)

// Apply edits the items in place and returns those that concern the mesh: all but control-plane Pods on the host's
// network, of which it would say that they are left out. Without tls.ControlPlane it returns the items as they are.
// Items must have passed node.CheckItem, and Pods must be free of YAML aliases.
func Apply(items []*yaml.RNode, tls v1alpha1.TLS, r *report.Report) (rest []*yaml.RNode) {
	if !tls.ControlPlane {
		return items
	}
	found := false
	for _, item := range items {
		handled := false
		switch group, _, _ := strings.Cut(item.GetApiVersion(), "/"); {
		case item.GetApiVersion() == "v1" && item.GetKind() == "Pod":
			handled = applyPod(item, tls, r)
		case group == kubeletGroup && item.GetKind() == kubeletKind:
			handled = applyKubeletConfig(item, tls, r)
		case item.GetApiVersion() == "v1" && item.GetKind() == "ConfigMap":
			handled = applyConfigMap(item, tls, r)
		}
		if !handled {
			warnPassedOver(item, r)
		}
		found = found || handled
		if !handled || node.Scalar(item.YNode(), "spec", "hostNetwork") != "true" {
			rest = append(rest, item)
		}
	}
	if !found {
		r.Warn(r.Config(), "spec.tls.controlPlane", "is true, and the input holds no static Pod of kube-apiserver, kube-controller-manager, kube-scheduler or etcd, and no KubeletConfiguration")
	}
	return rest
}

// warnPassedOver names what looks like a component of the control plane and is none that Apply knows how to set: a
// Deployment of a hosted control plane, or a Pod that starts it in a way of its own.
func warnPassedOver(item *yaml.RNode, r *report.Report) {
	for _, at := range [][]string{{"spec", "containers"}, {"spec", "template", "spec", "containers"}} {
		containers := node.Get(item.YNode(), at...)
		if containers == nil || containers.Kind != yaml.SequenceNode {
			continue
		}
		for _, container := range containers.Content {
			if words := newCommandLine(container).words(); len(words) > 0 && slices.Contains(shells, path.Base(words[0].Value)) {
				continue // warnShell's
			}
			if p := findProgram(imageName(node.Scalar(container, "image"))); p != nil {
				r.Warn(report.ObjectOf(item), strings.Join(at, "."), "seems to run %s, by its image, and its TLS flags are not set: only Pods whose command is the program are known; set --%s there", p.name, p.minVersion)
			}
		}
	}
}

// imageName is the last part of an image's name, without tag and digest.
func imageName(image string) string {
	name, _, _ := strings.Cut(path.Base(image), "@")
	name, _, _ = strings.Cut(name, ":")
	return name
}

// applyPod edits every container of a Pod that runs a program of the control plane and tells whether there was one.
func applyPod(item *yaml.RNode, tls v1alpha1.TLS, r *report.Report) (handled bool) {
	containers := node.Get(item.YNode(), "spec", "containers")
	if containers == nil || containers.Kind != yaml.SequenceNode {
		return false // the model says what is wrong with it
	}
	for _, container := range containers.Content {
		line := newCommandLine(container)
		p, ok := line.program()
		if !ok {
			warnShell(item, line, r)
			continue
		}
		handled = true
		target := &target{object: report.ObjectOf(item), program: p, container: container, line: line}
		if target.refuse(tls, r) {
			continue
		}
		var missing []setting // put in last, so that a flag without its value does not take one of them for it
		for _, s := range p.settings(tls) {
			if line.has(s.flag) {
				target.write(s, r)
			} else {
				missing = append(missing, s)
			}
		}
		for _, s := range missing {
			target.write(s, r)
		}
	}
	return handled
}

// target is one program of the control plane in one container.
type target struct {
	object    report.Object
	program   *program
	container *yaml.Node
	line      *commandLine
}

func (t *target) write(s setting, r *report.Report) {
	switch {
	case s.value != "" && t.line.set(s.flag, s.value):
		r.Info(t.object, "spec.containers", "%s has --%s=%s", t.program.name, s.flag, s.value)
	case s.drop && t.line.drop(s.flag):
		r.Info(t.object, "spec.containers", "%s has no --%s any more: it means nothing beside TLS 1.3", t.program.name, s.flag)
	}
}

// program is a program of the control plane and how it spells its flags.
type program struct {
	name                      string
	minVersion, suites, curve string            // names of flags; curve is empty where there is none
	versions                  map[string]string // its spelling of versions, where it is not that of the config
	flags                     flagSyntax
}

var programs = []*program{
	{name: "kube-apiserver", minVersion: "tls-min-version", suites: "tls-cipher-suites", curve: "tls-curve-preferences", flags: pflag},
	{name: "kube-controller-manager", minVersion: "tls-min-version", suites: "tls-cipher-suites", curve: "tls-curve-preferences", flags: pflag},
	{name: "kube-scheduler", minVersion: "tls-min-version", suites: "tls-cipher-suites", curve: "tls-curve-preferences", flags: pflag},
	{name: etcd, minVersion: "tls-min-version", suites: "cipher-suites", flags: goflag,
		versions: map[string]string{v1alpha1.VersionTLS12: "TLS1.2", v1alpha1.VersionTLS13: "TLS1.3"}},
}

const etcd = "etcd"

func findProgram(word string) *program {
	if i := slices.IndexFunc(programs, func(p *program) bool { return p.name == path.Base(word) }); i >= 0 {
		return programs[i]
	}
	return nil
}

// setting is what one flag should be. With neither a value nor drop the config says nothing about the flag, and it
// stays: to drop suites that a person chose would open what they closed.
type setting struct {
	flag, value string
	drop        bool
}

func (p *program) settings(tls v1alpha1.TLS) []setting {
	version := tls.MinVersion
	if p.versions != nil {
		version = p.versions[version]
	}
	all := []setting{
		{flag: p.minVersion, value: version},
		{flag: p.suites, value: strings.Join(tls.CipherSuites, ","), drop: tls.MinVersion == v1alpha1.VersionTLS13},
	}
	if p.curve != "" {
		all = append(all, setting{flag: p.curve, value: joinCurves(tls.CurvePreferences)})
	}
	return all
}
