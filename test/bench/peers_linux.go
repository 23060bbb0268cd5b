package main

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"text/template"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/sidecar"
	"github.com/meshless-dev/meshless/test/program"
)

//go:embed configs
var configs embed.FS

// side is one hop that is to be started: the client side takes plain connections and makes TLS ones, the server side
// takes these and makes plain ones.
type side struct {
	*bench
	client         bool
	dir            string // of its own
	listen, target netip.AddrPort
	admin          netip.AddrPort // where our proxy serves its profiles
	where          *place
	want
}

func (s side) name() string {
	if s.client {
		return "client"
	}
	return "server"
}

// peer is something that is measured.
type peer struct {
	name, title string
	note        string // for the report: how it is configured
	program     string // whose version the report names
	tls, ours   bool
	pods        bool                        // in two network namespaces, with redirect rules where it is ours
	slow        bool                        // a variant: left out of -quick
	most        int                         // idle connections that it can have here; 0 is what files allow
	missing     func(*bench) string         // why it cannot run here, or ""
	start       func(side) (command, error) // nil where nothing is in between
	reload      func(side, *process) error  // after new files have been written; nil where there is nothing to reload
}

func always(*bench) string { return "" }

func noProgram(name string) func(*bench) string {
	return func(*bench) string {
		if _, err := exec.LookPath(name); err != nil {
			return "no " + name + " here: apt-get install " + name
		}
		return ""
	}
}

// podConnections is as many as our proxy once took from one source address, a little less than 5,000: so tables can be
// compared.
const podConnections = 4900

// spliceConnections is what 20,000 open files allow a relay that splices: Go keeps a pipe, two files, for each
// direction, also while nothing comes.
const spliceConnections = 3000

// nginxModule is where Debian puts the stream module; nginx of other builds may have it inside.
const nginxModule = "/usr/lib/nginx/modules/ngx_stream_module.so"

func noNginx(b *bench) string {
	if why := noProgram("nginx")(b); why != "" {
		return why
	}
	version, _ := exec.Command("nginx", "-V").CombinedOutput()
	if _, err := os.Stat(nginxModule); err != nil && !strings.Contains(string(version), "--with-stream ") {
		return "nginx has no stream module: apt-get install libnginx-mod-stream"
	}
	return ""
}

func noGhostunnel(*bench) string {
	if program.Lookup("ghostunnel") == "" {
		return "no ghostunnel here: bash test/interop/ghostunnel.sh builds it"
	}
	return ""
}

func noNamespaces(*bench) string {
	if os.Geteuid() != 0 {
		return "network namespaces and redirect rules need root"
	}
	return ""
}

func startRelay(splice bool) func(side) (command, error) {
	return func(s side) (command, error) {
		return worker(s.name(), workerSpec{Relay: &relaySpec{Listen: s.listen, Target: s.target, Splice: splice}})
	}
}

// startOurs starts our proxy with explicit destinations. Both sides run the same program, as in pods; the direction
// that is not used stays idle.
func startOurs(env []string) func(side) (command, error) {
	return func(s side) (command, error) {
		if err := publishOurs(s, nil); err != nil {
			return command{}, err
		}
		free := "127.0.0.1:0"
		at := sidecar.Addresses{Outbound: free, Inbound: free, Metrics: free, Health: free, Admin: s.admin.String()}
		setup := map[string]any{"Directory": s.files()}
		if s.client {
			at.Outbound, setup["Target"] = s.listen.String(), s.target
		} else {
			at.Inbound, setup["App"] = s.listen.String(), s.target
		}
		setup["Addresses"] = at
		encoded, err := json.Marshal(setup)
		return command{name: s.name(), argv: []string{s.ours.Explicit, string(encoded)}, env: env}, err
	}
}

// startRedirected sets the rules of meshless-init in the side's namespace and starts the proxy as a pod does.
func startRedirected(env []string) func(side) (command, error) {
	return func(s side) (command, error) {
		if err := publishOurs(s, nil); err != nil {
			return command{}, err
		}
		rules := exec.Command(s.ours.Init, podplan.InitArgs{ProxyUID: api.DefaultUID}.Args()...)
		var out bytes.Buffer
		rules.Stdout, rules.Stderr = &out, &out
		err := s.where.do(rules.Start)
		if err == nil {
			err = rules.Wait()
		}
		if err != nil {
			return command{}, fmt.Errorf("meshless-init: %w: %s", err, out.String())
		}
		return command{name: s.name(), argv: []string{s.ours.Proxy, "--directory=" + s.files()}, env: env, uid: api.DefaultUID}, nil
	}
}

func (s side) files() string { return filepath.Join(s.dir, "volume") }

// publishOurs writes the next generation; the proxy watches for it. What is passed through is no Service of the map.
func publishOurs(s side, _ *process) error {
	if err := os.MkdirAll(s.files(), 0o755); err != nil {
		return err
	}
	service := s.target.Addr()
	if s.passThrough || !s.client {
		service = netip.Addr{}
	}
	s.authority.publish(s.files(), s.name(), service)
	return nil
}

// settings are what the templates of the configs folder see.
type settings struct {
	pemFiles
	Dir, User, Module        string
	Client, Tuned            bool
	Listen, Target           netip.AddrPort
	Host                     string
	CPUs, Files, Connections int
}

// config issues a leaf and writes the configuration of a peer.
func (s side) config(name string, tuned bool) (string, error) {
	v := settings{Dir: s.dir, Client: s.client, Tuned: tuned, Listen: s.listen, Target: s.target, Host: serverHost,
		CPUs: runtime.NumCPU(), Connections: max(500, s.want.connections) + 50}
	v.Files = 2*v.Connections + 100
	if os.Geteuid() == 0 { // nginx would go on as nobody, who must not read the files
		v.User = "root"
	}
	if _, err := os.Stat(nginxModule); err == nil {
		v.Module = nginxModule
	}
	var err error
	if v.pemFiles, err = s.leaf(); err != nil {
		return "", err
	}
	t, err := template.ParseFS(configs, "configs/"+name)
	if err != nil {
		return "", err
	}
	var text bytes.Buffer
	if err := t.Execute(&text, v); err != nil {
		return "", err
	}
	path := filepath.Join(s.dir, name)
	return path, os.WriteFile(path, text.Bytes(), 0o600)
}

// leaf issues the side a leaf and writes its files.
func (s side) leaf() (pemFiles, error) {
	return s.authority.write(s.dir, s.authority.issue(s.name()))
}

func startNginx(tuned bool) func(side) (command, error) {
	return func(s side) (command, error) {
		path, err := s.config("nginx.conf", tuned)
		return command{name: s.name(), argv: []string{"nginx", "-p", s.dir, "-c", path}}, err
	}
}

func startHAProxy(tuned bool) func(side) (command, error) {
	return func(s side) (command, error) {
		path, err := s.config("haproxy.cfg", tuned)
		return command{name: s.name(), argv: []string{"haproxy", "-W", "-f", path}}, err
	}
}

func startStunnel(s side) (command, error) {
	path, err := s.config("stunnel.conf", false)
	return command{name: s.name(), argv: []string{"stunnel4", path}}, err
}

func startGhostunnel(s side) (command, error) {
	f, err := s.leaf()
	argv := []string{program.Lookup("ghostunnel"), s.name(), "--listen=" + s.listen.String(), "--target=" + s.target.String(),
		"--cert=" + f.Cert, "--key=" + f.Key, "--cacert=" + f.CA, "--cipher-suites=AES", "--quiet=all"}
	if s.client {
		argv = append(argv, "--override-server-name="+serverHost)
	} else {
		argv = append(argv, "--allow-all")
	}
	return command{name: s.name(), argv: argv}, err
}

// signalAfterWrite renews the leaf and tells the peer by a signal.
func signalAfterWrite(signal syscall.Signal) func(side, *process) error {
	return func(s side, r *process) error {
		_, err := s.leaf()
		return errors.Join(err, r.cmd.Process.Signal(signal))
	}
}
