package admission_test

import (
	"context"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// policies are those of one declared workload, compiled as the API server compiles them (package mutating,
// compilePolicy; package validating, compilePolicy).
type policies struct {
	mutate   plugincel.MutatingEvaluator
	compiler *plugincel.CompositedCompiler
	validate validating.Validator
	conditions,
	messages plugincel.ConditionEvaluator
	objects admission.ObjectInterfaces
}

var podKind = schema.GroupVersionKind{Version: "v1", Kind: "Pod"}
var podResource = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

func compile(t testing.TB, m *admissionregistrationv1.MutatingAdmissionPolicy, v *admissionregistrationv1.ValidatingAdmissionPolicy) *policies {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	p := &policies{objects: admission.NewObjectInterfacesFromScheme(scheme), compiler: newCompiler(t, m.Spec.Variables)}
	if m.Spec.Mutations[0].PatchType != admissionregistrationv1.PatchTypeJSONPatch || len(m.Spec.Mutations) != 1 {
		t.Fatal("the mutation is no JSON patch")
	}
	p.mutate = p.compiler.CompileMutatingEvaluator(&patch.JSONPatchCondition{Expression: m.Spec.Mutations[0].JSONPatch.Expression},
		plugincel.OptionalVariableDeclarations{HasAuthorizer: true, HasPatchTypes: true}, environment.NewExpressions)
	for _, err := range p.mutate.CompilationErrors() {
		t.Fatal(err)
	}
	compiler := newCompiler(t, v.Spec.Variables)
	var conditions, messages []plugincel.ExpressionAccessor
	for _, c := range v.Spec.Validations {
		conditions = append(conditions, &validating.ValidationCondition{Expression: c.Expression, Message: c.Message, Reason: c.Reason})
		if c.MessageExpression == "" {
			messages = append(messages, nil)
			continue
		}
		messages = append(messages, &validating.MessageExpressionCondition{MessageExpression: c.MessageExpression})
	}
	p.conditions = compiler.CompileCondition(conditions, plugincel.OptionalVariableDeclarations{HasAuthorizer: true}, environment.NewExpressions)
	p.messages = compiler.CompileCondition(messages, plugincel.OptionalVariableDeclarations{}, environment.NewExpressions)
	for _, evaluator := range []plugincel.ConditionEvaluator{p.conditions, p.messages} {
		for _, err := range evaluator.CompilationErrors() {
			t.Fatal(err)
		}
	}
	p.validate = validating.NewValidator(p.conditions, nil, compiler.CompileCondition(nil, plugincel.OptionalVariableDeclarations{}, environment.NewExpressions), p.messages, v.Spec.FailurePolicy, nil)
	return p
}

// newCompiler knows the variables. New expressions are compiled in the environment of the oldest server that may have
// to run them, as when they are written.
func newCompiler(t testing.TB, variables []admissionregistrationv1.Variable) *plugincel.CompositedCompiler {
	t.Helper()
	compiler, err := plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range variables {
		result := compiler.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression}, plugincel.OptionalVariableDeclarations{HasAuthorizer: true}, environment.NewExpressions)
		if result.Error != nil {
			t.Fatalf("variable %s: %v\n%s", v.Name, result.Error, v.Expression)
		}
	}
	return compiler
}

func (p *policies) attributes(pod *corev1.Pod) *admission.VersionedAttributes {
	pod = pod.DeepCopy()
	pod.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	return &admission.VersionedAttributes{Attributes: admission.NewAttributesRecord(pod, nil, podKind, pod.Namespace, pod.Name, podResource, "", admission.Create, &metav1.CreateOptions{}, false, nil),
		VersionedObject: pod, VersionedKind: podKind}
}

// mutated is the pod after the mutating policy, and the cost of its expressions.
func (p *policies) mutated(t testing.TB, pod *corev1.Pod) (*corev1.Pod, int64) {
	t.Helper()
	attributes := p.attributes(pod)
	ctx := p.compiler.CreateContext(context.Background())
	request := patch.Request{MatchedResource: podResource, VersionedAttributes: attributes, ObjectInterfaces: p.objects}
	out, err := patch.NewJSONPatcher(p.mutate).Patch(ctx, request, celconfig.RuntimeCELCostBudget)
	if err != nil {
		t.Fatalf("the mutation fails: %v", err)
	}
	_, left, err := p.mutate.ForInput(p.compiler.CreateContext(context.Background()), attributes, plugincel.CreateAdmissionRequest(attributes.Attributes, metav1.GroupVersionResource(podResource), metav1.GroupVersionKind(podKind)),
		plugincel.OptionalVariableBindings{}, nil, celconfig.RuntimeCELCostBudget)
	if err != nil {
		t.Fatal(err)
	}
	return out.(*corev1.Pod), celconfig.RuntimeCELCostBudget - left
}

// refusals are the messages of the validating policy, and the cost of its conditions.
func (p *policies) refusals(t testing.TB, pod *corev1.Pod) ([]string, int64) {
	t.Helper()
	attributes := p.attributes(pod)
	result := p.validate.Validate(context.Background(), podResource, attributes, nil, nil, celconfig.RuntimeCELCostBudget, nil)
	var messages []string
	for _, d := range result.Decisions {
		if d.Evaluation == validating.EvalError {
			t.Fatalf("a condition fails: %s", d.Message)
		}
		if d.Action == validating.ActionDeny {
			if strings.HasPrefix(d.Message, "failed expression") {
				t.Errorf("without its message: %s", d.Message)
			}
			messages = append(messages, d.Message)
		}
	}
	_, left, err := p.conditions.ForInput(context.Background(), attributes, plugincel.CreateAdmissionRequest(attributes.Attributes, metav1.GroupVersionResource(podResource), metav1.GroupVersionKind(podKind)),
		plugincel.OptionalVariableBindings{}, nil, celconfig.RuntimeCELCostBudget)
	if err != nil {
		t.Fatal(err)
	}
	return messages, celconfig.RuntimeCELCostBudget - left
}
