package kernel

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
	"github.com/meshless-dev/meshless/test/program"
)

const sshPort = 22

// sshField is a client in the mesh, and two servers of SSH: one in the mesh and one outside.
type sshField struct {
	*lab.Lab
	root                  string // of Debian's newest OpenSSH, with git and rsync
	client, inside, plain *lab.Pod
	files                 string               // the client's, at /mnt
	served                map[*lab.Pod]string  // each server's
	clients               map[int]netip.Prefix // the addresses from which the proxy dials the app
}

// TestSSH: OpenSSH since 10.1 changes IP_TOS on an open connection, from EF to CS0 and back, at both ends. What people
// do over it works, into the mesh and out of it, with each back end and in both families.
func TestSSH(t *testing.T) {
	lab.Require(t)
	ssh := program.Lookup("openssh/usr/bin/ssh")
	if ssh == "" {
		program.Missing(t, "Debian's newest OpenSSH in $KBIN/openssh: test/env/openssh.sh unpacks it")
	}
	root := strings.TrimSuffix(ssh, "/usr/bin/ssh")
	for _, backend := range []string{"nftables", "iptables-nft", "iptables-legacy"} {
		t.Run(backend, func(t *testing.T) {
			s := newSSHField(t, root, backend)
			for name, server := range map[string]*lab.Pod{"into the mesh": s.inside, "out of it": s.plain} {
				for _, family := range []int{4, 6} {
					t.Run(fmt.Sprintf("%s, IPv%d", name, family), func(t *testing.T) { s.test(t, server, family) })
				}
			}
		})
	}
}

func newSSHField(t *testing.T, root, backend string) *sshField {
	t.Helper()
	pkg, folders := example.Copy(t, "../../examples/pod"), map[string]string(nil)
	if _, variant, _ := strings.Cut(backend, "-"); variant != "" {
		folders = iptablesFolders(t, variant)
		pkg.Edit(t, "mtls.yaml", func(text string) string { return text + "  init: {backend: IPTables}\n" })
	}
	s := &sshField{Lab: lab.NewMeshless(t, folders), root: root, files: scratch(t), served: map[*lab.Pod]string{},
		clients: map[int]netip.Prefix{4: clientaddr.Default.V4, 6: clientaddr.Default.V6}}
	ports := fmt.Sprintf("ports: [{containerPort: %d}]\n", reachPort)
	server := strings.Replace(storeWorkload("Deployment", dataNamespace, "sshd", ""), ports, fmt.Sprintf("ports: [{containerPort: %d}, {containerPort: %d}]\n", reachPort, sshPort), 1)
	applyPackage(t, s.Lab, pkg, server+fmt.Sprintf("---\n{apiVersion: v1, kind: Service, metadata: {name: sshd, namespace: %s}, spec: {selector: {app: sshd}, ports: [{port: %d}]}}\n", dataNamespace, sshPort)+storeWorkload("Deployment", dataNamespace, "client", ""))
	pods := s.StartAll(lab.PodRequest{Workload: "Deployment/data/sshd"}, lab.PodRequest{Workload: "Deployment/data/client"})
	s.inside, s.client, s.plain = pods[0], pods[1], s.AddPod("outside", "sshd")
	s.run(t, s.client, s.files, "", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/mnt/key")
	s.run(t, s.client, s.files, "", "git", "init", "-q", "/mnt/clone")
	for _, pod := range []*lab.Pod{s.inside, s.plain} {
		s.serve(t, pod)
	}
	return s
}

// command is a program in the root of OpenSSH and in the namespaces of a pod, with a folder of this machine at /mnt, as
// a user.
func (s *sshField) command(t *testing.T, files, user string, args ...string) *exec.Cmd {
	t.Helper()
	const script = `mount --rbind /dev "$0/dev" && mount --bind /proc "$0/proc" && mount --bind "$1" "$0/mnt" && root=$0 user=$2 && shift 2 && exec chroot --userspec="$user" "$root" "$@"`
	cmd := exec.CommandContext(t.Context(), "unshare", append([]string{"--mount", "sh", "-c", script, s.root, files, user}, args...)...)
	cmd.Env = []string{"PATH=/usr/bin:/usr/sbin", "HOME=/mnt", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=app", "GIT_AUTHOR_EMAIL=app@example.org", "GIT_COMMITTER_NAME=app", "GIT_COMMITTER_EMAIL=app@example.org",
		"GIT_SSH_COMMAND=" + strings.Join(sshCommand("ssh"), " ")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// sshCommand is a program of OpenSSH with what the test needs, and its own defaults otherwise.
func sshCommand(program string, more ...string) []string {
	return append([]string{program, "-F", "none", "-i", "/mnt/key", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=20"}, more...)
}

// run runs a program of the app's user in a pod and returns what it prints.
func (s *sshField) run(t *testing.T, pod *lab.Pod, files, input string, args ...string) string {
	t.Helper()
	cmd := s.command(t, files, "1000:1000", append([]string{"timeout", "60"}, args...)...)
	var out, errors bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errors
	if err := pod.NS.Do(func() error { return cmd.Start() }); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %v\n%s%s", strings.Join(args, " "), err, &out, &errors)
	}
	return out.String()
}

// serve starts sshd in a pod, with a repository and a file to fetch.
func (s *sshField) serve(t *testing.T, pod *lab.Pod) {
	t.Helper()
	dir := scratch(t)
	s.served[pod] = dir
	key, err := os.ReadFile(filepath.Join(s.files, "key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	const config = "HostKey /mnt/hostkey\nAuthorizedKeysFile /mnt/authorized\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nPidFile none\nSubsystem sftp internal-sftp\n"
	for name, text := range map[string]string{"authorized": string(key), "sshd_config": config, "file": strings.Repeat("a line of a file\n", 100_000)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/mnt/hostkey"}, {"git", "init", "-q", "--bare", "/mnt/repository"},
	} {
		if out, err := s.command(t, dir, "0:0", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	serveIn(t, pod, sshPort, 20*time.Second, "sshd", s.command(t, dir, "0:0", "/usr/sbin/sshd", "-D", "-e", "-f", "/mnt/sshd_config"))
}

func (s *sshField) test(t *testing.T, server *lab.Pod, family int) {
	host := server.IP(family).String()
	bracketed := netip.AddrPortFrom(server.IP(family), sshPort).String()
	inBrackets := strings.TrimSuffix(bracketed, fmt.Sprintf(":%d", sshPort)) // of IPv6
	at := "root@" + host
	app := func(input string, args ...string) string {
		t.Helper()
		return s.run(t, s.client, s.files, input, args...)
	}
	want := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	wire := s.Capture(s.client)
	from := app("", sshCommand("ssh", "-T", at, "echo $SSH_CONNECTION")...)
	address, _, _ := strings.Cut(from, " ")
	if peer, err := netip.ParseAddr(address); err != nil || s.clients[family].Contains(peer) != (server == s.inside) {
		t.Errorf("the server saw the client as %q, %v", from, err)
	}
	want("a command with pauses", app("", sshCommand("ssh", "-T", at, "echo hello; sleep 1; echo still here; sleep 0.3; cat /proc/self/comm")...), "hello\nstill here\ncat\n")
	want("much in", app(strings.Repeat("x", 1<<20), sshCommand("ssh", "-T", at, "wc -c")...), "1048576\n")
	want("much out", fmt.Sprint(len(app("", sshCommand("ssh", "-T", at, "cat /mnt/file")...))), "1700000")
	wire.Stop()
	if plain := wire.Contains([]byte("SSH-2.0-OpenSSH")); plain != (server == s.plain) {
		t.Errorf("SSH is to be read on the wire: %t", plain)
	}
	s.testFiles(t, app, want, at, inBrackets)
	s.testRepository(t, app, want, at, inBrackets)
	s.testShared(t, app, want, at)
}

// testFiles copies by scp, sftp and rsync, in both directions.
func (s *sshField) testFiles(t *testing.T, app func(string, ...string) string, want func(string, string, string), at, inBrackets string) {
	t.Helper()
	remote := "root@" + inBrackets + ":"
	length := func(name string) string { return app("", "wc", "-c", "/mnt/"+name) }
	app("", sshCommand("scp", "-q", remote+"/mnt/file", "/mnt/by-scp")...)
	want("scp", length("by-scp"), "1700000 /mnt/by-scp\n")
	app("", sshCommand("scp", "-q", "/mnt/by-scp", remote+"/mnt/back")...)
	app("get /mnt/back /mnt/by-sftp\nput /mnt/by-sftp /mnt/back2\n", sshCommand("sftp", "-q", "-b", "-", "root@"+inBrackets)...)
	want("sftp", length("by-sftp"), "1700000 /mnt/by-sftp\n")
	over := strings.Join(sshCommand("ssh"), " ")
	app("", "rsync", "-e", over, remote+"/mnt/back2", "/mnt/by-rsync")
	app("", "rsync", "-e", over, "/mnt/by-rsync", remote+"/mnt/back3")
	want("rsync", app("", sshCommand("ssh", "-T", at, "wc -c /mnt/back3; rm /mnt/back*")...), "1700000 /mnt/back3\n")
	app("", "rm", "/mnt/by-scp", "/mnt/by-sftp", "/mnt/by-rsync")
}

// testRepository pushes to a repository and clones it.
func (s *sshField) testRepository(t *testing.T, app func(string, ...string) string, want func(string, string, string), at, inBrackets string) {
	t.Helper()
	url := "ssh://root@" + inBrackets + "/mnt/repository"
	text := "to " + at
	app("", "git", "-C", "/mnt/clone", "commit", "-q", "--allow-empty", "-m", text)
	app("", "git", "-C", "/mnt/clone", "push", "-q", url, "HEAD:refs/heads/main")
	app("", "git", "clone", "-q", "-b", "main", url, "/mnt/again")
	want("git", app("", "git", "-C", "/mnt/again", "log", "-1", "--format=%s"), text+"\n")
	app("", "rm", "-r", "/mnt/again")
}

// testShared opens a session with a terminal, and within its connection one without: the connection is then EF, and CS0
// for the time of the second.
func (s *sshField) testShared(t *testing.T, app func(string, ...string) string, want func(string, string, string), at string) {
	t.Helper()
	cmd := s.command(t, s.files, "1000:1000", append([]string{"timeout", "60"}, sshCommand("ssh", "-tt", "-M", "-S", "/mnt/control", at, "/bin/sh")...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	typed, err := cmd.StdinPipe()
	if err == nil {
		err = s.client.NS.Do(cmd.Start)
	}
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(s.files, "control")); err == nil {
			break
		}
	}
	for range 3 {
		want("a second channel", app("", sshCommand("ssh", "-T", "-S", "/mnt/control", at, "echo second; sleep 0.2; echo channel")...), "second\nchannel\n")
	}
	_, err = io.WriteString(typed, "echo $((40 + 2))-typed; exit\n")
	if waitErr := cmd.Wait(); err != nil || waitErr != nil || !strings.Contains(out.String(), "42-typed") {
		t.Errorf("the session with a terminal: %v, %v\n%s", err, waitErr, &out)
	}
}
