//go:build linux

package stage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
)

// Ports of the chain: of those who answer, and of those who ask, who say there what came of it.
const (
	AppPort    = 8080
	CallerPort = 8090
)

// forwards are `kubectl port-forward` processes, one per pod, opened when they are first needed. What they bring
// arrives at the pod's loopback, so neither the proxy's private port nor a Strict one keeps the test out.
type forwards struct {
	namespace string
	mu        sync.Mutex
	open      map[string]*forward
}

type forward struct {
	cmd   *exec.Cmd
	ports map[int]string // local address by the pod's port
}

func newForwards(t *testing.T, namespace string) *forwards {
	f := &forwards{namespace: namespace, open: map[string]*forward{}}
	t.Cleanup(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for pod := range f.open {
			f.drop(pod)
		}
	})
	return f
}

// get asks a pod. A forwarding that broke, as when a pod's network or containerd went, is opened once more.
func (f *forwards) get(pod string, port int, path string) (body []byte, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range 2 {
		if body, err = f.try(pod, port, path); err == nil {
			return body, nil
		}
		f.drop(pod)
	}
	return nil, fmt.Errorf("pod %s, port %d, %s: %w", pod, port, path, err)
}

func (f *forwards) try(pod string, port int, path string) ([]byte, error) {
	if f.open[pod] == nil {
		opened, err := f.start(pod)
		if err != nil {
			return nil, err
		}
		f.open[pod] = opened
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + f.open[pod].ports[port] + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return body, err
}

var forwarding = regexp.MustCompile(`^Forwarding from (127\.0\.0\.1:\d+) -> (\d+)`)

func (f *forwards) start(pod string) (*forward, error) {
	cmd := exec.Command("kubectl", "-n", f.namespace, "port-forward", "--address=127.0.0.1", "pod/"+pod, fmt.Sprintf(":%d", api.AdminPort), fmt.Sprintf(":%d", CallerPort))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	started := &forward{cmd: cmd, ports: map[int]string{}}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			_ = cmd.Process.Kill() // ends the scan below
		}
	})()
	lines := bufio.NewScanner(out)
	for len(started.ports) < 2 && lines.Scan() {
		if m := forwarding.FindStringSubmatch(lines.Text()); m != nil {
			port, _ := strconv.Atoi(m[2]) // digits, says the pattern
			started.ports[port] = m[1]
		}
	}
	if len(started.ports) < 2 {
		started.end()
		return nil, errors.New("kubectl port-forward ended, or said nothing for 15 s")
	}
	go io.Copy(io.Discard, out) // it says each connection, and would wait for a reader
	return started, nil
}

func (f *forward) end() {
	_ = f.cmd.Process.Kill()
	_ = f.cmd.Wait()
}

func (f *forwards) drop(pod string) {
	if open := f.open[pod]; open != nil {
		open.end()
		delete(f.open, pod)
	}
}
