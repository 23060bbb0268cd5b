package lab_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/meshless-dev/meshless/test/lab"
	"github.com/meshless-dev/meshless/test/program"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

const manifests = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: plain}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}, annotations: {note: first}}
    spec:
      containers:
        - name: db
          image: shop
          args: [db]
          ports: [{name: store, containerPort: 5432}]
          readinessProbe: {tcpSocket: {port: store}}
          securityContext: {runAsUser: 10003, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
          volumeMounts: [{name: files, mountPath: /files, readOnly: true}]
      volumes:
        - name: files
          projected:
            sources:
              - secret: {name: s, items: [{key: a, path: renamed}]}
              - configMap: {name: c}
              - downwardAPI: {items: [{path: note, fieldRef: {fieldPath: "metadata.annotations['note']"}}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: plain}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 5432, targetPort: store}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: api, namespace: plain}
spec:
  selector: {matchLabels: {app: api}}
  template:
    metadata: {labels: {app: api}}
    spec:
      containers:
        - name: api
          image: shop
          args: [api]
          env: [{name: DB_ADDR, value: "db:5432"}]
          ports: [{name: http, containerPort: 8080}]
          readinessProbe: {httpGet: {path: /readyz, port: http}, timeoutSeconds: 3}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: plain}
spec: {selector: {app: api}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Secret
metadata: {name: s, namespace: plain}
stringData: {a: alpha, b: beta}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c, namespace: plain}
data: {c: gamma}
`

// startPlain runs the shop's api and db without a mesh.
func startPlain(t *testing.T, options ...lab.Option) (l *lab.Lab, db, client *lab.Pod) {
	t.Helper()
	lab.Require(t)
	l = lab.New(t, map[string]lab.Image{"shop": {Binary: program.Built(t, "test/app"), Entrypoint: "/app", UID: 65534}}, options...)
	apply(t, l, manifests)
	return l, l.StartPod("StatefulSet/plain/db"), l.AddPod("plain", "client")
}

func apply(t *testing.T, l *lab.Lab, text string) {
	t.Helper()
	objects, err := lab.Parse([]byte(text))
	if err == nil {
		err = l.Apply(objects)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The lab's own proof: without a mesh, requests arrive in both families, and the capture sees what they carry.
func TestPlainPods(t *testing.T) {
	l, db, client := startPlain(t)
	api := l.StartPod("Deployment/plain/api")
	for _, family := range []int{4, 6} {
		t.Run(fmt.Sprintf("IPv%d", family), func(t *testing.T) {
			l.OnlyFamily(family)
			capture := l.Capture(db)
			marker := fmt.Sprintf("marker-of-family-%d", family)
			url := "http://" + netip.AddrPortFrom(l.ServiceIP("plain", "api", family), 80).String() + "/orders"
			resp, err := client.HTTP().Post(url, "text/plain", strings.NewReader(marker))
			if err != nil {
				t.Fatal(err)
			}
			answer, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			capture.Stop()
			if resp.StatusCode != 200 || !capture.Contains([]byte(marker)) {
				t.Errorf("status %d (%s), marker seen in the clear: %v, want 200 and true", resp.StatusCode, answer, capture.Contains([]byte(marker)))
			}
			if n := len(capture.Streams(5432, family)); n == 0 {
				t.Errorf("no stream of IPv%d from port 5432", family)
			}
			if capture.Contains([]byte("never sent")) {
				t.Error("capture contains what was never sent")
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	db.Container("db").Kill()
	if err := api.Probe(ctx, "api", "readinessProbe"); err == nil {
		t.Error("api is ready although its db has been killed")
	}
	if codes, err := api.Stop(); err != nil || codes["api"] != 0 {
		t.Errorf("api stopped with %v, %v", codes, err)
	}
}

// A container has the user, the capabilities, the root and the files that its pod says.
func TestContainerIsConfined(t *testing.T) {
	l, db, _ := startPlain(t)
	c := db.Container("db")
	for key, want := range map[string]string{"CapEff": "0000000000000000", "CapBnd": "0000000000000000", "NoNewPrivs": "1", "Uid": "10003\t10003\t10003\t10003"} {
		if got, err := c.Status(key); err != nil || got != want {
			t.Errorf("%s is %q (%v), want %q", key, got, err, want)
		}
	}
	root := fmt.Sprintf("/proc/%d/root", c.PID())
	if err := os.WriteFile(root+"/new", nil, 0o600); err == nil {
		t.Error("the root file system can be written")
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"app", "dev", "etc", "files", "proc"}; !slices.Equal(names, want) {
		t.Errorf("root holds %q, want %q", names, want)
	}
	files := root + "/files/"
	check := func(want map[string]string) {
		t.Helper()
		for name, text := range want {
			if got, err := os.ReadFile(files + name); err != nil || string(got) != text {
				t.Errorf("%s is %q (%v), want %q", name, got, err, text)
			}
		}
	}
	check(map[string]string{"renamed": "alpha", "c": "gamma", "note": "first"})
	before, _ := os.Readlink(files + "..data")
	apply(t, l, strings.ReplaceAll(manifests, "alpha", "omega"))
	check(map[string]string{"renamed": "alpha"}) // until the kubelet's next sync
	if err := db.Sync(); err != nil {
		t.Fatal(err)
	}
	after, _ := os.Readlink(files + "..data")
	check(map[string]string{"renamed": "omega", "c": "gamma"})
	if _, err := os.Stat(files + before); before == after || !os.IsNotExist(err) {
		t.Errorf("..data was %q and is %q (old one: %v), want a swapped directory and the old one gone", before, after, err)
	}
	if _, err := os.Stat(files + "b"); !os.IsNotExist(err) {
		t.Error("a key that items leave out is there")
	}
}

// own is a pod that leaves itself a file and mounts it, sets a sysctl, and has another resolv.conf.
const own = `
apiVersion: v1
kind: Pod
metadata: {name: own, namespace: plain}
spec:
  securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "0"}]}
  initContainers:
    - name: init
      image: init
      args: [resolver]
      securityContext: {runAsUser: 10004, capabilities: {drop: [ALL]}}
      volumeMounts: [{name: shared, mountPath: /var/run/meshless-resolver}]
  containers:
    - name: db
      image: shop
      args: [db]
      env: [{name: PORT, value: "5"}, {name: LISTEN, value: ":$(PORT)"}, {name: OTHER, value: "$(NONE)"}]
      securityContext: {runAsUser: 10003, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
      readinessProbe: {tcpSocket: {port: 5}}
      volumeMounts: [{name: shared, mountPath: /etc/resolv.conf, subPath: resolv.conf, readOnly: true}]
  volumes: [{name: shared, emptyDir: {sizeLimit: 1Mi}}]
`

// A pod's own volume is there for all its users, a file of it takes the place of the kubelet's, and a sysctl lets the
// app listen on a low port without a capability. What the kubelet would make a folder of is an error.
func TestOwnVolumesAndSysctls(t *testing.T) {
	lab.Require(t)
	image := func(pkg, entrypoint string) lab.Image {
		return lab.Image{Binary: program.Built(t, pkg), Entrypoint: entrypoint, UID: 65534}
	}
	l := lab.New(t, map[string]lab.Image{"shop": image("test/app", "/app"), "init": image("cmd/meshless-init", "/init")})
	apply(t, l, own)
	pod := l.StartPod("Pod/plain/own")
	at := fmt.Sprintf("/proc/%d/root/etc/resolv.conf", pod.Container("db").PID())
	text, err := os.ReadFile(at)
	if err != nil || !strings.Contains(string(text), "\nnameserver 127.0.0.53\nsearch plain.svc.cluster.local ") {
		t.Errorf("the app's resolv.conf: %v, %q", err, text)
	}
	if err := os.WriteFile(at, nil, 0o600); err == nil {
		t.Error("the mounted file can be written")
	}
	if environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pod.Container("db").PID())); err != nil || !strings.Contains(string(environ), "OTHER=$(NONE)\x00") {
		t.Errorf("a reference to no variable: %v, %q", err, environ)
	}
	apply(t, l, strings.ReplaceAll(own, "subPath: resolv.conf", "subPath: other"))
	if _, err := l.TryStart("Pod/plain/own", lab.PodOptions{}); err == nil || !strings.Contains(err.Error(), "there is no other in it") {
		t.Errorf("a missing file: got %v", err)
	}
	apply(t, l, strings.ReplaceAll(own, "net.ipv4", "kernel"))
	if _, err := l.TryStart("Pod/plain/own", lab.PodOptions{}); err == nil || !strings.Contains(err.Error(), "the lab knows those of the network only") {
		t.Errorf("another sysctl: got %v", err)
	}
}

// The lab's name server answers as CoreDNS does, which is held against CoreDNS itself; and the versions of CoreDNS that
// clusters run differ in the names that they give to addresses.
func TestNames(t *testing.T) {
	t.Run("lab", func(t *testing.T) { testNames(t, true) })
	for _, version := range lab.CoreDNSVersions {
		t.Run(version, func(t *testing.T) { testNames(t, version != lab.CoreDNS1120, lab.CoreDNS(t, version)) })
	}
}

func testNames(t *testing.T, namesAll bool, options ...lab.Option) {
	l, db, client := startPlain(t, options...)
	apply(t, l, namedManifests)
	web := l.Start("Deployment/plain/web", lab.PodOptions{Unready: true})
	l.SetEndpoints("plain", "by-hand", lab.Endpoint{Pod: db})
	l.SetEndpoints("plain", "outside", lab.Endpoint{IP4: netip.MustParseAddr("192.0.2.7")})
	dashed := strings.ReplaceAll(web.IP4.String(), ".", "-")
	nameless := "" // where only endpoints with a host name are named
	if namesAll {
		nameless = dashed + ".members.plain.svc.cluster.local."
	}
	serviceIP := l.ServiceIP("plain", "api", 4).String()
	for _, test := range []struct {
		name string
		kind uint16
		want string // suffix of the only answer; empty is NXDOMAIN
	}{
		{"api.plain.svc.cluster.local.", dns.TypeA, serviceIP},
		{"db.plain.svc.cluster.local.", dns.TypeA, db.IP4.String()},
		{"db.plain.svc.cluster.local.", dns.TypeAAAA, db.IP6.String()},
		{"db-0.db.plain.svc.cluster.local.", dns.TypeA, db.IP4.String()},
		{arpa(t, serviceIP), dns.TypePTR, "api.plain.svc.cluster.local."},
		{arpa(t, client.IP4.String()), dns.TypePTR, ""},
		{"kubernetes.default.svc.cluster.local.", dns.TypeA, "10.43.0.1"},
		{arpa(t, "10.43.0.1"), dns.TypePTR, "kubernetes.default.svc.cluster.local."},
		// a pod that is not ready: where its address is published all the same
		{"web.plain.svc.cluster.local.", dns.TypeA, ""},
		{"members.plain.svc.cluster.local.", dns.TypeA, web.IP4.String()},
		{"members.plain.svc.cluster.local.", dns.TypeAAAA, web.IP6.String()},
		{dashed + ".members.plain.svc.cluster.local.", dns.TypeA, web.IP4.String()},
		{arpa(t, web.IP4.String()), dns.TypePTR, nameless},
		// labels that the controller puts on
		{"db-by-name.plain.svc.cluster.local.", dns.TypeA, db.IP4.String()},
		{"db-by-index.plain.svc.cluster.local.", dns.TypeA, db.IP4.String()},
		// no selector
		{"by-hand.plain.svc.cluster.local.", dns.TypeA, db.IP4.String()},
		{"outside.plain.svc.cluster.local.", dns.TypeA, "192.0.2.7"},
		{"nobody.plain.svc.cluster.local.", dns.TypeA, ""},
		{"google.com.", dns.TypeA, ""},
	} {
		answer := ask(t, client, test.name, test.kind)
		switch {
		case test.want == "" && (answer.Rcode != dns.RcodeNameError || len(answer.Ns) != 1):
			t.Errorf("%s: want NXDOMAIN with a SOA, got\n%s", test.name, answer)
		case test.want != "" && (len(answer.Answer) != 1 || !strings.HasSuffix(answer.Answer[0].String(), "\t"+test.want)):
			t.Errorf("%s: want %s, got\n%s", test.name, test.want, answer)
		}
	}
	testNamesOfAddress(t, l, db, client, namesAll)
	answer := ask(t, client, "alias.plain.svc.cluster.local.", dns.TypeA)
	if len(answer.Answer) != 2 || !strings.HasSuffix(answer.Answer[0].String(), "\tapi.plain.svc.cluster.local.") ||
		!strings.HasSuffix(answer.Answer[1].String(), "\t"+serviceIP) {
		t.Errorf("the alias is\n%s", answer)
	}
	web.SetReady(true)
	if answer := ask(t, client, "web.plain.svc.cluster.local.", dns.TypeA); len(answer.Answer) != 1 {
		t.Errorf("a pod that got ready has no address:\n%s", answer)
	}
	db.SetLabel("role", "primary")
	if answer := ask(t, client, "primary.plain.svc.cluster.local.", dns.TypeA); len(answer.Answer) != 1 {
		t.Errorf("a pod that got a label has no address:\n%s", answer)
	}
}

// testNamesOfAddress: a pod behind several Services has a name under each, or only those that hold its host name.
func testNamesOfAddress(t *testing.T, l *lab.Lab, db, client *lab.Pod, namesAll bool) {
	for _, ip := range []netip.Addr{db.IP4, db.IP6} {
		dashed := strings.NewReplacer(".", "-", ":", "-").Replace(ip.String())
		want := []string{"db-0.db.plain.svc.cluster.local."}
		if namesAll {
			for _, service := range []string{"db-by-index", "db-by-name", "by-hand"} {
				want = append(want, dashed+"."+service+".plain.svc.cluster.local.")
			}
		}
		var got []string
		for _, rr := range ask(t, client, arpa(t, ip.String()), dns.TypePTR).Answer {
			got = append(got, rr.(*dns.PTR).Ptr)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s has the names %q, want %q", ip, got, want)
		}
	}
}

// namedManifests are Services of each kind that names an address in its own way.
const namedManifests = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: plain}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: shop, args: [db], ports: [{containerPort: 5432}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: plain}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: members, namespace: plain}
spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: web}}
---
apiVersion: v1
kind: Service
metadata: {name: db-by-name, namespace: plain}
spec: {clusterIP: None, selector: {statefulset.kubernetes.io/pod-name: db-0}}
---
apiVersion: v1
kind: Service
metadata: {name: db-by-index, namespace: plain}
spec: {clusterIP: None, selector: {app: db, apps.kubernetes.io/pod-index: "0"}}
---
apiVersion: v1
kind: Service
metadata: {name: primary, namespace: plain}
spec: {clusterIP: None, selector: {app: db, role: primary}}
---
apiVersion: v1
kind: Service
metadata: {name: by-hand, namespace: plain}
spec: {clusterIP: None}
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: plain}
spec: {clusterIP: None}
---
apiVersion: v1
kind: Service
metadata: {name: alias, namespace: plain}
spec: {type: ExternalName, externalName: api.plain.svc.cluster.local}
`

func arpa(t *testing.T, ip string) string {
	t.Helper()
	name, err := dns.ReverseAddr(ip)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func ask(t *testing.T, from *lab.Pod, name string, kind uint16) *dns.Msg {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	conn, err := from.DialContext(ctx, "udp", "10.43.0.10:53")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	query := new(dns.Msg).SetQuestion(name, kind).SetEdns0(4096, false)
	answer, _, err := new(dns.Client).ExchangeWithConnContext(ctx, query, &dns.Conn{Conn: conn, UDPSize: 4096})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return answer
}

func TestParseRefusesUnknownFields(t *testing.T) {
	if _, err := lab.Parse(bytes.Replace([]byte(manifests), []byte("serviceName"), []byte("serviceNaem"), 1)); err == nil {
		t.Error("a misspelt field is accepted")
	}
}
