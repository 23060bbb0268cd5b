//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// ErrNoProbe says that the container has no such probe.
var ErrNoProbe = errors.New("no such probe")

// Probe performs a probe once, over the network from the node, as the kubelet does. Field is startupProbe,
// readinessProbe or livenessProbe.
func (p *Pod) Probe(ctx context.Context, container, field string) error {
	c := p.containerSpec(container)
	if c == nil {
		return fmt.Errorf("pod %s has no container %s", p.Name, container)
	}
	probe := map[string]*corev1.Probe{"startupProbe": c.StartupProbe, "readinessProbe": c.ReadinessProbe, "livenessProbe": c.LivenessProbe}[field]
	if probe == nil {
		return ErrNoProbe
	}
	ctx, cancel := context.WithTimeout(ctx, max(time.Duration(probe.TimeoutSeconds), 1)*time.Second)
	defer cancel()
	switch {
	case probe.HTTPGet != nil:
		return p.httpGet(ctx, c, probe.HTTPGet)
	case probe.TCPSocket != nil:
		port, err := numberOf(c, probe.TCPSocket.Port)
		if err != nil {
			return err
		}
		conn, err := p.node.DialContext(ctx, "tcp", net.JoinHostPort(p.IP4.String(), port))
		if err != nil {
			return err
		}
		return conn.Close()
	}
	return fmt.Errorf("container %s: %s: the lab probes with httpGet and tcpSocket only", container, field)
}

// postStart runs a container's postStart handler.
func (p *Pod) postStart(ctx context.Context, c corev1.Container) error {
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return nil
	}
	if err := p.handle(ctx, &c, c.Lifecycle.PostStart); err != nil {
		return fmt.Errorf("container %s: postStart: %w", c.Name, err)
	}
	return nil
}

// preStop runs a container's preStop handler.
func (p *Pod) preStop(container string) error {
	c := p.containerSpec(container)
	if c == nil || c.Lifecycle == nil || c.Lifecycle.PreStop == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), gracePeriod)
	defer cancel()
	if err := p.handle(ctx, c, c.Lifecycle.PreStop); err != nil {
		return fmt.Errorf("container %s: preStop: %w", container, err)
	}
	return nil
}

// handle performs a lifecycle handler.
func (p *Pod) handle(ctx context.Context, c *corev1.Container, handler *corev1.LifecycleHandler) error {
	switch {
	case handler.HTTPGet != nil:
		return p.httpGet(ctx, c, handler.HTTPGet)
	case handler.Sleep != nil:
		time.Sleep(time.Duration(handler.Sleep.Seconds) * time.Second)
		return nil
	case handler.Exec != nil:
		return p.exec(ctx, *c, handler.Exec.Command)
	}
	return fmt.Errorf("the lab knows handlers with httpGet, sleep and exec only")
}

// exec runs a command in a container that is like the started one: of the same image, user, capabilities, files and
// network.
func (p *Pod) exec(ctx context.Context, c corev1.Container, command []string) error {
	c.Command, c.Args = command, nil
	run, err := p.startContainer(c)
	if err != nil {
		return err
	}
	code, err := run.Wait(ctx)
	if err != nil {
		run.Kill()
		return err
	}
	if code != 0 {
		return fmt.Errorf("%q: exit code %d: %s", command, code, run.Log())
	}
	return nil
}

// httpGet succeeds with a status from 200 to 399 (kubernetes, pkg/probe/http).
func (p *Pod) httpGet(ctx context.Context, c *corev1.Container, get *corev1.HTTPGetAction) error {
	port, err := numberOf(c, get.Port)
	if err != nil {
		return err
	}
	if get.Scheme != "" && get.Scheme != corev1.URISchemeHTTP || get.Host != "" {
		return fmt.Errorf("httpGet with scheme %q and host %q: the lab asks pods by HTTP only", get.Scheme, get.Host)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(p.IP4.String(), port)+get.Path, nil)
	if err != nil {
		return err
	}
	for _, h := range get.HTTPHeaders {
		req.Header.Add(h.Name, h.Value)
	}
	resp, err := p.node.client().Do(req)
	if err != nil {
		return err
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 10<<10)) // as much as the kubelet reads
	resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("httpGet %s: %s: %s", get.Path, resp.Status, strings.TrimSpace(string(body)))
	}
	return nil
}

// client asks from inside the namespace, with a connection per request.
func (n *Namespace) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: n.DialContext}}
}

// HTTP asks from inside the pod, with a connection per request, and does not follow redirects by name.
func (p *Pod) HTTP() *http.Client {
	c := p.NS.client()
	c.Timeout = 10 * time.Second
	return c
}

func (p *Pod) containerSpec(name string) *corev1.Container {
	for _, list := range [][]corev1.Container{p.spec.InitContainers, p.spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

func numberOf(c *corev1.Container, port intstr.IntOrString) (string, error) {
	if port.Type == intstr.Int {
		return strconv.Itoa(int(port.IntVal)), nil
	}
	for _, named := range c.Ports {
		if named.Name == port.StrVal {
			return strconv.Itoa(int(named.ContainerPort)), nil
		}
	}
	return "", fmt.Errorf("container %s has no port %q", c.Name, port.StrVal)
}
