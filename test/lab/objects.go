//go:build linux

package lab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

// Workload is a pod template and what owns it.
type Workload struct {
	Kind, Namespace, Name string
	Template              corev1.PodTemplateSpec
	StatefulSet           bool // pods have stable host names
	Subdomain             string
}

// Objects are the manifests that the lab knows, by namespace/name.
type Objects struct {
	Workloads  map[string]Workload // by kind/namespace/name
	Services   map[string]corev1.Service
	Secrets    map[string]corev1.Secret
	ConfigMaps map[string]corev1.ConfigMap
}

// Parse reads rendered manifests strictly. Kinds that neither a pod nor a Service needs are left out.
func Parse(manifests []byte) (*Objects, error) {
	o := &Objects{map[string]Workload{}, map[string]corev1.Service{}, map[string]corev1.Secret{}, map[string]corev1.ConfigMap{}}
	for documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(manifests))); ; {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return o, nil
		}
		if err == nil {
			err = o.add(document)
		}
		if err != nil {
			return nil, err
		}
	}
}

func (o *Objects) add(document []byte) error {
	var head struct {
		Kind     string `json:"kind"`
		Metadata struct{ Name, Namespace string }
	}
	if len(bytes.TrimSpace(document)) == 0 {
		return nil
	}
	if err := sigsyaml.Unmarshal(document, &head); err != nil {
		return err
	}
	key := head.Metadata.Namespace + "/" + head.Metadata.Name
	var err error
	switch head.Kind {
	case "Deployment":
		err = read(document, func(d appsv1.Deployment) { o.workload(head.Kind, d.ObjectMeta, d.Spec.Template, "") })
	case "StatefulSet":
		err = read(document, func(s appsv1.StatefulSet) { o.workload(head.Kind, s.ObjectMeta, s.Spec.Template, s.Spec.ServiceName) })
	case "CronJob":
		err = read(document, func(c batchv1.CronJob) { o.workload(head.Kind, c.ObjectMeta, c.Spec.JobTemplate.Spec.Template, "") })
	case "Pod":
		err = read(document, func(p corev1.Pod) {
			o.workload(head.Kind, p.ObjectMeta, corev1.PodTemplateSpec{ObjectMeta: p.ObjectMeta, Spec: p.Spec}, p.Spec.Subdomain)
		})
	case "Service":
		err = read(document, func(s corev1.Service) { o.Services[key] = s })
	case "Secret":
		err = read(document, func(s corev1.Secret) { o.Secrets[key] = withStringData(s) })
	case "ConfigMap":
		err = read(document, func(c corev1.ConfigMap) { o.ConfigMaps[key] = c })
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", head.Kind, key, err)
	}
	return nil
}

func (o *Objects) workload(kind string, meta metav1.ObjectMeta, template corev1.PodTemplateSpec, subdomain string) {
	o.Workloads[kind+"/"+meta.Namespace+"/"+meta.Name] = Workload{
		Kind: kind, Namespace: meta.Namespace, Name: meta.Name, Template: template, StatefulSet: kind == "StatefulSet", Subdomain: subdomain,
	}
}

// merge puts newer objects over these.
func (o *Objects) merge(newer *Objects) *Objects {
	return &Objects{
		merged(o.Workloads, newer.Workloads), merged(o.Services, newer.Services),
		merged(o.Secrets, newer.Secrets), merged(o.ConfigMaps, newer.ConfigMaps),
	}
}

func merged[V any](older, newer map[string]V) map[string]V {
	all := map[string]V{}
	maps.Copy(all, older)
	maps.Copy(all, newer)
	return all
}

// withStringData does what the API server does on writes.
func withStringData(s corev1.Secret) corev1.Secret {
	if s.Data == nil {
		s.Data = map[string][]byte{}
	}
	for key, value := range s.StringData {
		s.Data[key] = []byte(value)
	}
	return s
}

func read[T any](document []byte, use func(T)) error {
	var object T
	if err := sigsyaml.UnmarshalStrict(document, &object); err != nil {
		return err
	}
	use(object)
	return nil
}
