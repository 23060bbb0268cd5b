package resolver

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// kubelet is what the kubelet writes into most pods.
const kubelet = "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.43.0.10\noptions ndots:5\n"

// pod is a system with this resolv.conf.
func pod(t *testing.T, resolvConf string) system {
	t.Helper()
	dir := t.TempDir()
	s := system{resolvConf: filepath.Join(dir, "resolv.conf"), directory: filepath.Join(dir, "volume"), portStart: filepath.Join(dir, "start")}
	for name, text := range map[string]string{s.resolvConf: resolvConf, s.portStart: "0\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(s.directory, 0o700); err != nil {
		t.Fatal(err)
	}
	return s
}

// left is what is in the volume.
func (s system) left(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir(s.directory)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) == 0 {
		return ""
	}
	if len(entries) > 1 || entries[0].Name() != api.ResolverFile {
		t.Fatalf("the volume holds %v", entries)
	}
	text, err := os.ReadFile(filepath.Join(s.directory, api.ResolverFile))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestForms: what is looked up how stays, word for word; who is asked becomes the proxy alone.
func TestForms(t *testing.T) {
	for name, c := range map[string]struct {
		file    string
		lines   string // that follow the name server
		servers []string
	}{
		"the kubelet's":       {kubelet, "search shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n", []string{"10.43.0.10"}},
		"the name server":     {"nameserver 10.43.0.10", "", []string{"10.43.0.10"}},
		"several":             {"nameserver 10.43.0.10\nnameserver 10.43.0.11\nnameserver fd43::a\nnameserver 10.43.0.12\n", "", []string{"10.43.0.10", "10.43.0.11", "fd43::a", "10.43.0.12"}},
		"IPv6, with a zone":   {"nameserver fe80::1%eth0\nnameserver fd43::a\n", "", []string{"fe80::1%eth0", "fd43::a"}},
		"comments":            {"# nameserver 192.0.2.1\n; search wrong\n#search wrong\nnameserver 10.43.0.10 # the cluster's\n", "", []string{"10.43.0.10"}},
		"trailing dots":       {"search svc.cluster.local. cluster.local.\nnameserver 10.43.0.10\n", "search svc.cluster.local. cluster.local.\n", []string{"10.43.0.10"}},
		"the root":            {"search .\nnameserver 10.43.0.10\n", "search .\n", []string{"10.43.0.10"}},
		"options twice":       {"options ndots:2\noptions ndots:5 edns0 single-request-reopen\nnameserver 10.43.0.10\n", "options ndots:2\noptions ndots:5 edns0 single-request-reopen\n", []string{"10.43.0.10"}},
		"domain, then search": {"domain example.test\nsearch a.test b.test\nnameserver 10.43.0.10\n", "domain example.test\nsearch a.test b.test\n", []string{"10.43.0.10"}},
		"sortlist":            {"sortlist 10.0.0.0/255.0.0.0\nnameserver 10.43.0.10\n", "sortlist 10.0.0.0/255.0.0.0\n", []string{"10.43.0.10"}},
		"CRLF, tabs, blanks":  {"\r\n\tsearch\ta.test \r\nnameserver\t10.43.0.10\r\n\n   \n", "\tsearch\ta.test\n", []string{"10.43.0.10"}},
		"words without more":  {"search\noptions\nnameserver\nnameserver 10.43.0.10\n", "", []string{"10.43.0.10"}},
		"not an address":      {"nameserver dns.example.test\nnameserver 10.43.0.300\nnameserver 10.43.0.10\n", "", []string{"10.43.0.10"}},
		"unknown keywords":    {"lookup file bind\nnameservers 192.0.2.1\nNAMESERVER 192.0.2.2\nnameserver 10.43.0.10\n", "", []string{"10.43.0.10"}},
		"a server in the pod": {"nameserver 127.0.0.1\n", "", []string{"127.0.0.1"}},
		"no last line end":    {"nameserver 10.43.0.10\noptions ndots:5", "options ndots:5\n", []string{"10.43.0.10"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := pod(t, c.file)
			var log bytes.Buffer
			if err := s.write(podplan.InitArgs{ProxyUID: api.DefaultUID}, &log); err != nil {
				t.Fatal(err)
			}
			comment, rest, _ := strings.Cut(s.left(t), "\n")
			if want := "nameserver 127.0.0.53\n" + c.lines; !strings.HasPrefix(comment, "# ") || rest != want {
				t.Errorf("got %q, %q, want a comment and %q", comment, rest, want)
			}
			for _, server := range c.servers {
				if !strings.Contains(log.String(), "\tnameserver "+server+"\n") {
					t.Errorf("the log does not name the server %s:\n%s", server, &log)
				}
			}
		})
	}
}

// TestEveryUserReads: the app's user is another than that of init.
func TestEveryUserReads(t *testing.T) {
	s := pod(t, kubelet)
	if err := s.write(podplan.InitArgs{}, new(bytes.Buffer)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(s.directory, api.ResolverFile))
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("got %v, %v, want 0644", info.Mode(), err)
	}
}

// TestAgain: the kubelet runs init containers again in a running pod. The file is another then, and never half of one:
// a container that has the earlier one mounted keeps it whole.
func TestAgain(t *testing.T) {
	s := pod(t, kubelet)
	if err := s.write(podplan.InitArgs{}, new(bytes.Buffer)); err != nil {
		t.Fatal(err)
	}
	mounted, err := os.Open(filepath.Join(s.directory, api.ResolverFile))
	if err != nil {
		t.Fatal(err)
	}
	defer mounted.Close()
	first := s.left(t)
	if err := os.WriteFile(s.resolvConf, []byte("nameserver 10.43.0.10\nsearch other.test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.write(podplan.InitArgs{}, new(bytes.Buffer)); err != nil {
		t.Fatal(err)
	}
	if second := s.left(t); !strings.Contains(second, "search other.test\n") || strings.Contains(second, "ndots") {
		t.Errorf("got %q", second)
	}
	old := make([]byte, len(first)+1)
	if n, _ := mounted.Read(old); string(old[:n]) != first {
		t.Errorf("who has the first file mounted reads %q, want %q", old[:n], first)
	}
}

// TestRefused: what cannot be served fails the pod, says why, and leaves nothing.
func TestRefused(t *testing.T) {
	ports, err := netset.ParsePorts("443")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		file  string
		args  podplan.InitArgs
		spoil func(s system) error
		want  string
	}{
		"no resolv.conf":    {kubelet, podplan.InitArgs{}, func(s system) error { return os.Remove(s.resolvConf) }, "the kubelet's name servers: "},
		"an empty one":      {"", podplan.InitArgs{}, nil, "dnsConfig.nameservers"},
		"no name server":    {"search a.test\noptions ndots:5\n", podplan.InitArgs{}, nil, "it names no name server"},
		"none that is one":  {"nameserver dns.example.test\n", podplan.InitArgs{}, nil, "it names no name server"},
		"the proxy's own":   {"nameserver 10.43.0.10\nnameserver 127.0.0.53\n", podplan.InitArgs{}, nil, "it names 127.0.0.53, where the proxy itself answers"},
		"mapped":            {"nameserver ::ffff:127.0.0.53\n", podplan.InitArgs{}, nil, "where the proxy itself answers"},
		"huge":              {kubelet + strings.Repeat("# nothing\n", maxSize/10), podplan.InitArgs{}, nil, "more than 65536 bytes"},
		"one huge line":     {kubelet + "search " + strings.Repeat("a", maxSize), podplan.InitArgs{}, nil, "more than 65536 bytes"},
		"no volume":         {kubelet, podplan.InitArgs{}, func(s system) error { return os.Remove(s.directory) }, "the volume meshless-resolver is to be mounted at "},
		"a volume, no file": {kubelet, podplan.InitArgs{}, func(s system) error { return os.Mkdir(filepath.Join(s.directory, api.ResolverFile), 0o700) }, "resolv.conf"},
		"no low ports":      {kubelet, podplan.InitArgs{}, func(s system) error { return os.WriteFile(s.portStart, []byte("1024\n"), 0o600) }, "ip_unprivileged_port_start is 1024 in this pod"},
		"a rule's flag":     {kubelet, podplan.InitArgs{ExcludeOutboundPorts: ports}, nil, "--exclude-outbound-ports"},
	} {
		t.Run(name, func(t *testing.T) {
			s := pod(t, c.file)
			if c.spoil != nil {
				if err := c.spoil(s); err != nil {
					t.Fatal(err)
				}
			}
			var log bytes.Buffer
			err := s.write(c.args, &log)
			if err == nil || !strings.Contains(err.Error(), c.want) || log.Len() > 0 {
				t.Errorf("got %v and the log %q, want an error with %q alone", err, &log, c.want)
			}
			entries, err := os.ReadDir(s.directory)
			if err == nil && len(entries) > 0 && !entries[0].IsDir() || len(entries) > 1 {
				t.Errorf("%v is left", entries)
			}
		})
	}
}

// TestKernelWithoutTheLimit: a kernel that has no such setting is not refused for that.
func TestKernelWithoutTheLimit(t *testing.T) {
	s := pod(t, kubelet)
	s.portStart += "-missing"
	if err := s.write(podplan.InitArgs{}, new(bytes.Buffer)); err != nil {
		t.Error(err)
	}
}

// TestReport: who reads the log knows what is not protected, what this pod leaves out on purpose before all.
func TestReport(t *testing.T) {
	ports, err := netset.ParsePorts("22,9000-9010")
	if err != nil {
		t.Fatal(err)
	}
	s := pod(t, kubelet)
	var log bytes.Buffer
	if err := s.write(podplan.InitArgs{ExcludeInboundPorts: ports}, &log); err != nil {
		t.Fatal(err)
	}
	is, not, found := strings.Cut(log.String(), "\nNOT protected:\n")
	if !found || !strings.HasPrefix(not, "\t- what arrives for the ports 22,9000-9010: ") {
		t.Errorf("got\n%s", &log)
	}
	for _, want := range []string{"no redirect rules", "\tnameserver 127.0.0.53\n", "\toptions ndots:5\n", "\tnameserver 10.43.0.10\n", "\nProtected:\n", "a name of a Service of the mesh", "direct port"} {
		if !strings.Contains(is, want) {
			t.Errorf("the log lacks %q:\n%s", want, is)
		}
	}
	for _, want := range []string{"literal address", "a name outside of the mesh", "UDP", "the app's own ports", "NetworkPolicy", "that the app tells others"} {
		if !strings.Contains(not, want) {
			t.Errorf("the log does not say that this is not protected: %q:\n%s", want, not)
		}
	}
	log.Reset()
	if err := s.write(podplan.InitArgs{}, &log); err != nil || strings.Contains(log.String(), "--exclude-inbound-ports") {
		t.Errorf("got %v and\n%s", err, &log)
	}
}

// TestPage: docs/init.md shows what init says.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/init.md")
	if err != nil {
		t.Fatal(err)
	}
	ports, err := netset.ParsePorts("9000")
	if err != nil {
		t.Fatal(err)
	}
	c, err := parse(strings.NewReader(kubelet))
	if err != nil {
		t.Fatal(err)
	}
	if want := "```\n" + host.report(podplan.InitArgs{ExcludeInboundPorts: ports}, c) + "```\n"; !strings.Contains(string(page), want) {
		t.Errorf("docs/init.md lacks\n%s", want)
	}
}

// FuzzParse: no file of the kubelet's makes init panic, and none makes a file that names another server than the proxy.
func FuzzParse(f *testing.F) {
	f.Add(kubelet)
	f.Add("nameserver fd43::a\n\tsearch .\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parse(strings.NewReader(text))
		if err != nil {
			return
		}
		again, err := parse(strings.NewReader(strings.Replace(c.text(), api.ResolverIP, "192.0.2.1", 1)))
		if err != nil || len(again.servers) != 1 || again.servers[0].String() != "192.0.2.1" || strings.Join(again.lines, "\n") != strings.Join(c.lines, "\n") {
			t.Errorf("%q makes %q: %v, %v", text, c.text(), again, err)
		}
	})
}
