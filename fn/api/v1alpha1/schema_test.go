package v1alpha1_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
)

// validator checks a config in YAML against the schema, with the validator of kube-apiserver.
func validator(t *testing.T) func(text string) error {
	t.Helper()
	data, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	schema := &spec.Schema{}
	if err := json.Unmarshal(data, schema); err != nil {
		t.Fatal(err)
	}
	return func(text string) error {
		var config any
		if err := yaml.Unmarshal([]byte(text), &config); err != nil {
			return err
		}
		return validate.AgainstSchema(schema, config, strfmt.Default)
	}
}

// The schema takes every config of the examples.
func TestSchemaTakesTheExamples(t *testing.T) {
	check := validator(t)
	files, err := filepath.Glob("../../../examples/*/mtls.yaml")
	if err != nil || len(files) < 2 {
		t.Fatalf("found %v (%v)", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := check(string(text)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

const managed = head + "  certificates: {issuer: CertManager, certManager: {issuerRef: {name: a}}}\n"

const minimal = head + "  sealing: {recipients: [age1a]}\n  certificates: {ca: {recipients: [age1b]}}\n"

// What the schema takes Load takes, and what it refuses Load refuses too: an editor that shows an error is right.
func TestSchemaAgreesWithLoad(t *testing.T) {
	check := validator(t)
	for name, test := range map[string]struct {
		config string
		good   bool
	}{
		"minimal":      {minimal, true},
		"ports":        {minimal + "  inbound: {excludePorts: [22, \"80\", \"9000-9010\"]}\n", true},
		"networks":     {minimal + "  outbound: {excludeCIDRs: [10.0.0.0/8, \"fd00::/8\"], unknown: Deny}\n", true},
		"interfaces":   {minimal + "  inbound: {excludeInterfaces: [docker0]}\n  outbound: {excludeInterfaces: [net1], excludeUIDs: [1001]}\n", true},
		"user by name": {minimal + "  outbound: {excludeUIDs: [nobody]}\n", false},
		"rule":         {minimal + "  authorization: {rules: [{to: {name: a, labelSelector: {matchExpressions: [{key: k, operator: Exists}]}}, ports: [80], from: [{spiffeID: \"spiffe://cluster.local/ns/a/b/c\"}]}]}\n", true},
		"resources":    {minimal + "  proxy: {resources: {requests: {cpu: 1, memory: 64Mi}}, logLevel: debug, idleTimeout: 8h}\n", true},
		"switches":     {minimal + "  authorization: {mode: DryRun, fromNetworkPolicies: true}\n  proxy: {fips140: true}\n", true},
		"no switch":    {minimal + "  proxy: {fips140: enabled}\n", false},
		"templates":    {minimal + "  workloads: {templates: [{group: a.b, kind: C, path: spec.template}]}\n", true},
		"declared":     {minimal + "  workloads: {declared: [{kind: C, name: a, namespace: b, selector: {matchLabels: {a: b}}, services: [{name: s, ports: [{port: 1, targetPort: p}]}]}]}\n", true},
		"nameless":     {minimal + "  workloads: {declared: [{kind: C, namespace: b, selector: {matchLabels: {a: b}}}]}\n", false},
		"namespaces":   {strings.Replace(minimal, "{recipients: [age1a]}", "{recipients: [age1a], namespaces: {prod: [age1c]}}", 1), true},
		"typo":         {minimal + "  trustdomain: x\n", false},
		"deep typo":    {minimal + "  proxy: {resources: {request: {}}}\n", false},
		"typo in list": {minimal + "  workloads: {include: [{named: x}]}\n", false},
		"value":        {minimal + "  issuance: Always\n", false},
		"cert-manager": {managed, true},
		"no issuer":    {strings.Replace(managed, "issuer: CertManager, ", "", 1), false},
		"no reference": {strings.Replace(managed, ", certManager: {issuerRef: {name: a}}", "", 1), false},
		"algorithm":    {strings.Replace(minimal, "{ca:", "{keyAlgorithm: DSA, ca:", 1), false},
		"duration":     {strings.Replace(minimal, "{ca:", "{validity: month, ca:", 1), false},
		"text":         {strings.Replace(minimal, "[age1a]", "age1a", 1), false},
		"port":         {minimal + "  inbound: {excludePorts: [http]}\n", false},
		"network":      {minimal + "  outbound: {excludeCIDRs: [ten]}\n", false},
		"kind":         {strings.Replace(minimal, "kind: MutualTLS", "kind: Mutual", 1), false},
		"rule to none": {minimal + "  authorization: {rules: [{to: {name: a}}]}\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := check(test.config); (err == nil) != test.good {
				t.Errorf("the schema says %v", err)
			}
			if _, err := v1alpha1.Load(kyaml.MustParse(test.config)); (err == nil) != test.good {
				t.Errorf("Load says %v", err)
			}
		})
	}
	if check(head+"  certificates: {ca: {recipients: [age1b]}}\n") == nil {
		t.Error("the schema takes a config without recipients, which no render does")
	}
}

// document is the JSON schema of a whole MutualTLS (draft 7, and what OpenAPI has of it).
func (g *generator) document() map[string]any {
	text := map[string]any{"type": "string"}
	texts := map[string]any{"type": "object", "additionalProperties": text}
	return map[string]any{
		"$schema": "http://json-schema.org/draft-07/schema#", "title": "MutualTLS", "description": g.about("MutualTLS"),
		"type": "object", "additionalProperties": false, "required": []string{"apiVersion", "kind", "spec"},
		"properties": map[string]any{
			"apiVersion": map[string]any{"type": "string", "enum": []string{v1alpha1.APIVersion}},
			"kind":       map[string]any{"type": "string", "enum": []string{v1alpha1.KindMutualTLS}},
			"metadata":   map[string]any{"type": "object", "properties": map[string]any{"name": text, "namespace": text, "labels": texts, "annotations": texts}},
			"spec":       g.spec(),
		},
	}
}

// spec is the schema of the spec, with what each issuer needs.
func (g *generator) spec() map[string]any {
	certificates := func(needed []string, issuer string) map[string]any {
		return map[string]any{"certificates": map[string]any{"required": needed, "properties": map[string]any{"issuer": map[string]any{"enum": []string{issuer}}}}}
	}
	s := g.schema(reflect.TypeFor[v1alpha1.Spec](), "spec")
	s["anyOf"] = []any{
		map[string]any{"required": []string{"sealing"}, "properties": certificates([]string{"ca"}, v1alpha1.IssuerRollingCA)},
		map[string]any{"properties": certificates([]string{"issuer", "certManager"}, v1alpha1.IssuerCertManager)},
	}
	return s
}

// schema is that of a type at a path.
func (g *generator) schema(of reflect.Type, path string) map[string]any {
	if isScalar(of) {
		copied := map[string]any{}
		for key, value := range scalars[of].schema {
			copied[key] = value
		}
		return copied
	}
	switch of.Kind() {
	case reflect.Pointer:
		return g.schema(of.Elem(), path)
	case reflect.Slice:
		return map[string]any{"type": "array", "items": g.schema(of.Elem(), "")}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": g.schema(of.Elem(), "")}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.String:
		s := map[string]any{"type": "string"}
		if values := enum(path); values != nil {
			s["enum"] = values
		}
		return s
	case reflect.Struct:
		return g.object(of, path)
	}
	return map[string]any{"type": "integer"}
}

func (g *generator) object(of reflect.Type, path string) map[string]any {
	properties := map[string]any{}
	var needed []string
	for _, p := range g.properties(of, path) {
		s := g.schema(p.of, p.path)
		if p.meaning != "" {
			s["description"] = p.meaning
		}
		if d := g.defaultOf(p.path); d != nil {
			s["default"] = d
		}
		properties[p.name] = s
		if p.required {
			needed = append(needed, p.name)
		}
	}
	s := map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
	if needed != nil {
		s["required"] = needed
	}
	return s
}
