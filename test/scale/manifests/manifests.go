// Package manifests writes packages of any size that look like what teams keep in Git: Deployments with probes,
// environment, volumes and resources, a Service and a ConfigMap each, spread over namespaces. The text depends on its
// numbers alone, so that every run measures the same.
package manifests

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// application is one workload with what belongs to it: number, namespace.
const application = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: app-%[1]d
  namespace: %[2]s
  labels:
    app.kubernetes.io/name: app-%[1]d
    app.kubernetes.io/part-of: scale
spec:
  replicas: 2
  selector:
    matchLabels:
      app.kubernetes.io/name: app-%[1]d
  template:
    metadata:
      labels:
        app.kubernetes.io/name: app-%[1]d
        app.kubernetes.io/part-of: scale
    spec:
      containers:
      - name: app
        image: registry.example.com/team/app-%[1]d:1.4.2
        ports:
        - name: http
          containerPort: 8080
        - name: metrics
          containerPort: 9090
        env:
        - name: LOG_LEVEL
          value: info
        - name: PEER
          value: http://app-0.%[2]s.svc:80
        envFrom:
        - configMapRef:
            name: app-%[1]d
        resources:
          requests:
            cpu: 100m
            memory: 128Mi
          limits:
            memory: 256Mi
        livenessProbe:
          httpGet:
            path: /livez
            port: http
          periodSeconds: 10
        readinessProbe:
          httpGet:
            path: /readyz
            port: http
          periodSeconds: 5
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          runAsNonRoot: true
          runAsUser: 10001
        volumeMounts:
        - name: tmp
          mountPath: /tmp
      volumes:
      - name: tmp
        emptyDir: {}
---
apiVersion: v1
kind: Service
metadata:
  name: app-%[1]d
  namespace: %[2]s
  labels:
    app.kubernetes.io/name: app-%[1]d
spec:
  selector:
    app.kubernetes.io/name: app-%[1]d
  ports:
  - name: http
    port: 80
    targetPort: http
  - name: metrics
    port: 9090
    targetPort: metrics
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: app-%[1]d
  namespace: %[2]s
data:
  DATABASE_URL: postgres://db.%[2]s.svc:5432/app-%[1]d
  app.properties: |
    server.port=8080
    server.shutdown=graceful
    feature.new-checkout=true
    cache.ttl=300s
`

// Objects is how many objects a workload comes with, itself among them.
const Objects = 3

// Config is a functionConfig. The recipients' identities were thrown away.
const Config = `apiVersion: meshless.dev/v1alpha1
kind: MutualTLS
metadata:
  name: mtls
  annotations:
    config.kubernetes.io/local-config: "true"
    config.kubernetes.io/function: |
      exec: {path: %s}
spec:
  sealing:
    recipients: [age1p2l8u0heu4vweyjh2zu2n2he6jtlt5xdpc8kvy9xswlzcz7gyews8q0z9m]
  certificates:
    ca: {recipients: [age1zyywgcj9gc7cdfs6dyxm4h8us3t7xltulxy7nj9lz5xf37y8c9uspcg87h]}
`

// Namespace is that of a workload by its number.
func Namespace(i, namespaces int) string { return fmt.Sprintf("team-%d", i%namespaces) }

// Application is the YAML of one workload with its Service and its ConfigMap.
func Application(i, namespaces int) string {
	return fmt.Sprintf(application, i, Namespace(i, namespaces))
}

// WriteResourceList writes what kpt hands to a function: items that say which file they came from, so that the function
// issues.
func WriteResourceList(w io.Writer, n, namespaces int) error {
	if _, err := io.WriteString(w, "apiVersion: config.kubernetes.io/v1\nkind: ResourceList\nitems:\n"); err != nil {
		return err
	}
	for i := range n {
		for index, object := range strings.Split(Application(i, namespaces), "---\n") {
			object = strings.Replace(object, "\nmetadata:\n", fmt.Sprintf(
				"\nmetadata:\n  annotations:\n    internal.config.kubernetes.io/path: app-%d.yaml\n    internal.config.kubernetes.io/index: '%d'\n", i, index), 1)
			if err := writeIndented(w, "- ", object); err != nil {
				return err
			}
		}
	}
	if _, err := io.WriteString(w, "functionConfig:\n"); err != nil {
		return err
	}
	return writeIndented(w, "  ", fmt.Sprintf(Config, "meshless"))
}

// writeIndented writes lines two further in, the first after a mark of two characters.
func writeIndented(w io.Writer, mark, text string) error {
	text = strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n  ")
	_, err := io.WriteString(w, mark+text+"\n")
	return err
}

// WriteKustomization writes a folder that kustomize builds: a file for each workload, and, where function names the
// program of meshless, a MutualTLS that calls it.
func WriteKustomization(folder string, n, namespaces int, function string) error {
	var k strings.Builder
	k.WriteString("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n")
	for i := range n {
		name := fmt.Sprintf("app-%d.yaml", i)
		fmt.Fprintf(&k, "- %s\n", name)
		if err := os.WriteFile(filepath.Join(folder, name), []byte(Application(i, namespaces)), 0o644); err != nil {
			return err
		}
	}
	if function != "" {
		k.WriteString("- mtls\ntransformers:\n- mtls.yaml\n")
		if err := WriteConfig(folder, function); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte(k.String()), 0o644)
}

// WriteConfig writes the MutualTLS of WriteKustomization, which names the program that kustomize runs.
func WriteConfig(folder, function string) error {
	return os.WriteFile(filepath.Join(folder, "mtls.yaml"), fmt.Appendf(nil, Config, function), 0o644)
}
