//go:build e2e && linux

package restricted

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
)

// testRenewal gives every workload a new certificate while the loads run, half of their requests on kept connections.
func (r *room) testRenewal(t *testing.T) {
	settle(t)
	before := r.rendered
	var renew []string
	for _, namespace := range []string{without, with} {
		for _, workload := range []string{"deployment/web", "statefulset/member", "pod/load"} {
			renew = append(renew, "--renew", namespace+"/"+workload)
		}
	}
	r.folder.Issue(t, time.Now(), renew...)
	r.apply(t)
	renewed := 0
	for id, leaf := range r.rendered.Leaves {
		if old := before.Leaves[id]; old != nil && !old.Equal(leaf) {
			renewed++
		}
	}
	if renewed != 6 {
		t.Errorf("%d leaves were renewed, want those of web, member and load in two namespaces", renewed)
	}
	for _, namespace := range []string{without, with} {
		for _, pod := range stage.Pods(t, namespace, "app in (web,member,load)") {
			id := pod.Annotations[api.WorkloadAnnotation]
			stage.Poll(t, 150*time.Second, func() error { return r.inForce(t, namespace, pod.Name, id) })
		}
	}
	stage.WantNoFailure(t, without)
	stage.WantNoFailure(t, with)
}

// inForce tells whether a pod's proxy uses the leaf that was applied last, by when it ends.
func (r *room) inForce(t *testing.T, namespace, pod, workload string) error {
	ends := stage.Metric(t, stage.Metrics(t, namespace, pod), "meshless_leaf_not_after_timestamp_seconds")
	for _, leaf := range r.rendered.Leaves {
		if float64(leaf.NotAfter.Unix()) == ends && len(leaf.URIs) == 1 {
			if strings.Contains(workload, `"`+leaf.URIs[0].String()+`"`) {
				return nil
			}
		}
	}
	return fmt.Errorf("%s of %s has a leaf that ends at %v, which is none of those that were applied", pod, namespace, ends)
}

// settle waits until nothing fails for a second, and lets the loads count anew.
func settle(t *testing.T) {
	t.Helper()
	stage.Poll(t, 90*time.Second, func() error {
		for _, namespace := range []string{without, with} {
			stage.ResetLoad(t, namespace)
		}
		time.Sleep(time.Second) // of load
		for _, namespace := range []string{without, with} {
			if s := stage.LoadStats(t, namespace); s.Failed > 0 || s.Requests == 0 {
				return errors.New(namespace + ": " + s.String())
			}
		}
		return nil
	})
	for _, namespace := range []string{without, with} {
		stage.ResetLoad(t, namespace)
	}
}

// testChaos kills proxies, of servers and of a client, and deletes pods, under load. Then all must be as before, and
// at no time may anything have passed in the clear, which the last step sees.
func testChaos(t *testing.T) {
	kill := func(namespace, selector string) {
		pod := stage.Pods(t, namespace, selector)[0]
		pid := stage.PID(t, stage.ContainerID(t, pod, api.ProxyName))
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Errorf("kill the proxy of %s, process %d: %v", pod.Name, pid, err)
		}
		stage.Eventually(t, func() error {
			now := stage.Pod(t, namespace, pod.Name)
			if proxy, _ := stage.Container(now, api.ProxyName); proxy.RestartCount == 0 || !stage.IsReady(now) {
				return fmt.Errorf("%s is ready: %v, and its proxy was started again %d times", pod.Name, stage.IsReady(now), proxy.RestartCount)
			}
			return nil
		})
	}
	kill(without, "app=web")
	kill(without, "app=load")
	kill(without, "statefulset.kubernetes.io/pod-name=member-0")
	kill(with, "app=web")
	stage.Must(t, "", "-n", without, "delete", "pod", stage.Pods(t, without, "app=web")[0].Name, "member-0", "--wait=false")
	stage.Must(t, "", "-n", with, "delete", "pod", "member-0", "--wait=false")
	stage.Rollout(t, without, "deployment/web", "statefulset/member")
	stage.Rollout(t, with, "statefulset/member")
	settle(t)
	stage.WantNoFailure(t, without)
	stage.WantNoFailure(t, with)
	for _, pod := range stage.Pods(t, without, "app=web") {
		wantShut(t, "http://"+pod.Status.PodIP+":8080/")
	}
}
