//go:build e2e && linux

package corpus

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/kio"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/test/env"
)

const (
	appImage = "meshless-test/app:latest"
	// callsPort is where the stand-in of a container without ports tells about its calls. No Service leads there.
	callsPort = 8090
)

// marker is what every call carries, to be looked for on the wire.
const marker = "an-order-at-an-application-of-others"

// application is manifests of others, and what they do not say themselves.
type application struct {
	name string // of the file, and of the namespace
	// calls are addresses that the code of a Deployment calls without its environment saying so.
	calls map[string][]string
}

// pair is a Deployment and an address, host:port, that it calls.
type pair struct{ from, to string }

func (p pair) service() string {
	service, _, _ := strings.Cut(p.to, ":")
	return service
}

// deployment is one with a stand-in.
type deployment struct {
	container string
	port      int               // where the stand-in tells about its calls
	labels    map[string]string // of its pods
}

// stood is an application with stand-ins.
type stood struct {
	application
	objects     []*kyaml.RNode
	probes      int // that stay
	deployments map[string]deployment
	services    map[string]corev1.Service
	pairs       []pair
	nowhere     []pair // to addresses that no Service of the application has
}

// stand replaces the images. All that is changed:
//   - image and pull policy: the stand-in, which is on the node. With it go command and args, which are of the image.
//   - env: what the stand-in must know is added, nothing is taken away.
//   - init containers: a shell script that waits for an address of its environment is the stand-in that does.
//   - resource requests: 5m, 16Mi, since twelve Deployments ask for more than two cores have. Limits stay.
//   - probes: exec probes, which are of the image, are dropped (neither application has one). HTTP, TCP and gRPC ones
//     stay, but start at once, and readiness probes run every second: the originals wait up to 20 s for a JVM.
//
// Service accounts, security contexts, volumes, ports, labels and annotations stay as they are. So does a Service of
// type LoadBalancer: here nobody gives it an address, and its NodePort works.
func (a application) stand(t *testing.T, manifests []byte) *stood {
	t.Helper()
	nodes, err := (&kio.ByteReader{Reader: bytes.NewReader(manifests), OmitReaderAnnotations: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	s := &stood{application: a, deployments: map[string]deployment{}, services: map[string]corev1.Service{}}
	for _, n := range nodes {
		if n.GetKind() == "Service" {
			var service corev1.Service
			if err := yaml.Unmarshal([]byte(n.MustString()), &service); err != nil {
				t.Fatal(err)
			}
			s.services[service.Name] = service
		}
	}
	for _, n := range nodes {
		if n.GetKind() == "Deployment" {
			if err := s.standIn(n); err != nil {
				t.Fatalf("%s: Deployment %s: %v", a.name, n.GetName(), err)
			}
		}
	}
	s.objects = nodes
	return s
}

// manifests are the objects with their stand-ins.
func (s *stood) manifests(t *testing.T) string {
	t.Helper()
	text, err := kio.StringAll(s.objects)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// annotate sets an annotation of a Deployment's pods.
func (s *stood) annotate(t *testing.T, deployment, key, value string) {
	t.Helper()
	for _, object := range s.objects {
		if object.GetKind() == "Deployment" && object.GetName() == deployment {
			if err := object.PipeE(kyaml.LookupCreate(kyaml.MappingNode, "spec", "template", "metadata", "annotations"), kyaml.SetField(key, node(value))); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// hostPort finds the addresses in an environment, on its own: the stand-in is not asked whom it thinks it should call.
var hostPort = regexp.MustCompile(`^([a-z][a-z0-9-]*):([0-9]+)$`)

// standIn replaces the images of one Deployment.
func (s *stood) standIn(object *kyaml.RNode) error {
	spec, err := object.Pipe(kyaml.Lookup("spec", "template", "spec"))
	if err != nil {
		return err
	}
	containers, err := spec.Pipe(kyaml.Lookup("containers"))
	if err != nil {
		return err
	}
	if n := len(containers.Content()); n != 1 {
		return fmt.Errorf("%d containers: this test knows Deployments with one", n)
	}
	var typed appsv1.Deployment
	if err := yaml.Unmarshal([]byte(object.MustString()), &typed); err != nil {
		return err
	}
	s.deployments[typed.Name] = deployment{labels: typed.Spec.Template.Labels}
	if err := containers.VisitElements(func(c *kyaml.RNode) error { return s.container(typed.Name, c) }); err != nil {
		return err
	}
	inits, err := spec.Pipe(kyaml.Lookup("initContainers"))
	if err != nil || inits == nil {
		return err
	}
	return inits.VisitElements(func(c *kyaml.RNode) error {
		called := addresses(c)
		if len(called) == 0 {
			return fmt.Errorf("an init container that calls nobody: this test does not know what would take its place")
		}
		args := []string{"call", "--retries", "200"} // the script tries for 2 min as well
		for _, address := range called {
			args = append(args, "http://"+address+"/")
		}
		return replaceImage(c, args)
	})
}

// container turns an app container into `app standin`.
func (s *stood) container(name string, c *kyaml.RNode) error {
	var typed corev1.Container
	if err := yaml.Unmarshal([]byte(c.MustString()), &typed); err != nil {
		return err
	}
	d := s.deployments[name]
	d.container, d.port = typed.Name, callsPort
	var listens []string
	for _, port := range typed.Ports {
		d.port = int(port.ContainerPort)
		listens = append(listens, strconv.Itoa(d.port))
	}
	if len(listens) == 0 {
		listens = []string{strconv.Itoa(d.port)}
	}
	s.deployments[name] = d
	for _, address := range append(addresses(c), s.calls[name]...) {
		p := pair{name, address}
		if _, known := s.services[p.service()]; known {
			s.pairs = append(s.pairs, p)
		} else {
			s.nowhere = append(s.nowhere, p)
		}
	}
	for _, env := range [][2]string{{"STANDIN_PORTS", strings.Join(listens, ",")}, {"STANDIN_CALLS", strings.Join(s.calls[name], ",")}, {"MARKER", marker}} {
		entry := node(map[string]string{"name": env[0], "value": env[1]})
		if err := c.PipeE(kyaml.LookupCreate(kyaml.SequenceNode, "env"), kyaml.Append(entry.YNode())); err != nil {
			return err
		}
	}
	for _, probe := range []string{"readinessProbe", "livenessProbe", "startupProbe"} {
		if err := s.quicken(c, probe); err != nil {
			return err
		}
	}
	return replaceImage(c, []string{"standin"})
}

// addresses are the values host:port of a container's environment, each once.
func addresses(c *kyaml.RNode) []string {
	var typed corev1.Container
	if err := yaml.Unmarshal([]byte(c.MustString()), &typed); err != nil {
		return nil
	}
	found := map[string]bool{}
	for _, env := range typed.Env {
		if hostPort.MatchString(env.Value) {
			found[env.Value] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func replaceImage(c *kyaml.RNode, args []string) error {
	err := c.PipeE(kyaml.Clear("command"))
	for field, value := range map[string]any{"image": appImage, "imagePullPolicy": "Never", "args": args} {
		if err == nil {
			err = c.PipeE(kyaml.SetField(field, node(value)))
		}
	}
	if err != nil {
		return err
	}
	requests, err := c.Pipe(kyaml.Lookup("resources", "requests"))
	if err != nil || requests == nil {
		return err
	}
	return c.PipeE(kyaml.Lookup("resources"), kyaml.SetField("requests", node(map[string]string{"cpu": "5m", "memory": "16Mi"})))
}

// node is a value as YAML, with its quotes where text would be taken for a number.
func node(value any) *kyaml.RNode {
	text, err := yaml.Marshal(value)
	if err != nil {
		panic(err) // maps, lists and texts of this file
	}
	return kyaml.MustParse(string(text))
}

// quicken lets a probe start at once, and a readiness probe run every second.
func (s *stood) quicken(c *kyaml.RNode, name string) error {
	probe, err := c.Pipe(kyaml.Lookup(name))
	if err != nil || probe == nil {
		return err
	}
	if probe.Field("exec") != nil {
		return c.PipeE(kyaml.Clear(name))
	}
	s.probes++
	if err := probe.PipeE(kyaml.Clear("initialDelaySeconds")); err != nil || name != "readinessProbe" {
		return err
	}
	return probe.PipeE(kyaml.SetField("periodSeconds", node(1)))
}

// read is the manifests of an application, from outside the repository: they are the work of others.
func (a application) read(t *testing.T) []byte {
	t.Helper()
	manifests, err := os.ReadFile(filepath.Join(env.Corpus(t), a.name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return manifests
}
