// Program kyverno-podsecurity says what Kyverno's rule podSecurity of level restricted finds in the workloads on its
// standard input, as JSON. It is Kyverno's own code, without the rest of its command, which takes longer to compile
// than all other programs of this test. Its argument is a file with a PolicyException.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"

	kyvernov1 "github.com/kyverno/kyverno/api/kyverno/v1"
	kyvernov2 "github.com/kyverno/kyverno/api/kyverno/v2"
	"github.com/kyverno/kyverno/pkg/pss"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

type finding struct{ Object, Rule, Container, Message string }

func main() {
	found, err := run(os.Stdin, os.Args[1:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(found)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

func run(in io.Reader, args []string) ([]finding, error) {
	var excludes []kyvernov1.PodSecurityStandard
	for _, file := range args {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var exception kyvernov2.PolicyException
		if err := sigsyaml.UnmarshalStrict(text, &exception); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if errs := exception.Validate(); len(errs) > 0 {
			return nil, fmt.Errorf("%s: %w", file, errs.ToAggregate())
		}
		excludes = append(excludes, exception.Spec.PodSecurity...)
	}
	found := []finding{}
	for decoder := yaml.NewYAMLOrJSONDecoder(in, 4096); ; {
		var document json.RawMessage
		if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
			return found, nil
		} else if err != nil {
			return nil, err
		}
		pod, name, err := podOf(document)
		if err != nil {
			return nil, err
		}
		if pod == nil {
			continue
		}
		more, err := check(pod, name, excludes)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
}

// podOf is the pod of a workload, or nil, and the workload's name.
func podOf(document []byte) (*corev1.Pod, string, error) {
	var object struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        metav1.ObjectMeta
		Spec            json.RawMessage
	}
	if bytes.Equal(document, []byte("null")) {
		return nil, "", nil
	}
	if err := json.Unmarshal(document, &object); err != nil {
		return nil, "", err
	}
	spec := struct {
		Template    *corev1.Pod
		JobTemplate *struct {
			Spec struct{ Template *corev1.Pod }
		}
	}{}
	pod := &corev1.Pod{}
	var err error
	switch object.Kind {
	case "Pod":
		err = json.Unmarshal(document, pod)
	case "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job":
		err = json.Unmarshal(object.Spec, &spec)
		pod = spec.Template
	case "CronJob":
		if err = json.Unmarshal(object.Spec, &spec); err == nil {
			pod = spec.JobTemplate.Spec.Template
		}
	default:
		return nil, "", nil
	}
	return pod, object.Kind + "/" + object.Metadata.Namespace + "/" + object.Metadata.Name, err
}

var position = regexp.MustCompile(`^spec\.(containers|initContainers)\[(\d+)\]`)

func check(pod *corev1.Pod, name string, excludes []kyvernov1.PodSecurityStandard) ([]finding, error) {
	level, err := pss.ParseVersion("restricted", "latest")
	if err != nil {
		return nil, err
	}
	_, results := pss.EvaluatePod(level, excludes, pod)
	var found []finding
	for _, result := range results {
		if result.CheckResult.ErrList == nil || len(*result.CheckResult.ErrList) == 0 {
			found = append(found, finding{name, result.ID, "", result.CheckResult.ForbiddenReason})
			continue
		}
		for _, e := range *result.CheckResult.ErrList {
			f := finding{Object: name, Rule: result.ID, Message: e.ErrorBody()}
			if match := position.FindStringSubmatch(e.Field); match != nil {
				i, err := strconv.Atoi(match[2])
				if err != nil {
					return nil, err
				}
				containers := pod.Spec.Containers
				if match[1] == "initContainers" {
					containers = pod.Spec.InitContainers
				}
				f.Container = containers[i].Name
				f.Message = e.Field[len(match[0]):] + ": " + f.Message
			}
			found = append(found, f)
		}
	}
	return found, nil
}
