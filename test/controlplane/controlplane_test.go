package controlplane

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	gocmp "github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/test/program"
)

func TestMain(m *testing.M) { os.Exit(program.Main(m)) }

const (
	rsa128 = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
	rsa256 = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"
)

var everyGroup = []string{"X25519MLKEM768", "X25519", "CurveP256", "CurveP384", "CurveP521"}

// TestScan starts etcd and kube-apiserver with what the function made of their manifests. The first case is the
// control: the manifests as they were.
func TestScan(t *testing.T) {
	apiserver, etcd := binaries(t)
	for name, test := range map[string]struct {
		tls             string
		apiserver, etcd accepted
	}{
		"off": {tls: "{controlPlane: false}"},
		"TLS 1.3": {
			tls:       "{controlPlane: true}",
			apiserver: accepted{Versions: []string{"TLS 1.3"}, Groups: everyGroup},
			etcd:      accepted{Versions: []string{"TLS 1.3"}, Groups: everyGroup},
		},
		"TLS 1.2 with two suites": {
			tls:       "{controlPlane: true, minVersion: VersionTLS12, cipherSuites: [" + rsa128 + ", " + rsa256 + "]}",
			apiserver: accepted{Versions: []string{"TLS 1.2", "TLS 1.3"}, Suites: []string{rsa128, rsa256}, Groups: everyGroup},
			etcd:      accepted{Versions: []string{"TLS 1.2", "TLS 1.3"}, Suites: []string{rsa128, rsa256}, Groups: everyGroup},
		},
		"TLS 1.3 with two groups": {
			tls:       "{controlPlane: true, curvePreferences: [4588, 29]}",
			apiserver: accepted{Versions: []string{"TLS 1.3"}, Groups: []string{"X25519MLKEM768", "X25519"}},
			etcd:      accepted{Versions: []string{"TLS 1.3"}, Groups: everyGroup}, // it has no flag for them
		},
	} {
		t.Run(name, func(t *testing.T) {
			commands := render(t, test.tls)
			n := newNode(t)
			n.ready(t, n.start(t, etcd, commands["etcd"]), "https://"+n.client+"/health")
			n.ready(t, n.start(t, apiserver, commands["kube-apiserver"]), "https://"+n.serving+"/readyz")
			for server, address := range map[string]string{"kube-apiserver": n.serving, "etcd": n.client, "etcd's peer port": n.peer} {
				got, want := scan(t, address, n.tls), test.etcd
				if server == "kube-apiserver" {
					want = test.apiserver
				}
				t.Logf("%s accepts %v, of TLS 1.2 %v, of TLS 1.3 %v", server, got.Versions, got.Suites, got.Groups)
				if len(want.Versions) == 0 {
					if !slices.Contains(got.Versions, "TLS 1.2") || len(got.Suites) <= 2 || len(got.Groups) <= 2 {
						t.Errorf("%s without our flags: %+v, which leaves nothing to prove", server, got)
					}
				} else if diff := gocmp.Diff(want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", server, diff)
				}
			}
		})
	}
}

// TestRefusals: what a config or a manifest is refused for is indeed what the programs do not start with.
func TestRefusals(t *testing.T) {
	apiserver, etcd := binaries(t)
	commands := render(t, "{controlPlane: true}")
	for name, test := range map[string]struct {
		flags, env []string
		want       string
	}{
		"suites beside TLS 1.3": {[]string{"--cipher-suites=" + rsa128}, nil, "cipher suites cannot be configured when only TLS1.3 is enabled"},
		"greatest version":      {[]string{"--tls-max-version=TLS1.2"}, nil, "is greater than max version"},
		"environment":           {nil, []string{"ETCD_TLS_MIN_VERSION=TLS1.2"}, "conflicting environment variable"},
	} {
		t.Run("etcd: "+name, func(t *testing.T) {
			newNode(t).start(t, etcd, slices.Concat(commands["etcd"], test.flags), test.env...).mustExit(t, test.want)
		})
	}
	t.Run("kube-apiserver: no suite for HTTP2", func(t *testing.T) {
		n := newNode(t)
		n.ready(t, n.start(t, etcd, commands["etcd"]), "https://"+n.client+"/health")
		command := slices.DeleteFunc(slices.Clone(commands["kube-apiserver"]), func(word string) bool { return strings.HasPrefix(word, "--tls-min-version") })
		n.start(t, apiserver, append(command, "--tls-min-version=VersionTLS12", "--tls-cipher-suites="+rsa256)).mustExit(t, "HTTP/2-required")
	})
}

// render sends the manifests through the function and returns the command of each Pod by its name.
func render(t *testing.T, tls string) map[string][]string {
	t.Helper()
	var items []string
	for _, document := range strings.Split(readFile(t, "testdata/manifests.yaml"), "\n---\n") {
		items = append(items, "- "+strings.ReplaceAll(strings.TrimSpace(document), "\n", "\n  "))
	}
	cluster, ca := recipient(t), recipient(t)
	list := "apiVersion: config.kubernetes.io/v1\nkind: ResourceList\nfunctionConfig:\n  apiVersion: meshless.dev/v1alpha1\n  kind: MutualTLS\n  metadata: {name: mtls}\n  spec:\n" +
		"    sealing: {recipients: [" + cluster + "]}\n    certificates: {ca: {recipients: [" + ca + "]}}\n    tls: " + tls + "\nitems:\n" + strings.Join(items, "\n") + "\n"
	cmd := exec.CommandContext(t.Context(), program.Meshless(t))
	cmd.Stdin = strings.NewReader(list)
	var out, messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &messages
	if err := cmd.Run(); err != nil {
		t.Fatalf("meshless: %v\n%s", err, &messages)
	}
	if on := !strings.Contains(tls, "false"); on && strings.Contains(messages.String(), "left out of the mesh") {
		t.Errorf("the control plane is warned about as left out of the mesh:\n%s", &messages)
	}
	return commandsOf(t, out.String())
}

func recipient(t *testing.T) string {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return identity.Recipient().String()
}

func commandsOf(t *testing.T, rendered string) map[string][]string {
	t.Helper()
	data, err := yaml.MustParse(rendered).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct {
				Containers []struct{ Command []string }
			}
		}
	}
	if err := json.Unmarshal(data, &list); err != nil {
		t.Fatal(err)
	}
	commands := map[string][]string{}
	for _, item := range list.Items {
		if len(item.Spec.Containers) == 1 {
			commands[item.Metadata.Name] = item.Spec.Containers[0].Command
		}
	}
	if len(commands["etcd"]) < 2 || len(commands["kube-apiserver"]) < 2 {
		t.Fatalf("the render has no commands:\n%s", rendered)
	}
	return commands
}

// binaries finds kube-apiserver and an etcd that is new enough, or skips; in CI it fails.
func binaries(t *testing.T) (apiserver, etcd string) {
	t.Helper()
	apiserver = program.Find(t, "kube-apiserver", "test/README.md says what builds it")
	for _, candidate := range program.Candidates("etcd") {
		if help, err := exec.CommandContext(t.Context(), candidate, "--help").CombinedOutput(); err == nil && bytes.Contains(help, []byte("--tls-min-version")) {
			return apiserver, candidate
		}
	}
	program.Missing(t, "an etcd that has --tls-min-version, 3.5.8 or later, as $ETCD, in $KBIN or in PATH; test/controlplane/etcd.sh builds one")
	return "", ""
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
