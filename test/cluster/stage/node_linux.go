package stage

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/test/program"
)

// stateDir is where test/up.sh keeps pid files, logs and sockets of the node's processes.
func stateDir() string {
	if dir := os.Getenv("D"); dir != "" {
		return dir
	}
	return "/tmp/kube"
}

// RequireNode skips the test on a cluster whose node is not made of processes of this machine, or without root. With
// CI=true it fails instead, so that a skip cannot hide there.
func RequireNode(t *testing.T) {
	t.Helper()
	why := ""
	if _, err := os.Stat(filepath.Join(stateDir(), "kubelet.pid")); err != nil || filepath.Dir(os.Getenv("KUBECONFIG")) != stateDir() {
		why = "the processes of the node, which are of this machine only in the cluster that test/up.sh makes"
	} else if os.Geteuid() != 0 {
		why = "root"
	}
	if why != "" {
		program.Missing(t, "%s", why)
	}
}

// Daemon is one process of the node.
type Daemon struct {
	name, dir string
	args, env []string
	process   *os.Process
	reaped    chan struct{} // closed when a process that we started is gone; nil where it was there before
}

// FindDaemon is the running process of a pid file of the node, such as kubelet.
func FindDaemon(t *testing.T, name string) *Daemon {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(stateDir(), name+".pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{name: name}
	if d.process, err = os.FindProcess(pid); err != nil {
		t.Fatal(err)
	}
	proc := fmt.Sprintf("/proc/%d/", pid)
	if d.dir, err = os.Readlink(proc + "cwd"); err != nil {
		t.Fatalf("%s does not run: %v", name, err)
	}
	read := func(file string) []string {
		text, err := os.ReadFile(proc + file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(string(bytes.TrimRight(text, "\x00")), "\x00")
	}
	d.args, d.env = read("cmdline"), read("environ")
	return d
}

// Kill ends the process as a crash does, and waits until it is gone.
func (d *Daemon) Kill(t *testing.T) {
	t.Helper()
	if err := d.process.Kill(); err != nil {
		t.Fatalf("kill %s: %v", d.name, err)
	}
	for deadline := time.Now().Add(30 * time.Second); d.alive(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s, process %d, does not end", d.name, d.process.Pid)
		}
	}
}

func (d *Daemon) alive() bool {
	if d.reaped != nil {
		select {
		case <-d.reaped:
			return false
		default:
			return true
		}
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.process.Pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z ")) // a zombie of whoever started it is gone, too
}

// Start starts the process again, as it was, but for what change makes of its arguments (nil: nothing), and notes its
// id where kube-up.sh looks for it.
func (d *Daemon) Start(t *testing.T, change func(args []string) []string) {
	t.Helper()
	args := slices.Clone(d.args)
	if change != nil {
		args = change(args)
	}
	log, err := os.OpenFile(filepath.Join(stateDir(), "log", d.name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	closeOnExec(t)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = d.dir, d.env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives the test
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reaped := make(chan struct{})
	go func() { _ = cmd.Wait(); close(reaped) }()
	d.process, d.reaped = cmd.Process, reaped
	if err := os.WriteFile(filepath.Join(stateDir(), d.name+".pid"), []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// closeOnExec keeps from the daemon what this process has inherited, such as the lock of a flock(1) around the tests,
// which it would hold for good.
func closeOnExec(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// Ctr runs containerd's client on the node.
func Ctr(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ctr", append([]string{"-a", filepath.Join(stateDir(), "containerd/sock"), "-n", "k8s.io"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ctr %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// ContainerID is containerd's name of a running container.
func ContainerID(t *testing.T, pod corev1.Pod, name string) string {
	t.Helper()
	status, _ := Container(pod, name)
	id, ok := strings.CutPrefix(status.ContainerID, "containerd://")
	if !ok || status.State.Running == nil {
		t.Fatalf("container %s of %s does not run: %+v", name, pod.Name, status)
	}
	return id
}

// SandboxID is containerd's name of the pod's sandbox.
func SandboxID(t *testing.T, pod corev1.Pod) string {
	t.Helper()
	filter := fmt.Sprintf(`labels."io.kubernetes.pod.uid"==%s,labels."io.cri-containerd.kind"==sandbox`, pod.UID)
	ids := strings.Fields(Ctr(t, "containers", "ls", "-q", filter))
	if len(ids) != 1 {
		t.Fatalf("%s has %d sandboxes, want one", pod.Name, len(ids))
	}
	return ids[0]
}

// PID is the process of a container or sandbox.
func PID(t *testing.T, id string) int {
	t.Helper()
	for line := range strings.Lines(Ctr(t, "tasks", "ls")) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == id {
			pid, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("container %s has no process", id)
	return 0
}

// Has tells whether the process was found with the argument.
func (d *Daemon) Has(arg string) bool { return slices.Contains(d.args, arg) }

// Processes are those of a program in any pod: the pod's UID by process. The kernel is asked, since containerd may be
// dead.
func Processes(t *testing.T, program string) map[int]string {
	t.Helper()
	found := map[int]string{}
	files, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		comm, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(comm)) != program {
			continue // another, or gone
		}
		dir := filepath.Dir(file)
		cgroup, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		if err != nil {
			continue
		}
		if uid := podOf(string(cgroup)); uid != "" {
			pid, _ := strconv.Atoi(filepath.Base(dir)) // digits, says the pattern
			found[pid] = uid
		}
	}
	return found
}

// podOf reads a pod's UID in a path such as /kubepods/burstable/pod1b2c…/3d4e….
func podOf(cgroup string) string {
	_, rest, ok := strings.Cut(cgroup, "/pod")
	if !ok {
		return ""
	}
	uid, _, _ := strings.Cut(rest, "/")
	return strings.TrimSpace(uid)
}
