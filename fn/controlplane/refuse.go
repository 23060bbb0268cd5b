package controlplane

import (
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
)

// refuse tells whether the settings would have no effect, or keep the program from starting, and says why.
func (t *target) refuse(tls v1alpha1.TLS, r *report.Report) (refused bool) {
	fail := func(format string, args ...any) {
		r.Error(t.object, "spec.containers", format, args...)
		refused = true
	}
	image := node.Scalar(t.container, "image")
	if t.program.name != etcd {
		if len(tls.CurvePreferences) > 0 && olderThan(image, "1.36.0") {
			fail("the image %s has no --tls-curve-preferences, which came with Kubernetes 1.36; leave spec.tls.curvePreferences out", image)
		}
		return refused
	}
	if olderThan(image, "3.5.8") { // CHANGELOG-3.5 of etcd
		fail("the image %s is too old for --tls-min-version and would not start; take etcd 3.5.8 or later", image)
	}
	if t.line.has("config-file") || t.hasEnv("ETCD_CONFIG_FILE") {
		fail("etcd ignores flags beside --config-file; turn that file into flags")
	}
	for _, s := range t.program.settings(tls) {
		if name := environment(s.flag); (s.value != "" || s.drop) && t.hasEnv(name) {
			fail("etcd does not start with %s in its environment beside --%s; remove the variable", name, s.flag)
		}
	}
	if tls.MinVersion == v1alpha1.VersionTLS13 {
		if most := t.line.value("tls-max-version"); most != "" && most != "TLS1.3" || t.hasEnv(environment("tls-max-version")) {
			fail("etcd has a greatest TLS version, and spec.tls.minVersion is %s; remove --tls-max-version", tls.MinVersion)
		}
	}
	if len(tls.CurvePreferences) > 0 {
		r.Warn(t.object, "spec.containers", "etcd has no flag for spec.tls.curvePreferences; it takes any that Go does")
	}
	return refused
}

func (t *target) hasEnv(name string) bool {
	env := node.Get(t.container, "env")
	return env != nil && env.Kind == yaml.SequenceNode && slices.ContainsFunc(env.Content, func(variable *yaml.Node) bool {
		return node.Scalar(variable, "name") == name
	})
}

// environment is the variable that etcd reads in place of a flag.
func environment(flag string) string {
	return "ETCD_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

var imageTag = regexp.MustCompile(`:v?(\d{1,4}\.\d{1,4}\.\d{1,4})(?:[-_+.][0-9A-Za-z_.-]*)?$`)

// olderThan tells whether the tag of an image names an earlier version; not every tag is one.
func olderThan(image, least string) bool {
	image, _, _ = strings.Cut(image, "@")
	match := imageTag.FindStringSubmatch(image)
	if match == nil {
		return false
	}
	v, err := version.ParseGeneric(match[1])
	return err == nil && v.LessThan(version.MustParseGeneric(least))
}
