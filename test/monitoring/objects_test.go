package monitoring

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"github.com/prometheus/prometheus/model/rulefmt"
	promql "github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/proxy/reason"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// monitoringRules are the groups of the PrometheusRule, judged by Prometheus's own parser: expressions, durations,
// labels, and templates of annotations.
func monitoringRules(t *testing.T) []rulefmt.RuleGroup {
	t.Helper()
	var object struct {
		APIVersion, Kind string
		Metadata         struct {
			Name   string
			Labels map[string]string
		}
		Spec any
	}
	if err := yaml.UnmarshalStrict([]byte(read(t, "../../examples/monitoring/rules.yaml")), &object); err != nil {
		t.Fatal(err)
	}
	if object.APIVersion != "monitoring.coreos.com/v1" || object.Kind != "PrometheusRule" {
		t.Fatalf("rules.yaml is %s %s", object.APIVersion, object.Kind)
	}
	text, err := yaml.Marshal(object.Spec)
	if err != nil {
		t.Fatal(err)
	}
	groups, errs := rulefmt.Parse(text, false, model.LegacyValidation)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return groups.Groups
}

// TestMonitoringRules: an alert says what is wrong, how bad it is and where to read on, and its expression uses what
// the proxy has.
func TestMonitoringRules(t *testing.T) {
	page := read(t, "../../docs/monitoring.md")
	known := inventory(t)
	headings := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^### (.+)$`).FindAllStringSubmatch(page, -1) {
		headings[heading[1]] = false
	}
	for _, group := range monitoringRules(t) {
		for _, rule := range group.Rules {
			known.check(t, rule.Alert, rule.Expr)
			if severity := rule.Labels["severity"]; !slices.Contains([]string{"critical", "warning", "info"}, severity) || rule.For < model.Duration(1) {
				t.Errorf("%s: severity %q, for %s", rule.Alert, severity, rule.For)
			}
			if rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
				t.Errorf("%s lacks a summary or a description", rule.Alert)
			}
			if got, want := rule.Annotations["runbook_url"], "https://github.com/meshless-dev/meshless/blob/main/docs/monitoring.md#"+strings.ToLower(rule.Alert); got != want {
				t.Errorf("%s: runbook_url is %s, want %s", rule.Alert, got, want)
			}
			if _, ok := headings[rule.Alert]; !ok {
				t.Errorf("docs/monitoring.md has no heading for %s", rule.Alert)
			}
			headings[rule.Alert] = true
		}
	}
	for heading, alert := range headings {
		if !alert {
			t.Errorf("docs/monitoring.md describes %s, which is no alert", heading)
		}
	}
}

// metrics are the labels of each metric that there is, and the values that the proxy gives to labels.
type metrics struct {
	labels map[string][]string
	values map[string]bool
}

var description = regexp.MustCompile(`^Desc\{fqName: "([^"]+)".*, constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

// inventory asks a proxy's registry: descriptions are there before anything was counted. What scraping adds, and what
// Prometheus has by itself, comes on top.
func inventory(t *testing.T) metrics {
	t.Helper()
	values, err := literals()
	if err != nil {
		t.Fatal(err)
	}
	known := metrics{labels: map[string][]string{"up": nil, "ALERTS": {"alertname", "alertstate", "severity", "chain", "direction", "reason"}}, values: values}
	proxy := telemetry.New(slog.New(slog.DiscardHandler))
	proxy.CountLostLines(func() uint64 { return 0 })
	proxy.Waiting(reason.Inbound, func() int { return 0 })
	descriptions := make(chan *prometheus.Desc)
	go func() {
		proxy.Registry.Describe(descriptions)
		close(descriptions)
	}()
	for d := range descriptions {
		parts := description.FindStringSubmatch(d.String())
		if parts == nil {
			t.Fatalf("cannot read %s", d)
		}
		names := strings.FieldsFunc(parts[3], func(r rune) bool { return r == ',' })
		for constant := range strings.SplitSeq(parts[2], ",") {
			if name, _, ok := strings.Cut(constant, "="); ok {
				names = append(names, name)
			}
		}
		known.labels[parts[1]] = names
	}
	if len(known.labels) < 40 {
		t.Fatalf("found %d metrics; does this test still read the registry rightly?", len(known.labels))
	}
	handshake := known.labels["meshless_handshake_duration_seconds"]
	for suffix, more := range map[string][]string{"_bucket": {"le"}, "_count": nil, "_sum": nil} {
		known.labels["meshless_handshake_duration_seconds"+suffix] = slices.Concat(handshake, more)
	}
	delete(known.labels, "meshless_handshake_duration_seconds") // a histogram has no series of its plain name
	for name := range known.labels {
		known.labels[name] = append(slices.Clone(known.labels[name]), "namespace", "pod", "container", "workload")
	}
	return known
}

// literals are the strings in the sources of the proxy, where every value of a label comes from.
var literals = sync.OnceValues(func() (map[string]bool, error) {
	found := map[string]bool{"true": true, "false": true} // strconv.FormatBool
	for _, folder := range []string{"../../proxy", "../../internal"} {
		err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			tree, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(tree, func(n ast.Node) bool {
				if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
					if text, err := strconv.Unquote(literal.Value); err == nil {
						found[text] = true
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
})

// check parses an expression and looks up every metric, label and value of a label in it.
func (m metrics) check(t *testing.T, where, text string) promql.Expr {
	t.Helper()
	expr, err := promql.ParseExpr(text)
	if err != nil {
		t.Errorf("%s: %v", where, err)
		return nil
	}
	promql.Inspect(expr, func(n promql.Node, _ []promql.Node) error {
		var grouping []string
		switch n := n.(type) {
		case *promql.VectorSelector:
			m.checkSelector(t, where, n.Name, n.LabelMatchers)
		case *promql.AggregateExpr:
			grouping = n.Grouping
		case *promql.BinaryExpr:
			if n.VectorMatching != nil {
				grouping = n.VectorMatching.MatchingLabels
			}
		}
		for _, label := range grouping {
			if !slices.Contains(m.labelsBelow(n), label) {
				t.Errorf("%s: nothing in %s has the label %s", where, n, label)
			}
		}
		return nil
	})
	return expr
}

func (m metrics) labelsBelow(n promql.Node) (all []string) {
	promql.Inspect(n, func(n promql.Node, _ []promql.Node) error {
		if selector, ok := n.(*promql.VectorSelector); ok {
			all = append(all, m.labels[selector.Name]...)
		}
		return nil
	})
	return all
}

func (m metrics) checkSelector(t *testing.T, where, name string, matchers []*labels.Matcher) {
	t.Helper()
	names, ok := m.labels[name]
	if !ok {
		t.Errorf("%s: there is no metric %s", where, name)
		return
	}
	for _, matcher := range matchers {
		switch {
		case matcher.Name == model.MetricNameLabel || matcher.Value == ".*":
		case !slices.Contains(names, matcher.Name):
			t.Errorf("%s: %s has no label %s", where, name, matcher.Name)
		case name == "ALERTS" || matcher.Type == labels.MatchNotEqual || slices.Contains([]string{"namespace", "pod", "workload", "version", "le"}, matcher.Name):
		default:
			for value := range strings.SplitSeq(matcher.Value, "|") {
				if !m.values[value] {
					t.Errorf("%s: nothing in the proxy gives %s of %s the value %q", where, matcher.Name, name, value)
				}
			}
		}
	}
}

// TestMonitoringKustomization: the folder is a kustomization with the three objects, small enough for kubectl apply,
// which copies each into an annotation.
func TestMonitoringKustomization(t *testing.T) {
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), "../../examples/monitoring")
	if err != nil {
		t.Fatal(err)
	}
	rendered, err := resources.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for text := range strings.SplitSeq(string(rendered), "\n---\n") {
		var object struct {
			Kind     string
			Metadata struct{ Name, Namespace string }
			Data     map[string]string
		}
		if err := yaml.Unmarshal([]byte(text), &object); err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, object.Kind)
		if object.Metadata.Namespace != "monitoring" || len(text) > 200<<10 {
			t.Errorf("%s %s: namespace %q, %d bytes", object.Kind, object.Metadata.Name, object.Metadata.Namespace, len(text))
		}
		if object.Kind == "ConfigMap" && object.Data["meshless.json"] != read(t, "../../examples/monitoring/dashboard.json") {
			t.Error("the ConfigMap does not hold the dashboard")
		}
	}
	slices.Sort(kinds)
	if !slices.Equal(kinds, []string{"ConfigMap", "PodMonitor", "PrometheusRule"}) {
		t.Errorf("it holds %v", kinds)
	}
}

// podMonitor is what this repository uses of prometheus-operator's PodMonitor; an unknown field is an error.
type podMonitor struct {
	APIVersion, Kind string
	Metadata         struct {
		Name   string
		Labels map[string]string
	}
	Spec struct {
		NamespaceSelector   struct{ Any bool }
		Selector            struct{}
		PodMetricsEndpoints []struct {
			Port, Path, Interval string
			Relabelings          []struct {
				Action       relabel.Action
				SourceLabels model.LabelNames
				Regex        string
				TargetLabel  string
			}
		}
	}
}

// injectedPod is what Prometheus sees of a pod that the function injected, of its golden: one set of labels per
// container and port.
func injectedPod(t *testing.T) (targets []map[string]string) {
	t.Helper()
	type container struct {
		Name  string
		Ports []struct {
			Name          string
			ContainerPort int
		}
	}
	var pod struct {
		Metadata struct{ Annotations map[string]string }
		Spec     struct{ InitContainers, Containers []container }
	}
	if err := yaml.Unmarshal([]byte(injectedPodText(t)), &pod); err != nil {
		t.Fatal(err)
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, port := range c.Ports {
			targets = append(targets, map[string]string{
				"__address__": "10.0.0.1:" + strconv.Itoa(port.ContainerPort), "__meta_kubernetes_namespace": "prod", "__meta_kubernetes_pod_name": "web-1",
				"__meta_kubernetes_pod_phase": "Running", "__meta_kubernetes_pod_container_name": c.Name, "__meta_kubernetes_pod_container_port_name": port.Name,
				"__meta_kubernetes_pod_annotation_meshless_dev_workload": pod.Metadata.Annotations[api.WorkloadAnnotation],
			})
		}
	}
	return targets
}

// injectedPodText is the Pod in the golden of a render.
func injectedPodText(t *testing.T) string {
	t.Helper()
	for text := range strings.SplitSeq(read(t, "../../fn/pipeline/testdata/pod/expected.yaml"), "\n---\n") {
		if strings.Contains(text, "\nkind: Pod\n") && strings.Contains(text, api.ProxyName) {
			return text
		}
	}
	t.Fatal("the golden holds no injected Pod")
	return ""
}

// TestMonitoringScrape: both ways to scrape find the port that the function declares, once, and set the labels that
// rules and dashboard use.
func TestMonitoringScrape(t *testing.T) {
	var monitor podMonitor
	if err := yaml.UnmarshalStrict([]byte(read(t, "../../examples/monitoring/podmonitor.yaml")), &monitor); err != nil {
		t.Fatal(err)
	}
	if monitor.APIVersion != "monitoring.coreos.com/v1" || monitor.Kind != "PodMonitor" || !monitor.Spec.NamespaceSelector.Any || len(monitor.Spec.PodMetricsEndpoints) != 1 {
		t.Fatalf("podmonitor.yaml is %+v", monitor)
	}
	endpoint := monitor.Spec.PodMetricsEndpoints[0]
	// The operator makes these itself: https://github.com/prometheus-operator/prometheus-operator,
	// pkg/prometheus/promcfg.go.
	operator := []*relabel.Config{
		relabelConfig(t, relabel.Keep, "__meta_kubernetes_pod_container_port_name", endpoint.Port, ""),
		relabelConfig(t, relabel.Replace, "__meta_kubernetes_namespace", "(.*)", "namespace"),
		relabelConfig(t, relabel.Replace, "__meta_kubernetes_pod_name", "(.*)", "pod"),
		relabelConfig(t, relabel.Replace, "__meta_kubernetes_pod_container_name", "(.*)", "container"),
	}
	for _, r := range endpoint.Relabelings {
		if r.Action == "" {
			r.Action = relabel.Replace
		}
		operator = append(operator, relabelConfig(t, r.Action, string(r.SourceLabels[0]), r.Regex, r.TargetLabel))
	}
	block := regexp.MustCompile("(?s)```yaml\n(scrape_configs:.*?)```").FindStringSubmatch(read(t, "../../docs/monitoring.md"))
	if block == nil {
		t.Fatal("docs/monitoring.md has no scrape_configs")
	}
	// its package would bring the whole client of Kubernetes into this test
	discovery := "    kubernetes_sd_configs: [{role: pod}]\n"
	if !strings.Contains(block[1], discovery) {
		t.Fatalf("the scrape configuration lacks %q", discovery)
	}
	plain, err := config.Load(strings.Replace(block[1], discovery, "", 1), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for name, configs := range map[string][]*relabel.Config{"podmonitor.yaml": operator, "docs/monitoring.md": plain.ScrapeConfigs[0].RelabelConfigs} {
		scraped := 0
		for _, target := range injectedPod(t) {
			got, keep := relabel.Process(labels.FromMap(target), configs...)
			if !keep {
				continue
			}
			scraped++
			want := map[string]string{"__address__": "10.0.0.1:" + strconv.Itoa(api.MetricsPort), "namespace": "prod", "pod": "web-1", "container": api.ProxyName, "workload": "pod/mutual-tls"}
			for label, value := range want {
				if got.Get(label) != value {
					t.Errorf("%s: %s is %q, want %q", name, label, got.Get(label), value)
				}
			}
		}
		if scraped != 1 {
			t.Errorf("%s scrapes %d ports of a pod", name, scraped)
		}
	}
}

func relabelConfig(t *testing.T, action relabel.Action, source, regex, target string) *relabel.Config {
	t.Helper()
	c := relabel.DefaultRelabelConfig
	c.Action, c.SourceLabels, c.TargetLabel, c.NameValidationScheme = action, model.LabelNames{model.LabelName(source)}, target, model.LegacyValidation
	var err error
	if c.Regex, err = relabel.NewRegexp(regex); err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(model.LegacyValidation); err != nil {
		t.Fatal(err)
	}
	return &c
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
