//go:build e2e && linux

package corpus

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/test/app/load"
	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
)

// TestCorpus deploys each application once; the steps look at it from several sides.
func TestCorpus(t *testing.T) {
	applications := []application{
		{name: "bookinfo", calls: map[string][]string{ // as its code does: version 1 of reviews shows no stars
			"productpage-v1": {"details:9080", "reviews:9080"},
			"reviews-v2":     {"ratings:9080"},
			"reviews-v3":     {"ratings:9080"},
		}},
		{name: "online-boutique"},
	}
	deployOutside(t)
	for _, a := range applications {
		t.Run(a.name, func(t *testing.T) {
			s := a.stand(t, a.read(t))
			s.wantCalled(t)
			e := s.deploy(t)
			t.Run("authorization is the default", s.testDefaults)
			before := s.waitForCalls(t, nil, 1)
			t.Run("rewritten probes pass", s.testProbes)
			t.Run("calls are encrypted", s.testEncryption)
			t.Run("proxies count mutual TLS alone", s.testMetrics)
			t.Run("servers saw who called", s.testIdentities)
			t.Run("strangers are refused", s.testStrangers)
			s.wantNoFailures(t, before, s.waitForCalls(t, before, 1))
			stage.WantNoRestarts(t, stage.Pods(t, s.name, ""))
			if _, ok := s.services["frontend-external"]; ok {
				t.Run("people outside reach the frontend once it is permissive", func(t *testing.T) { s.testPermissive(t, e) })
			}
		})
	}
}

// wantCalled wants that somebody calls each Service, so that a manifest whose environment this test does not understand
// fails. The page is called by people.
func (s *stood) wantCalled(t *testing.T) {
	t.Helper()
	for name := range s.services {
		called := slices.ContainsFunc(s.pairs, func(p pair) bool { return p.service() == name })
		if !called && name != "productpage" && name != "frontend-external" {
			t.Errorf("nobody calls %s: pairs are %v", name, s.pairs)
		}
	}
	t.Logf("%d Deployments, %d Services, %d pairs %v; addresses of nobody: %v", len(s.deployments), len(s.services), len(s.pairs), s.pairs, s.nowhere)
}

// deploy renders and applies the application, and waits until all of it is Ready.
func (s *stood) deploy(t *testing.T) *example.Example {
	t.Helper()
	stage.NewNamespace(t, s.name)
	e := stage.Package(t, s.name, s.manifests(t), "")
	e.Issue(t, time.Now())
	stage.Must(t, e.IdentitySecret(s.name), "apply", "-f", "-")
	rendered := stage.Render(t, e)
	started := time.Now()
	stage.Must(t, rendered, "apply", "-f", "-")
	for _, name := range slices.Sorted(maps.Keys(s.deployments)) {
		stage.Rollout(t, s.name, "deployment/"+name)
	}
	t.Logf("all Ready after %v", time.Since(started).Round(time.Second))
	s.waitForListeners(t)
	return e
}

// waitForListeners waits until every app listens. Bookinfo has no probes: there Ready says that a process was started,
// no more, and a call that comes sooner fails as it would without a mesh.
func (s *stood) waitForListeners(t *testing.T) {
	t.Helper()
	for name, d := range s.deployments {
		stage.Must(t, "", "-n", s.name, "exec", "deployment/"+name, "-c", d.container, "--", "/app", "call", "--retries", "60", fmt.Sprintf("http://localhost:%d/healthz", d.port))
	}
}

// testDefaults wants the mesh map to be that of a config that says nothing about who may call whom.
func (s *stood) testDefaults(t *testing.T) {
	mesh, err := meshmap.Parse([]byte(stage.State(t, s.name, api.MeshFile)))
	if err != nil {
		t.Fatal(err)
	}
	in := mesh.Inbound
	if in.Mode != meshmap.Strict || in.Default != meshmap.AllowMesh || in.DryRun || len(in.Policy) > 0 || mesh.Outbound.Unknown != meshmap.Passthrough {
		t.Errorf("the map is not the default: inbound %+v, outbound %+v", in, mesh.Outbound)
	}
	var got, want []string
	for _, service := range mesh.Services {
		got = append(got, service.Host)
	}
	for name := range s.services {
		want = append(want, s.host(name))
	}
	slices.Sort(want)
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("Services of the mesh:\ngot  %v\nwant %v", got, want)
	}
}

func (s *stood) host(service string) string { return service + "." + s.name + ".svc.cluster.local" }

// outcomes asks every stand-in what came of its calls. They are asked from within their containers, since their ports
// are Strict.
func (s *stood) outcomes(t *testing.T) map[pair]load.Stats {
	t.Helper()
	all := map[pair]load.Stats{}
	asked := map[string]map[string]load.Stats{}
	for _, p := range slices.Concat(s.pairs, s.nowhere) {
		if asked[p.from] == nil {
			d := s.deployments[p.from]
			a := stage.Call(t, s.name, "deployment/"+p.from, d.container, fmt.Sprintf("http://localhost:%d/calls", d.port))[0]
			var targets map[string]load.Stats
			if err := json.Unmarshal([]byte(a.Body), &targets); err != nil {
				t.Fatalf("%s told %+v: %v", p.from, a, err)
			}
			asked[p.from] = targets
		}
		o, ok := asked[p.from]["http://"+p.to+"/"]
		if !ok {
			t.Fatalf("the stand-in of %s does not call %s, only %v", p.from, p.to, asked[p.from])
		}
		all[p] = o
	}
	return all
}

// waitForCalls waits until every pair has talked so many times more than before.
func (s *stood) waitForCalls(t *testing.T, before map[pair]load.Stats, more int) (now map[pair]load.Stats) {
	t.Helper()
	stage.Poll(t, 2*time.Minute, func() error {
		now = s.outcomes(t)
		var silent []error
		for _, p := range s.pairs {
			if now[p].Answered() < before[p].Answered()+more {
				silent = append(silent, fmt.Errorf("%s does not get through to %s: %+v, before %+v", p.from, p.to, now[p], before[p]))
			}
		}
		return errors.Join(silent...)
	})
	return now
}

// wantNoFailures wants no call between the two to have failed, and none to nobody to have got through.
func (s *stood) wantNoFailures(t *testing.T, before, after map[pair]load.Stats) {
	t.Helper()
	total := 0
	for _, p := range s.pairs {
		total += after[p].Answered() - before[p].Answered()
		if after[p].Failed > before[p].Failed {
			t.Errorf("%s to %s: %d calls failed after all were ready; of all, %s", p.from, p.to, after[p].Failed-before[p].Failed, after[p])
		}
	}
	for _, p := range s.nowhere {
		if after[p].Answered() > 0 {
			t.Errorf("%s called %s, which is not there: %+v", p.from, p.to, after[p])
		}
	}
	t.Logf("%d calls between %d pairs, none failed", total, len(s.pairs))
}

// pods are the pods of the application by Deployment.
func (s *stood) pods(t *testing.T) map[string]corev1.Pod {
	t.Helper()
	list := stage.Pods(t, s.name, "")
	pods := map[string]corev1.Pod{}
	for _, pod := range list {
		replicaSet := strings.TrimSuffix(pod.Name, pod.Name[strings.LastIndex(pod.Name, "-"):])
		pods[replicaSet[:strings.LastIndex(replicaSet, "-")]] = pod
	}
	if len(pods) != len(s.deployments) || len(list) != len(pods) {
		t.Fatalf("%d pods of %d Deployments, want one of each of %d", len(list), len(pods), len(s.deployments))
	}
	return pods
}

// behind are the Deployments that a Service selects.
func (s *stood) behind(service string) []string {
	var selected []string
	for name, d := range s.deployments {
		matches := true
		for key, value := range s.services[service].Spec.Selector {
			matches = matches && d.labels[key] == value
		}
		if matches {
			selected = append(selected, name)
		}
	}
	slices.Sort(selected)
	return selected
}

// testProbes asks the proxies for every probe that they perform in place of the kubelet.
func (s *stood) testProbes(t *testing.T) {
	var urls []string
	for name, pod := range s.pods(t) {
		if !stage.IsReady(pod) {
			t.Errorf("%s is not Ready", pod.Name)
		}
		for _, c := range pod.Spec.Containers {
			for kind, probe := range map[string]*corev1.Probe{"readiness": c.ReadinessProbe, "liveness": c.LivenessProbe, "startup": c.StartupProbe} {
				if probe == nil {
					continue
				}
				if probe.HTTPGet == nil || probe.HTTPGet.Port.IntValue() != api.HealthPort {
					t.Errorf("the %s probe of %s goes past the proxy: %+v", kind, name, probe.ProbeHandler)
					continue
				}
				urls = append(urls, fmt.Sprintf("http://%s:%d%s", pod.Status.PodIP, api.HealthPort, probe.HTTPGet.Path))
			}
		}
	}
	if len(urls) != s.probes {
		t.Errorf("%d probes were rewritten, the manifests have %d", len(urls), s.probes)
	}
	for _, got := range fromOutside(t, urls) {
		if got.Status != 200 {
			t.Errorf("probe %s: status %d, error %q: %s", got.URL, got.Status, got.Error, got.Body)
		}
	}
	t.Logf("%d probes pass", len(urls))
}
