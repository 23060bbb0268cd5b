package kernel

import (
	"fmt"
	"strings"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/app/talk"
	"github.com/meshless-dev/meshless/test/example"
)

// form is how traffic gets to a pod's proxy.
type form string

const (
	ruled  form = "ruled"  // by rules
	direct form = "direct" // without (docs/no-redirect.md)
)

var forms = []form{ruled, direct}

// directCell is a conversation between two pods, of which one at least has no redirect rules.
type directCell struct {
	client, server form
	headless       bool // dialed at the pod, not at the clusterIP
	pattern        talk.Pattern
	port           int // of the app; each cell has its own, by which reports, logs and marks know it
}

// Ports of the pods. Above 10,000 they could be those where a proxy takes what is for the app.
const (
	firstDirect = 6000 // of the cells
	viaService  = 1000 // a Service has so much higher ones
	talkProbed  = 6400 // open at servers, and of no cell
	firstPeer   = 6500 // of peers, which listen at their own addresses
	firstLegacy = 6700 // outside of the mesh
	idlePort    = 8090 // of clients and peers, that nobody dials
	storePort   = 5433 // of the Service db, which leads to 5432
)

func (c directCell) String() string {
	way := "clusterIP"
	if c.headless {
		way = "headless"
	}
	return fmt.Sprintf("%s to %s/%s/%s", c.client, c.server, way, c.pattern)
}

// service is the name that the client looks up, and its port.
func (c directCell) service() (name string, port uint16) {
	if c.headless {
		return string(c.server) + "-all", uint16(c.port)
	}
	return string(c.server), uint16(c.port + viaService)
}

// directCells are all of them. Two pods with rules are the matrix's.
func directCells() (cells []directCell) {
	block := 0
	for _, client := range forms {
		for _, server := range forms {
			for _, headless := range []bool{false, true} {
				if client == ruled && server == ruled {
					continue
				}
				for _, pattern := range talk.Patterns {
					cells = append(cells, directCell{client, server, headless, pattern, firstDirect + block*talk.Ports + int(pattern)})
				}
				block++
			}
		}
	}
	return cells
}

// directManifests are the workloads: servers in one namespace, clients in another, and what looks up names by itself.
func directManifests() string {
	var out strings.Builder
	for _, f := range forms {
		ports := []string{fmt.Sprint(talkProbed)}
		var atPod, atService []string
		for _, c := range directCells() {
			if c.server != f {
				continue
			}
			ports = append(ports, fmt.Sprint(c.port))
			if c.headless {
				atPod = append(atPod, fmt.Sprintf("{name: p%d, port: %[1]d}", c.port))
			} else {
				atService = append(atService, fmt.Sprintf("{name: p%d, port: %d, targetPort: %[1]d}", c.port, c.port+viaService))
			}
		}
		out.WriteString(f.workload("Deployment", dataNamespace, string(f), "args: [talk, \""+strings.Join(ports, ",")+"\"]", ports...))
		out.WriteString(directService(dataNamespace, string(f), string(f), "ipFamilyPolicy: PreferDualStack", atService...))
		out.WriteString(directService(dataNamespace, string(f)+"-all", string(f), "clusterIP: None", atPod...))
		out.WriteString(f.workload("Deployment", shopNamespace, string(f)+"-client", fmt.Sprintf("args: [serve, --port, %q]", fmt.Sprint(idlePort)), fmt.Sprint(idlePort)))
	}
	var ports, atPod []string
	for _, pattern := range talk.Patterns {
		ports = append(ports, fmt.Sprint(firstPeer+int(pattern)))
		atPod = append(atPod, fmt.Sprintf("{name: p%d, port: %[1]d}", firstPeer+int(pattern)))
	}
	// All ports of the pod are reached by its name, so all have to be at the pod's address alone.
	own := fmt.Sprintf("args: [db]\n          env: [{name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}, {name: LISTEN, value: \"$(POD_IP):%d\"}]", idlePort)
	out.WriteString(direct.workload("StatefulSet", dataNamespace, "peers", own, append([]string{fmt.Sprint(idlePort)}, ports...)...))
	out.WriteString(directService(dataNamespace, "peers", "peers", "clusterIP: None", atPod...))
	out.WriteString(ruled.workload("Deployment", dataNamespace, "db", "args: [db]", "5432"))
	out.WriteString(directService(dataNamespace, "db", "db", "", fmt.Sprintf("{port: %d, targetPort: 5432}", storePort)))
	app := direct.workload("Deployment", shopNamespace, "api", fmt.Sprintf("args: [api]\n          env: [{name: DB_ADDR, value: %q}]", fmt.Sprintf("db.%s:%d", dataNamespace, storePort)), "8080")
	out.WriteString(strings.Replace(app, "tcpSocket: {port: 8080}", "httpGet: {path: /readyz, port: 8080}, timeoutSeconds: 5", 1))
	out.WriteString(directService(shopNamespace, "api", "api", "", "{port: 80, targetPort: 8080}"))
	http := direct.workload("Deployment", dataNamespace, "modes", `args: [serve, --port, "8081", --port, "8082", --port, "8083"]`, "8083", "8082", "8081")
	out.WriteString(annotated(http, api.PermissivePortsAnnotation+`: "8081", `+api.ExcludeInboundPortsAnnotation+`: "8082"`))
	out.WriteString(directService(dataNamespace, "modes", "modes", "", "{name: permissive, port: 81, targetPort: 8081}", "{name: excluded, port: 82, targetPort: 8082}", "{name: strict, port: 83, targetPort: 8083}"))
	inside := direct.workload("Deployment", dataNamespace, "inside", `args: [db]
          env: [{name: LISTEN, value: "127.0.0.1:5432"}]`, "5432")
	out.WriteString(annotated(inside, api.AppAddressAnnotation+": Loopback"))
	out.WriteString(directService(dataNamespace, "inside", "inside", "", "{port: 5432}"))
	return out.String()
}

// annotated puts annotations beside those of a workload's pods.
func annotated(workload, annotations string) string {
	return strings.Replace(workload, "annotations: {", "annotations: {"+annotations+", ", 1)
}

// workload is one of test/app, which PodSecurity `restricted` lets in.
func (f form) workload(kind, namespace, name, does string, ports ...string) string {
	more, annotation := "", ""
	if kind == "StatefulSet" {
		more = "\n  serviceName: " + name
	}
	if f == direct {
		annotation = api.RedirectAnnotation + ": None"
	}
	var list []string
	for _, port := range ports {
		list = append(list, fmt.Sprintf("{containerPort: %s}", port))
	}
	return fmt.Sprintf(`---
apiVersion: apps/v1
kind: %s
metadata: {name: %s, namespace: %s}
spec:%s
  selector: {matchLabels: {app: %[2]s}}
  template:
    metadata:
      labels: {app: %[2]s}
      annotations: {%[5]s}
    spec:
      containers:
        - name: app
          image: %s
          %s
          ports: [%s]
          readinessProbe: {tcpSocket: {port: %s}}
          securityContext: {runAsNonRoot: true, runAsUser: 10003, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
`, kind, name, namespace, more, annotation, example.AppImage, does, strings.Join(list, ", "), ports[0])
}

func directService(namespace, name, app, more string, ports ...string) string {
	if more != "" {
		more += ", "
	}
	return fmt.Sprintf("---\n{apiVersion: v1, kind: Service, metadata: {name: %s, namespace: %s}, spec: {%sselector: {app: %s}, ports: [%s]}}\n",
		name, namespace, more, app, strings.Join(ports, ", "))
}

// directStrangers have nothing to do with the mesh: a namespace without, and a Service that no manifest of the package
// shows in one with.
func directStrangers() string {
	var ports, services []string
	for _, pattern := range talk.Patterns {
		port := firstLegacy + int(pattern)
		ports, services = append(ports, fmt.Sprint(port)), append(services, fmt.Sprintf("{name: p%d, port: %[1]d}", port))
	}
	return ruled.workload("Deployment", "legacy", "legacy", "args: [talk, \""+strings.Join(ports, ",")+"\"]", ports...) +
		directService("legacy", "legacy", "legacy", "", services...) +
		directService(dataNamespace, "unshown", string(direct), "", "{port: 80, targetPort: 6000}")
}
