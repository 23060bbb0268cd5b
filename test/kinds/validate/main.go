//go:build validate

// Validate reads manifests on standard input and writes what the projects of the kinds say against them, a line each.
// It is built by the test alone, since it carries much of Kubernetes.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	rollouts "github.com/argoproj/argo-rollouts/pkg/apis/rollouts/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/kubernetes/pkg/apis/core"
	coreconversion "k8s.io/kubernetes/pkg/apis/core/v1"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"knative.dev/pkg/apis"
	knative "knative.dev/serving/pkg/apis/serving/v1"
	"sigs.k8s.io/yaml"

	rolloutvalidation "github.com/meshless-dev/meshless/test/kinds/validate/rollouts"
)

func main() {
	documents := utilyaml.NewYAMLReader(bufio.NewReader(os.Stdin))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		if err == nil {
			err = validate(document)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// validate writes what is wrong with an object of the kinds that this program knows, and how many were right.
func validate(document []byte) error {
	var head corev1.PodTemplate // for apiVersion, kind and metadata
	if err := yaml.Unmarshal(document, &head); err != nil {
		return err
	}
	var problems []error
	switch head.APIVersion + "/" + head.Kind {
	case "argoproj.io/v1alpha1/Rollout":
		var rollout rollouts.Rollout
		if err := yaml.UnmarshalStrict(document, &rollout); err != nil {
			return err
		}
		problems = errorsOf(rolloutvalidation.ValidateRollout(&rollout))
	case "apps.openshift.io/v1/DeploymentConfig":
		var config deploymentConfig
		if err := yaml.UnmarshalStrict(document, &config); err != nil {
			return err
		}
		list, err := config.validate()
		if err != nil {
			return err
		}
		problems = errorsOf(list)
	case "serving.knative.dev/v1/Service":
		var service knative.Service
		if err := yaml.UnmarshalStrict(document, &service); err != nil {
			return err
		}
		service.SetDefaults(context.Background())
		if found := service.Validate(context.Background()).Filter(apis.ErrorLevel); found != nil {
			for _, problem := range found.WrappedErrors() {
				problems = append(problems, problem)
			}
		}
	default:
		return nil
	}
	fmt.Printf("%s %s: %d problems\n", head.Kind, head.Name, len(problems))
	for _, problem := range problems {
		fmt.Printf("%s %s: %v\n", head.Kind, head.Name, problem)
	}
	return nil
}

func errorsOf(list field.ErrorList) (problems []error) {
	for _, problem := range list {
		problems = append(problems, problem)
	}
	return problems
}

// deploymentConfig has the fields of an OpenShift DeploymentConfig that the test uses. No Go module of
// openshift-apiserver can be had. What its ValidateDeploymentConfigSpec asks of a template is done here in the same
// way: defaults and rules of Kubernetes for the template of a ReplicationController, without any option
// (github.com/openshift/openshift-apiserver, pkg/apps/apis/apps/validation/validation.go).
type deploymentConfig struct {
	corev1.PodTemplate `json:",inline"`
	Spec               struct {
		Replicas int32                  `json:"replicas"`
		Selector map[string]string      `json:"selector"`
		Strategy map[string]any         `json:"strategy,omitempty"`
		Template corev1.PodTemplateSpec `json:"template"`
	} `json:"spec"`
}

func (c *deploymentConfig) validate() (field.ErrorList, error) {
	defaulted := corev1.ReplicationController{Spec: corev1.ReplicationControllerSpec{Template: &c.Spec.Template}}
	coreconversion.SetObjectDefaults_ReplicationController(&defaulted)
	var template core.PodTemplateSpec
	if err := coreconversion.Convert_v1_PodTemplateSpec_To_core_PodTemplateSpec(defaulted.Spec.Template, &template, nil); err != nil {
		return nil, err
	}
	return corevalidation.ValidatePodTemplateSpecForRC(&template, c.Spec.Selector, field.NewPath("spec", "template"), corevalidation.PodValidationOptions{}), nil
}
