package kernel

import (
	"fmt"
	"strings"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/example"
)

// Namespaces of the second matrix: servers are in one; some clients are in others.
const (
	dataNamespace = "data"
	shopNamespace = "shop" // of the package of the servers as well
	farNamespace  = "far"
)

// clientNamespace is where a client lives.
func clientNamespace(client string) string {
	return map[string]string{"one": dataNamespace, "wide": shopNamespace, "beside": dataNamespace, "apart": farNamespace}[client]
}

// reachPort is the port of every server.
const reachPort = 5432

// kindOf is the kind of the server's workload.
func kindOf(s selector) string {
	if s == byPodName || s == byPodIndex {
		return "StatefulSet"
	}
	return "Deployment"
}

// serverManifests are a package's servers: as they are, or as they were when the clients' maps were rendered.
func (w world) serverManifests(pkg string, before bool) string {
	var out strings.Builder
	for _, s := range selectors {
		if w.packageOf(s) == pkg {
			out.WriteString(w.server(s, before))
		}
	}
	if pkg == "servers" {
		out.WriteString(storeWorkload("Deployment", dataNamespace, string(noService), ""))
		out.WriteString(storeWorkload("Deployment", dataNamespace, "optout", api.InjectAnnotation+": disabled"))
		out.WriteString(storeService(dataNamespace, "optout", "selector: {app: optout}", ""))
	}
	return out.String()
}

// server is the workload of one server and its Services, one with a clusterIP and one without.
func (w world) server(s selector, before bool) string {
	name, app := string(s), string(s)
	if before {
		switch w.age(s) {
		case added:
			return ""
		case renamed:
			name += "-was"
		case moved:
			app = string(noService)
		}
	}
	selected := "selector: {app: " + app
	switch {
	case app == string(noService):
		selected += "}"
	case s == byTemplate:
		selected += "}"
	case s == byPodName:
		selected += ", statefulset.kubernetes.io/pod-name: " + name + "-0}"
	case s == byPodIndex:
		selected += `, apps.kubernetes.io/pod-index: "0"}`
	case s == byRole:
		selected += ", role: primary}"
	}
	annotations := ""
	if s == bySomebody {
		selected, annotations = "", api.WorkloadsAnnotation+": "+strings.ToLower(kindOf(s))+"/"+name
		if app == string(noService) {
			annotations = api.WorkloadsAnnotation + ": deployment/" + app
		}
	}
	return storeWorkloadOf(kindOf(s), dataNamespace, name, string(s), "") +
		storeService(dataNamespace, string(s), selected, annotations) +
		storeService(dataNamespace, string(s)+"-all", strings.TrimPrefix(selected+", clusterIP: None", ", "), annotations)
}

// clientManifests is the workload of a client, in whatever package.
func clientManifests(client string) string {
	return storeWorkload("Deployment", clientNamespace(client), client, "")
}

func storeWorkload(kind, namespace, name, annotations string) string {
	return storeWorkloadOf(kind, namespace, name, name, annotations)
}

// storeWorkloadOf runs the shop's db, which greets who connects and answers what it is told.
func storeWorkloadOf(kind, namespace, name, app, annotations string) string {
	more := ""
	if kind == "StatefulSet" {
		more = "\n  serviceName: " + app + "-all"
	}
	return fmt.Sprintf(`---
apiVersion: apps/v1
kind: %s
metadata: {name: %s, namespace: %s}
spec:%s
  selector: {matchLabels: {app: %s}}
  template:
    metadata:
      labels: {app: %[5]s}
      annotations: {%[6]s}
    spec:
      containers:
        - name: db
          image: %s
          args: [db]
          ports: [{containerPort: %d}]
          readinessProbe: {tcpSocket: {port: %[8]d}}
          securityContext: {runAsUser: 10003, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`, kind, name, namespace, more, app, annotations, example.AppImage, reachPort)
}

func storeService(namespace, name, spec, annotations string) string {
	if spec != "" {
		spec += ", "
	}
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: %s, annotations: {%s}}
spec: {%sports: [{port: %d}]}
`, name, namespace, annotations, spec, reachPort)
}

// serversConfig is what the config of the servers' package says beyond the least: a Service that is not in the mesh.
const serversConfig = "  outbound: {plaintextServices: [allowed." + dataNamespace + "]}\n"

// strangers have nothing to do with the mesh: a namespace without, and Services that nobody rendered in one with.
func strangers() string {
	return storeWorkload("Deployment", "legacy", "legacy", "") + storeService("legacy", "legacy", "selector: {app: legacy}", "") +
		storeService("legacy", "legacy-all", "selector: {app: legacy}, clusterIP: None", "") +
		storeWorkload("Deployment", dataNamespace, "stray", "") + storeService(dataNamespace, "stray", "selector: {app: stray}", "") +
		storeService(dataNamespace, "allowed", "selector: {app: stray}", "")
}
