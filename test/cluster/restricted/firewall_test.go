//go:build e2e && linux

package restricted

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/program"
)

// enforcePolicies runs kube-router as long as the test: of all that it can do, NetworkPolicies alone. What it has made
// goes with it, also what an earlier run has left that was killed.
func enforcePolicies(t *testing.T) {
	t.Helper()
	stage.RequireNode(t)
	router := program.Find(t, "kube-router", "test/cluster/restricted/kube-router.sh builds it")
	clear := func() {
		if out, err := exec.Command("bash", "clear.sh").CombinedOutput(); err != nil {
			t.Errorf("clear.sh: %v\n%s", err, out)
		}
	}
	clear()
	state := filepath.Dir(os.Getenv("KUBECONFIG"))
	log, err := os.Create(filepath.Join(state, "log", "kube-router"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(router, "--kubeconfig="+os.Getenv("KUBECONFIG"), "--run-firewall=true", "--run-router=false", "--run-service-proxy=false", "--enable-cni=false",
		"--hostname-override="+stage.Must(t, "", "get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"), "--service-cluster-ip-range=10.96.0.0/16", "--health-port=0")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		clear()
		<-ended
	})
	if err := os.WriteFile(filepath.Join(state, "kube-router.pid"), []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	stage.Eventually(t, func() error {
		select {
		case <-ended:
			t.Fatalf("kube-router has ended; see %s", log.Name())
		default:
		}
		rules, err := exec.Command("iptables-save", "-t", "filter").Output()
		if err == nil && !strings.Contains(string(rules), "-A FORWARD -m comment --comment \"kube-router netpol") {
			err = errors.New("kube-router has made no rules yet")
		}
		return err
	})
}

// wantShut waits until a call of the stranger fails, as soon as kube-router has learned of the pod.
func wantShut(t *testing.T, url string) {
	t.Helper()
	stage.Eventually(t, func() error {
		if a := stage.Call(t, outside, "stranger", "client", url)[0]; a.Error == "" {
			return fmt.Errorf("%s answers a stranger: %+v", url, a)
		}
		return nil
	})
}

// wantOpen waits until a call of the stranger is answered.
func wantOpen(t *testing.T, url string) {
	t.Helper()
	stage.Eventually(t, func() error {
		if a := stage.Call(t, outside, "stranger", "client", url)[0]; a.Error != "" {
			return fmt.Errorf("%s: %s", url, a.Error)
		}
		return nil
	})
}
