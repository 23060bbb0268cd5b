//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/test/program"
)

// process is what enter needs to become a container; it travels in the environment variable enterVariable.
type process struct {
	Root          string            // an empty directory, the place of the root file system
	Binds         map[string]string // path in the container -> file or directory on this machine
	ReadOnlyRoot  bool
	ReadOnlyBinds []string
	UID, GID      int
	Capabilities  []int
	NoNewPrivs    bool
	Argv, Env     []string
}

const enterVariable = "MESHLESS_LAB_CONTAINER"

// Container is a started container.
type Container struct {
	Name string
	cmd  *exec.Cmd
	log  program.Output
	done chan struct{} // closed when the process has ended and its output is complete
}

// startContainer starts the container of a pod as its spec says.
func (p *Pod) startContainer(c corev1.Container) (*Container, error) {
	spec, err := p.process(c)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", c.Name, err)
	}
	return p.lab.startProcess(c.Name, p.nsFile, spec)
}

// startProcess starts a process in a network namespace.
func (l *Lab) startProcess(name string, namespace *os.File, spec *process) (*Container, error) {
	encoded, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	started := &Container{Name: name, done: make(chan struct{})}
	started.cmd = &exec.Cmd{
		Path: self, Args: []string{"lab-container"}, Env: []string{enterVariable + "=" + string(encoded)},
		Stdout: &started.log, Stderr: &started.log, ExtraFiles: []*os.File{namespace},
	}
	failed := make(chan error, 1)
	l.start <- func() { failed <- started.cmd.Start() }
	if err := <-failed; err != nil {
		return nil, fmt.Errorf("container %s: %w", name, err)
	}
	go func() {
		started.cmd.Wait() // the exit code is in ProcessState
		close(started.done)
	}()
	return started, nil
}

// process reads the container's spec. Everything that it does not know is an error.
func (p *Pod) process(c corev1.Container) (*process, error) {
	image, ok := p.lab.images[c.Image]
	if !ok {
		return nil, fmt.Errorf("the lab has no image %q", c.Image)
	}
	uid, gid := image.UID, image.UID
	spec := &process{Binds: map[string]string{image.Entrypoint: image.Binary}}
	for target, source := range image.Folders {
		spec.Binds[target], spec.ReadOnlyBinds = source, append(spec.ReadOnlyBinds, target)
	}
	if s := c.SecurityContext; s != nil {
		if s.RunAsUser != nil {
			if uid = int(*s.RunAsUser); uid != image.UID {
				gid = 0 // as the runtime does for a user that the image's /etc/passwd does not know
			}
		}
		if s.RunAsGroup != nil {
			gid = int(*s.RunAsGroup)
		}
		if s.RunAsNonRoot != nil && *s.RunAsNonRoot && uid == 0 {
			return nil, fmt.Errorf("runAsNonRoot, but would run as root")
		}
		spec.ReadOnlyRoot = s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem
		spec.NoNewPrivs = s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation
	}
	spec.UID, spec.GID = uid, gid
	var err error
	if spec.Capabilities, err = capabilities(c.SecurityContext); err != nil {
		return nil, err
	}
	if err := p.bindFiles(c, spec); err != nil {
		return nil, err
	}
	if spec.Env, err = p.environment(c); err != nil {
		return nil, err
	}
	spec.Argv = append([]string{image.Entrypoint}, c.Args...)
	if len(c.Command) > 0 {
		spec.Argv = append(append([]string{}, c.Command...), c.Args...)
	}
	for i, arg := range spec.Argv {
		spec.Argv[i] = expand(arg, spec.Env)
	}
	return spec, nil
}

// bindFiles adds what the kubelet and the runtime put into the container's file system.
func (p *Pod) bindFiles(c corev1.Container, spec *process) error {
	root, err := os.MkdirTemp(p.dir, "root-"+c.Name+"-")
	if err != nil {
		return err
	}
	spec.Root = root
	spec.Binds["/etc/resolv.conf"] = filepath.Join(p.dir, "resolv.conf")
	spec.Binds["/etc/hosts"] = filepath.Join(p.dir, "hosts")
	for _, device := range []string{"/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"} {
		spec.Binds[device] = device
	}
	for _, m := range c.VolumeMounts {
		v, ok := p.volumes[m.Name]
		if !ok {
			return fmt.Errorf("volume mount %q: the pod has no such volume", m.Name)
		}
		if spec.Binds[m.MountPath], err = v.at(m); err != nil {
			return err
		}
		if m.ReadOnly {
			spec.ReadOnlyBinds = append(spec.ReadOnlyBinds, m.MountPath)
		}
	}
	return nil
}

// Log is what the container has printed so far.
func (c *Container) Log() string { return c.log.String() }

// PID is the container's process.
func (c *Container) PID() int { return c.cmd.Process.Pid }

// Running tells whether the process has not ended.
func (c *Container) Running() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// Wait returns the exit code; -1 is a process that a signal ended.
func (c *Container) Wait(ctx context.Context) (int, error) {
	select {
	case <-c.done:
		return c.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("container %s: still running: %w", c.Name, ctx.Err())
	}
}

// Stop sends SIGTERM and waits, then kills, which is an error.
func (c *Container) Stop(grace time.Duration) (int, error) {
	c.cmd.Process.Signal(syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	code, err := c.Wait(ctx)
	if err != nil {
		c.Kill()
	}
	return code, err
}

// Kill ends the process at once, as an out-of-memory kill does.
func (c *Container) Kill() {
	c.cmd.Process.Kill()
	<-c.done
}
