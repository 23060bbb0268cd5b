package kernel

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
	"github.com/meshless-dev/meshless/test/program"
)

// Ports of the programs that look at addresses.
const (
	apachePort   = 80
	mariadbPort  = 3306
	postgresPort = 5433 // the pod's own app has 5432
	redisPort    = 6379
)

// addressed is a pod with one of these programs, two clients of the mesh, and somebody who is not in it.
type addressed struct {
	*lab.Lab
	server, good, bad, stranger *lab.Pod
}

func newAddressed(t *testing.T) *addressed {
	t.Helper()
	a := &addressed{Lab: lab.NewMeshless(t, nil)}
	ports := fmt.Sprintf("ports: [{containerPort: %d}, {containerPort: %d}, {containerPort: %d}, {containerPort: %d}]\n          livenessProbe: {tcpSocket: {port: %[2]d}}\n",
		apachePort, mariadbPort, postgresPort, redisPort)
	server := strings.Replace(storeWorkload("Deployment", dataNamespace, "server", `meshless.dev/permissive-ports: "80"`), fmt.Sprintf("ports: [{containerPort: %d}]\n", reachPort), ports, 1)
	service := "---\n{apiVersion: v1, kind: Service, metadata: {name: server, namespace: " + dataNamespace + "}, spec: {selector: {app: server}, ports: ["
	for _, port := range []int{apachePort, mariadbPort, postgresPort, redisPort} {
		service += fmt.Sprintf("{name: p%d, port: %[1]d}, ", port)
	}
	manifests := server + service + "]}}\n" + storeWorkload("Deployment", dataNamespace, "good", "") + storeWorkload("Deployment", dataNamespace, "bad", "")
	applyPackage(t, a.Lab, example.Copy(t, "../../examples/pod"), manifests)
	pods := a.StartAll(lab.PodRequest{Workload: "Deployment/data/server"}, lab.PodRequest{Workload: "Deployment/data/good"}, lab.PodRequest{Workload: "Deployment/data/bad"})
	a.server, a.good, a.bad = pods[0], pods[1], pods[2]
	a.stranger = a.AddPod("legacy", "stranger")
	return a
}

// service is where clients find a port.
func (a *addressed) service(port uint16, family int) string {
	return netip.AddrPortFrom(a.ServiceIP(dataNamespace, "server", family), port).String()
}

// run is runIn in the server's pod.
func (a *addressed) run(t *testing.T, port int, command ...string) {
	t.Helper()
	runIn(t, a.Lab, a.server, port, command...)
}

// runIn starts a program of Debian in a pod, with the pod's name server, and waits until its port is open there. It
// ends with the test.
func runIn(t *testing.T, l *lab.Lab, pod *lab.Pod, port int, command ...string) {
	t.Helper()
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver "+l.DNS().String()+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", append([]string{"--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, resolv}, command...)...)
	serveIn(t, pod, port, time.Minute, command[0], cmd)
}

// serveIn starts a command in a pod, in a process group of its own, and waits until its port is open there. It ends
// with the test.
func serveIn(t *testing.T, pod *lab.Pod, port int, within time.Duration, name string, cmd *exec.Cmd) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid = true
	if err := pod.NS.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
		if t.Failed() {
			t.Logf("%s in %s:\n%s", name, pod.Name, &out)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for {
		conn, err := pod.NS.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			conn.Close()
			return
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s in %s ended: %v", name, pod.Name, err)
		case <-ctx.Done():
			t.Fatalf("%s in %s does not listen: %v", name, pod.Name, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// debian is a program, or skips the test. In CI it must be there: .ci/run installs them.
func debian(t *testing.T, names ...string) string {
	t.Helper()
	for _, name := range names {
		found, _ := filepath.Glob(name)
		if path, err := exec.LookPath(name); err == nil {
			found = append(found, path)
		}
		if len(found) > 0 {
			return found[len(found)-1]
		}
	}
	program.Missing(t, "%s: apt-get install apache2 postgresql redis-server mariadb-server", names[0])
	return ""
}

// scratch is a folder that any user of the pod may use.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "meshless-addr-")
	if err == nil {
		err = os.Chmod(dir, 0o777)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestClientsApache: the status page of Debian's Apache is for local users. To nobody in the mesh, and to no stranger
// at a Permissive port, is it shown.
func TestClientsApache(t *testing.T) {
	lab.Require(t)
	apache := debian(t, "apache2", "/usr/sbin/apache2")
	a, dir := newAddressed(t), scratch(t)
	config := "ServerRoot /etc/apache2\nServerName server\nPidFile " + dir + "/pid\nDefaultRuntimeDir " + dir + "\nErrorLog " + dir + "/error.log\nMutex file:" + dir + "\nListen 80\n"
	for _, module := range []string{"mpm_event.load", "authz_core.load", "authz_host.load", "status.load", "status.conf"} {
		config += "Include /etc/apache2/mods-available/" + module + "\n"
	}
	file := filepath.Join(dir, "apache2.conf")
	if err := os.WriteFile(file, []byte(config+"User nobody\nGroup nogroup\nDocumentRoot "+dir+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	a.run(t, apachePort, apache, "-D", "FOREGROUND", "-f", file)
	for name, c := range map[string]struct {
		from *lab.Pod
		to   string
		want int
	}{
		"the pod itself":        {a.server, "127.0.0.1:80", http.StatusOK}, // control
		"a mesh client":         {a.good, a.service(apachePort, 4), http.StatusForbidden},
		"a mesh client by IPv6": {a.good, a.service(apachePort, 6), http.StatusForbidden},
		"a stranger":            {a.stranger, netip.AddrPortFrom(a.server.IP4, apachePort).String(), http.StatusForbidden},
		"a stranger by IPv6":    {a.stranger, netip.AddrPortFrom(a.server.IP6, apachePort).String(), http.StatusForbidden},
	} {
		response, err := a.client(c.from).Get("http://" + c.to + "/server-status")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		response.Body.Close()
		if response.StatusCode != c.want {
			t.Errorf("%s gets %s, want %d", name, response.Status, c.want)
		}
	}
	a.wantClients(t, a.good.IP4, a.good.IP6, a.stranger.IP4, a.stranger.IP6)
}

// client asks from a pod.
func (a *addressed) client(p *lab.Pod) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: p.NS.DialContext, DisableKeepAlives: true}}
}

// wantClients wants the admin port to tell where the app sees these clients, each at an address that ends as its own.
func (a *addressed) wantClients(t *testing.T, clients ...netip.Addr) {
	t.Helper()
	response, err := a.client(a.server).Get(fmt.Sprintf("http://127.0.0.1:%d/clients", api.AdminPort))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var seen []struct {
		Client, App netip.Addr
		Identity    string
	}
	if err := json.NewDecoder(response.Body).Decode(&seen); err != nil {
		t.Fatal(err)
	}
	apps, clientAt := map[netip.Addr]netip.Addr{}, map[netip.Addr]netip.Addr{}
	for _, s := range seen {
		if other, taken := clientAt[s.App]; taken {
			t.Errorf("%s and %s are both at %s", other, s.Client, s.App)
		}
		apps[s.Client], clientAt[s.App] = s.App, s.Client
	}
	for _, c := range clients {
		want := clientaddr.Preferred(clientaddr.Default.Of(c), c)
		if other, taken := clientAt[want]; taken && other != c { // the probes have that of 10.42.0.1, which moves on
			want = clientaddr.Next(clientaddr.Default.Of(c), want)
		}
		if apps[c] != want {
			t.Errorf("/clients has %s at %s, want %s, of\n%+v", c, apps[c], want, seen)
		}
	}
}

// TestClientsPostgres: no line of pg_hba.conf for the host itself meets a client.
func TestClientsPostgres(t *testing.T) {
	lab.Require(t)
	server := debian(t, "/usr/lib/postgresql/*/bin/postgres")
	bin := filepath.Dir(server)
	a, dir := newAddressed(t), scratch(t)
	const nobody = "--reuid=65534 --regid=65534 --clear-groups"
	as := append([]string{"setpriv"}, strings.Fields(nobody)...)
	data := filepath.Join(dir, "data")
	if out, err := exec.Command(as[0], append(as[1:], filepath.Join(bin, "initdb"), "-U", "postgres", "-A", "trust", "-N", "-D", data)...).CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	hba := "host all all samehost trust\nhost all all samenet trust\nhost all all 127.0.0.0/8 trust\nhost all all ::1/128 trust\nhost all all all reject\n"
	if err := os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte(hba), 0o644); err != nil {
		t.Fatal(err)
	}
	a.run(t, postgresPort, append(as, server, "-p", fmt.Sprint(postgresPort), "-D", data, "-h", "*", "-k", dir, "-F")...)
	ask := func(p *lab.Pod, to string) string {
		conn, err := p.NS.DialContext(t.Context(), "tcp", to)
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		startup := "\x00\x03\x00\x00user\x00postgres\x00\x00"
		_, _ = conn.Write(append([]byte{0, 0, 0, byte(len(startup) + 4)}, startup...))
		kind := make([]byte, 1)
		if _, err := io.ReadFull(conn, kind); err != nil {
			return err.Error()
		}
		rest, _ := io.ReadAll(io.LimitReader(conn, 64))
		return string(kind) + string(rest)
	}
	for { // control: AuthenticationOk
		got := ask(a.server, fmt.Sprintf("127.0.0.1:%d", postgresPort))
		if strings.HasPrefix(got, "R") {
			break
		}
		if !strings.Contains(got, "starting up") {
			t.Fatalf("the control fails: the pod itself gets %q", got)
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, family := range []int{4, 6} {
		if got := ask(a.good, a.service(postgresPort, family)); !strings.HasPrefix(got, "E") || !strings.Contains(got, "FATAL") {
			t.Errorf("a mesh client of IPv%d gets %q, want a refusal by pg_hba.conf", family, got)
		}
	}
	a.wantClients(t, a.good.IP4, a.good.IP6)
}

// TestClientsRedis: protected mode is for the host alone.
func TestClientsRedis(t *testing.T) {
	lab.Require(t)
	a := newAddressed(t)
	a.run(t, redisPort, debian(t, "redis-server"), "--port", "6379", "--save", "", "--bind", "0.0.0.0 ::", "--protected-mode", "yes", "--dir", scratch(t))
	ping := func(p *lab.Pod, to string) string {
		conn, err := p.NS.DialContext(t.Context(), "tcp", to)
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(conn, "PING\r\n")
		line, _ := bufio.NewReader(conn).ReadString('\n')
		return line
	}
	if got := ping(a.server, "127.0.0.1:6379"); got != "+PONG\r\n" {
		t.Fatalf("the control fails: the pod itself gets %q", got)
	}
	for _, family := range []int{4, 6} {
		if got := ping(a.good, a.service(redisPort, family)); !strings.HasPrefix(got, "-DENIED") {
			t.Errorf("a mesh client of IPv%d gets %q, want what protected mode says", family, got)
		}
	}
}

// TestClientsMariaDB: with the default of max_connect_errors, neither a thousand probes without a login nor a client
// that never logs in shut anybody out but itself.
func TestClientsMariaDB(t *testing.T) {
	lab.Require(t)
	server := debian(t, "mariadbd", "/usr/sbin/mariadbd")
	a, dir := newAddressed(t), scratch(t)
	data := filepath.Join(dir, "data")
	install := exec.Command("mariadb-install-db", "--no-defaults", "--user=root", "--datadir="+data, "--auth-root-authentication-method=normal", "--skip-test-db")
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("mariadb-install-db: %v\n%s", err, out)
	}
	accounts := filepath.Join(dir, "accounts.sql")
	if err := os.WriteFile(accounts, []byte("CREATE USER 'app'@'%' IDENTIFIED BY 'x';\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	a.run(t, mariadbPort, server, "--no-defaults", "--init-file="+accounts, "--user=root", "--datadir="+data, "--socket="+dir+"/socket", "--bind-address=*", "--pid-file="+dir+"/pid")
	a.probeOften(t, 1000)
	const blocked = "blocked because of many connection errors"
	for range 150 {
		a.greeting(t, a.bad)
	}
	if got := a.greeting(t, a.bad); !strings.Contains(got, blocked) {
		t.Errorf("the control fails: who never logs in gets %q", got)
	}
	if got := a.greeting(t, a.good); !strings.Contains(got, "mysql_native_password") {
		t.Errorf("the good client gets %q, want the server's greeting", got)
	}
	a.probeOften(t, 1) // which MariaDB has blocked by now, and which still finds the port open
	a.wantClients(t, a.good.IP4, a.bad.IP4)
}

// probeOften has the kubelet probe the database.
func (a *addressed) probeOften(t *testing.T, n int64) {
	t.Helper()
	var left atomic.Int64
	left.Store(n)
	var probers sync.WaitGroup
	for range 8 {
		probers.Go(func() {
			for left.Add(-1) >= 0 {
				if err := a.server.Probe(t.Context(), "db", "livenessProbe"); err != nil {
					t.Errorf("probe: %v", err)
					return
				}
			}
		})
	}
	probers.Wait()
}

// greeting is what the database says to a client that then leaves.
func (a *addressed) greeting(t *testing.T, p *lab.Pod) string {
	t.Helper()
	conn, err := p.NS.DialContext(t.Context(), "tcp", a.service(mariadbPort, 4))
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	header := make([]byte, 4)
	if _, err := io.ReadFull(conn, header); err != nil {
		return err.Error()
	}
	packet := make([]byte, int(header[0])|int(header[1])<<8)
	if _, err := io.ReadFull(conn, packet); err != nil {
		return err.Error()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	return string(packet)
}
