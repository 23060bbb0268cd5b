package kernel

import (
	"fmt"
	"strings"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/example"
)

// talkApp is the container of the matrix's pods: `app talk`.
const talkApp = "talk"

// probedPort is open in every pod of the matrix and belongs to no cell.
const probedPort = 20000

// matrixManifests are the workloads as a user writes them. Those called plain are rendered by the same function and opt
// out.
func matrixManifests(cells []cell) string {
	var out strings.Builder
	for _, s := range []side{captured, plain} {
		annotations := api.InjectAnnotation + ": disabled"
		ports := portsOf(outOfMesh)
		if s == captured {
			annotations = fmt.Sprintf("%s: %q, %s: %q", api.PermissivePortsAnnotation, portsOf(permissive), api.ExcludeInboundPortsAnnotation, portsOf(excluded))
			ports = strings.Join([]string{portsOf(strict), portsOf(permissive), portsOf(excluded)}, ",")
		}
		ports = fmt.Sprintf("%d,%s", probedPort, ports)
		fmt.Fprint(&out,
			workload("Deployment", s.String()+"-client", annotations, fmt.Sprint(probedPort), ""),
			workload("Deployment", s.String(), annotations, ports, ""),
			service(s.String(), s.String(), "ipFamilyPolicy: PreferDualStack", servicePorts(cells, s, clusterIP, ownVIP)),
			workload("StatefulSet", s.String()+"-set", annotations, ports, "serviceName: "+s.String()+"-set"),
			service(s.String()+"-set", s.String()+"-set", "clusterIP: None", servicePorts(cells, s, headless)),
		)
	}
	return out.String()
}

func workload(kind, name, annotations, ports, more string) string {
	return fmt.Sprintf(`---
apiVersion: apps/v1
kind: %s
metadata: {name: %s, namespace: matrix}
spec:
  %s
  selector: {matchLabels: {app: %[2]s}}
  template:
    metadata:
      labels: {app: %[2]s}
      annotations: {%[4]s}
    spec:
      containers:
        - name: %s
          image: %s
          args: [talk, %q]
          readinessProbe: {tcpSocket: {port: %d}}
          securityContext: {runAsUser: 10003, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`, kind, name, more, annotations, talkApp, example.AppImage, ports, probedPort)
}

func service(name, app, more, ports string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: matrix}
spec:
  %s
  selector: {app: %s}
  ports: [%s]
`, name, more, app, ports)
}

// servicePorts are the ports of the cells that lead through a Service.
func servicePorts(cells []cell, server side, kinds ...kind) string {
	var ports []string
	for _, c := range cells {
		for _, k := range kinds {
			if c.kind == k && c.mode.side() == server {
				ports = append(ports, fmt.Sprintf("{name: p%d, port: %[1]d, targetPort: %[1]d}", c.port))
			}
		}
	}
	return strings.Join(ports, ", ")
}
