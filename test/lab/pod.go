//go:build linux

package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Pod is a running pod.
type Pod struct {
	Name, Namespace string
	IP4, IP6        netip.Addr
	NS              *Namespace

	lab                 *Lab
	node                *Node
	labels, annotations map[string]string
	hostname, subdomain string
	spec                corev1.PodSpec
	dir, veth           string
	nsFile              *os.File
	volumes             map[string]*volume
	sidecars, apps      []*Container // in order of their start
	finished            []*Container // init containers that have run to their end

	// Guarded by lab.mu.
	ready    bool
	reported bool // the API server knows the pod's address
}

// startTimeout bounds how long one container may take to start, gracePeriod how long its preStop handler and its end
// may, each: the default of Kubernetes, for both.
const (
	startTimeout = 20 * time.Second
	gracePeriod  = 30 * time.Second
)

// AddPod makes a pod without containers: an address, for clients of the test itself.
func (l *Lab) AddPod(namespace, name string) *Pod {
	l.tb.Helper()
	p, err := l.addPod(l.Node, Workload{Namespace: namespace, Name: name}, PodOptions{})
	if err != nil {
		l.tb.Fatalf("lab: pod %s: %v", name, err)
	}
	p.Report()
	return p
}

// StartPod starts one pod of the workload, given as kind/namespace/name, as the kubelet does, and waits until it is
// ready. It fails the test, with the logs, when a container does not come up.
func (l *Lab) StartPod(workload string) *Pod {
	l.tb.Helper()
	return l.StartPodOn(l.Node, workload)
}

// StartPodOn is StartPod on another node than the first.
func (l *Lab) StartPodOn(node *Node, workload string) *Pod {
	l.tb.Helper()
	return l.Start(workload, PodOptions{Node: node})
}

// PodOptions say how Start starts a pod. The zero value is a pod on the first node that is the first of its workload
// and becomes ready.
type PodOptions struct {
	Node       *Node
	Ordinal    int               // of the workload's pods
	Labels     map[string]string // put on at run time, beside those of the template
	Unready    bool              // it runs, and its readiness probe is said to fail
	Unreported bool              // the API server does not know its address yet: see Report

	// What goes wrong at the start of a pod. The zero values are a pod that starts as it should.
	WithoutInit bool                   // the sidecars are started although no init container has run
	BeforeProxy func(*Namespace) error // called when the init containers have ended
	Within      time.Duration          // how long the start may take; default 40 s
}

// Start is StartPod with options.
func (l *Lab) Start(workload string, options PodOptions) *Pod {
	l.tb.Helper()
	return l.StartAll(PodRequest{workload, options})[0]
}

// TryStart is Start of a pod that may not come up. It returns the pod as far as it got, and why it got no further.
func (l *Lab) TryStart(workload string, options PodOptions) (*Pod, error) {
	return l.startPod(PodRequest{workload, options})
}

// PodRequest is a pod that StartAll starts.
type PodRequest struct {
	Workload string // kind/namespace/name
	PodOptions
}

// StartAll starts pods side by side and returns them in the same order.
func (l *Lab) StartAll(requests ...PodRequest) []*Pod {
	l.tb.Helper()
	pods, errs := make([]*Pod, len(requests)), make([]error, len(requests))
	var started sync.WaitGroup
	slots := make(chan struct{}, 4)
	for i, r := range requests {
		started.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			pods[i], errs[i] = l.startPod(r)
		})
	}
	started.Wait()
	if err := errors.Join(errs...); err != nil {
		l.tb.Fatalf("lab: %v", err)
	}
	return pods
}

func (l *Lab) startPod(r PodRequest) (*Pod, error) {
	l.mu.Lock()
	w, ok := l.objects.Workloads[r.Workload]
	l.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("no workload %q", r.Workload)
	}
	p, err := l.addPod(cmp.Or(r.Node, l.Node), w, r.PodOptions)
	if err == nil {
		err = p.startAll(r.PodOptions)
	}
	if err == nil && !r.Unready {
		err = l.tryChange(func() { p.ready = true })
	}
	if err != nil {
		return p, fmt.Errorf("pod of %s: %w", r.Workload, err)
	}
	return p, nil
}

func (l *Lab) addPod(node *Node, w Workload, options PodOptions) (*Pod, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastPod++
	name := w.Name
	if w.Kind != "" {
		name = fmt.Sprintf("%s-%d", w.Name, options.Ordinal)
	}
	p := &Pod{
		Name: name, Namespace: w.Namespace, lab: l, node: node, labels: merged(w.Template.Labels, options.Labels),
		annotations: w.Template.Annotations, spec: w.Template.Spec,
		IP4: after(l.network.Pods4, l.lastPod), IP6: after(l.network.Pods6, l.lastPod),
		hostname: w.Template.Spec.Hostname, subdomain: w.Subdomain,
		dir: filepath.Join(l.dir, fmt.Sprintf("%d-%s", l.lastPod, name)), volumes: map[string]*volume{},
	}
	if w.StatefulSet { // what its controller adds
		p.hostname = name
		p.labels["statefulset.kubernetes.io/pod-name"] = name
		p.labels["apps.kubernetes.io/pod-index"] = fmt.Sprint(options.Ordinal)
	}
	var err error
	if p.NS, err = newNamespace(); err != nil {
		return nil, err
	}
	p.nsFile = os.NewFile(uintptr(p.NS.handle), "netns")
	l.pods = append(l.pods, p)
	if err := errors.Join(l.connect(p, l.lastPod), os.Mkdir(p.dir, 0o755), p.writeNames()); err != nil {
		return nil, err
	}
	if err := errors.Join(p.addVolumes(), p.setSysctls()); err != nil {
		return nil, err
	}
	return p, p.syncVolumes(l.objects)
}

// writeNames makes the files by which the pod's programs resolve names.
func (p *Pod) writeNames() error {
	search := "svc.cluster.local cluster.local"
	resolv := fmt.Sprintf("nameserver %s\nsearch %s.%s %s\noptions ndots:5\n", p.lab.dns, p.Namespace, search, search)
	return errors.Join(
		os.WriteFile(filepath.Join(p.dir, "resolv.conf"), []byte(resolv), 0o644),
		os.WriteFile(filepath.Join(p.dir, "hosts"), []byte("127.0.0.1 localhost\n::1 localhost\n"), 0o644),
	)
}

// setSysctls sets what the pod's security context says, before anything of the pod runs, as the runtime does.
func (p *Pod) setSysctls() error {
	if p.spec.SecurityContext == nil {
		return nil
	}
	for _, s := range p.spec.SecurityContext.Sysctls {
		path, ok := strings.CutPrefix(strings.ReplaceAll(s.Name, ".", "/"), "net/")
		if !ok {
			return fmt.Errorf("sysctl %s: the lab knows those of the network only", s.Name)
		}
		if err := p.NS.sysctl(path, s.Value); err != nil {
			return fmt.Errorf("sysctl %s: %w", s.Name, err)
		}
	}
	return nil
}

// startAll starts init containers and sidecars in their order, then the apps, and waits for every readiness probe.
func (p *Pod) startAll(options PodOptions) error {
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(options.Within, 2*startTimeout))
	defer cancel()
	// The kubelet reports the address when the pod's first container runs.
	report := sync.OnceValue(func() error {
		if options.Unreported {
			return nil
		}
		return p.lab.tryChange(func() { p.reported = true })
	})
	beforeProxy := sync.OnceValue(func() error {
		if options.BeforeProxy == nil {
			return nil
		}
		return options.BeforeProxy(p.NS)
	})
	for _, c := range p.spec.InitContainers {
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		if !sidecar && options.WithoutInit {
			continue
		}
		if sidecar {
			if err := beforeProxy(); err != nil {
				return err
			}
		}
		started, err := p.startContainer(c)
		if err != nil {
			return err
		}
		if err := report(); err != nil {
			return err
		}
		if sidecar {
			p.sidecars = append(p.sidecars, started)
			if err := p.await(ctx, c, "startupProbe"); err != nil {
				return err
			}
			continue
		}
		p.finished = append(p.finished, started)
		if code, err := started.Wait(ctx); err != nil || code != 0 {
			return fmt.Errorf("init container %s: exit code %d: %v", c.Name, code, err)
		}
	}
	if err := beforeProxy(); err != nil {
		return err
	}
	for _, c := range p.spec.Containers {
		started, err := p.startContainer(c)
		if err != nil {
			return err
		}
		p.apps = append(p.apps, started)
		if err := report(); err != nil {
			return err
		}
		if err := p.postStart(ctx, c); err != nil { // the next container waits for it
			return err
		}
	}
	for _, c := range p.spec.Containers {
		if err := errors.Join(p.await(ctx, c, "startupProbe"), p.await(ctx, c, "readinessProbe")); err != nil {
			return err
		}
	}
	return nil
}

// await repeats a probe until it succeeds. A container without that probe is taken as it is.
func (p *Pod) await(ctx context.Context, c corev1.Container, field string) error {
	for {
		err := p.Probe(ctx, c.Name, field)
		if err == nil || errors.Is(err, ErrNoProbe) {
			return nil
		}
		if running := p.Container(c.Name); running != nil && !running.Running() {
			return fmt.Errorf("container %s: has ended with exit code %d", c.Name, running.cmd.ProcessState.ExitCode())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("container %s: %s: %w", c.Name, field, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Container is a started container by its name, or nil.
func (p *Pod) Container(name string) *Container {
	for _, list := range [][]*Container{p.finished, p.sidecars, p.apps} {
		for _, c := range list {
			if c.Name == name {
				return c
			}
		}
	}
	return nil
}

// Stop ends the pod as the kubelet does: out of its Services, all apps at once, each with its preStop handler and then
// SIGTERM, and after them the sidecars in reverse order. It returns the exit codes by container.
func (p *Pod) Stop() (map[string]int, error) {
	p.SetReady(false)
	var err error
	codes := map[string]int{}
	var mu sync.Mutex // guards codes and err
	stop := func(c *Container) {
		hookErr := p.preStop(c.Name)
		code, stopErr := c.Stop(gracePeriod)
		mu.Lock()
		defer mu.Unlock()
		codes[c.Name], err = code, errors.Join(err, hookErr, stopErr)
	}
	var apps sync.WaitGroup
	for _, c := range p.apps {
		apps.Go(func() { stop(c) })
	}
	apps.Wait()
	for i := len(p.sidecars) - 1; i >= 0; i-- {
		stop(p.sidecars[i])
	}
	p.lab.change(func() { p.reported = false })
	return codes, err
}

// Report tells the API server the pod's address, and waits until the name server knows.
func (p *Pod) Report() { p.lab.change(func() { p.reported = true }) }

// SetReady makes the pod's readiness known.
func (p *Pod) SetReady(ready bool) { p.lab.change(func() { p.ready = ready }) }

// SetLabel puts a label on the running pod, as agents and operators do; an empty value takes it off.
func (p *Pod) SetLabel(key, value string) {
	p.lab.change(func() {
		if p.labels[key] = value; value == "" {
			delete(p.labels, key)
		}
	})
}

// StopSidecars ends the sidecars alone, as the kubelet does when the apps of a Job's pod have ended by themselves.
func (p *Pod) StopSidecars() (map[string]int, error) {
	p.apps = nil
	return p.Stop()
}

// DialContext connects from inside the pod, as its app would: init's rules apply.
func (p *Pod) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return p.NS.DialContext(ctx, network, address)
}

// IP is the pod's address of the family, 4 or 6.
func (p *Pod) IP(family int) netip.Addr {
	if family == 4 {
		return p.IP4
	}
	return p.IP6
}

// kill ends every process of the pod and lets go of its namespace.
func (p *Pod) kill() {
	for _, list := range [][]*Container{p.apps, p.sidecars, p.finished} {
		for _, c := range list {
			if c.Running() {
				c.Kill()
			}
		}
	}
	p.nsFile.Close()
}

func (p *Pod) dumpLogs(tb testing.TB) {
	for _, list := range [][]*Container{p.finished, p.sidecars, p.apps} {
		for _, c := range list {
			tb.Logf("--- %s/%s, container %s ---\n%s", p.Namespace, p.Name, c.Name, c.Log())
		}
	}
}
