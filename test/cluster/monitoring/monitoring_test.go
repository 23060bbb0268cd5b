//go:build e2e && linux

package monitoring

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/program"
)

const (
	namespace = "monitoring-app"
	ours      = "monitoring" // where the example is
)

// apps are two that are scraped: web by its Service, and alone, which has none, by its annotations. The client asks
// Prometheus.
const apps = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: monitoring-app}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {meshless.dev/strict-ports: "8080"}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 7
      containers:
        - name: app
          image: meshless-test/app:latest
          imagePullPolicy: IfNotPresent
          args: [serve, --port, "8080"]
          ports: [{containerPort: 8080}]
          readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: monitoring-app, annotations: {prometheus.io/scrape: "true"}}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: alone, namespace: monitoring-app}
spec:
  selector: {matchLabels: {app: alone}}
  template:
    metadata: {labels: {app: alone}, annotations: {prometheus.io/scrape: "true", prometheus.io/port: "8080", meshless.dev/strict-ports: "8080"}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 7
      containers:
        - name: app
          image: meshless-test/app:latest
          imagePullPolicy: IfNotPresent
          args: [serve, --port, "8080"]
          ports: [{containerPort: 8080}]
          readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: monitoring-app, labels: {app: client}}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 7
  containers: [{name: client, image: "meshless-test/app:latest", imagePullPolicy: IfNotPresent, args: [serve]}]
`

// TestPrometheus waits until each kind of target is scraped, and looks at how.
func TestPrometheus(t *testing.T) {
	program.Find(t, "prometheus", "test/cluster/monitoring/prometheus.sh builds it, and test/up.sh makes an image of it")
	stage.NewNamespace(t, namespace)
	stage.NewNamespace(t, ours)
	t.Cleanup(func() {
		for _, kind := range []string{"clusterrole", "clusterrolebinding"} {
			if _, err := stage.Kubectl("", "delete", kind, "prometheus", "--ignore-not-found"); err != nil {
				t.Error(err)
			}
		}
	})
	wire := stage.WatchWire(t, namespace, "app_requests_total") // in each answer of an app
	deploy(t)
	stage.Rollout(t, ours, "deployment/prometheus")
	stage.Rollout(t, namespace, "deployment/web", "deployment/alone")
	stage.Ready(t, namespace, "pod/client")
	wantTargets(t, `up{job="services",service="web"}`, 2)
	wantTargets(t, `up{job="pods",namespace="monitoring-app"}`, 1)
	wantTargets(t, `up{job="meshless",namespace=~"monitoring.*"}`, 5) // of web, alone, client and Prometheus itself
	wantTargets(t, `app_requests_total >= bool 0`, 3)
	for _, pod := range stage.Pods(t, namespace, "app in (web,alone)") {
		if stage.OpenedBy(t, namespace, pod.Name, "inbound", "mutual_tls") == 0 {
			t.Errorf("%s was not scraped by mutual TLS", pod.Name)
		}
		if n := stage.OpenedBy(t, namespace, pod.Name, "inbound", "plaintext"); n > 0 {
			t.Errorf("%s took %v connections in the clear", pod.Name, n)
		}
	}
	wire.WantSecret(t)
}

// deploy makes the example a part of a mesh of two namespaces. Image and period are those of a test.
func deploy(t *testing.T) {
	t.Helper()
	e := example.Copy(t, "../../../examples/pod")
	e.Edit(t, "pod.yaml", func(string) string { return apps })
	if err := os.CopyFS(filepath.Join(e.Dir, "prometheus"), os.DirFS("../../../examples/monitoring/prometheus")); err != nil {
		t.Fatal(err)
	}
	e.Replace(t, "kustomization.yaml", "resources: [pod.yaml,", "resources: [pod.yaml, prometheus,")
	e.Edit(t, "prometheus/prometheus.yaml", func(text string) string {
		image := "image: meshless-test/prometheus:latest\n          imagePullPolicy: Never\n"
		return strings.Replace(text, "image: prom/prometheus:v3.8.1\n", image, 1)
	})
	e.Replace(t, "prometheus/prometheus.yml", "scrape_interval: 15s", "scrape_interval: 1s")
	e.Issue(t, time.Now())
	for _, ns := range []string{namespace, ours} {
		stage.Must(t, e.IdentitySecret(ns), "apply", "-f", "-")
	}
	stage.Must(t, stage.Render(t, e), "apply", "--validate=strict", "-f", "-")
}

// wantTargets waits until the query has so many series, each with the value 1. The client asks by the Service.
func wantTargets(t *testing.T, query string, n int) {
	t.Helper()
	stage.Poll(t, 40*time.Second, func() error {
		answer := stage.Call(t, namespace, "client", "client", "http://prometheus."+ours+":9090/api/v1/query?query="+url.QueryEscape(query))[0]
		var found struct {
			Data struct {
				Result []struct {
					Metric map[string]string
					Value  [2]any
				}
			}
		}
		if err := json.Unmarshal([]byte(answer.Body), &found); err != nil {
			return fmt.Errorf("%s: %+v", query, answer)
		}
		up := 0
		for _, series := range found.Data.Result {
			if series.Value[1] == "1" {
				up++
			}
		}
		if up != n || len(found.Data.Result) != n {
			return fmt.Errorf("%s: %d of %d are up, want %d: %s", query, up, len(found.Data.Result), n, answer.Body)
		}
		return nil
	})
}
