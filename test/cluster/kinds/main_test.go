//go:build e2e && linux

package kinds

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/test/cluster/kube"
)

func TestMain(m *testing.M) {
	if err := loadOdd(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(kube.Main(m))
}

// loadOdd builds and loads the image of ./app where the node is of this machine and lacks it. Elsewhere whoever made
// the cluster has loaded it (docs/testing.md).
func loadOdd() error {
	dir := os.Getenv("D")
	if dir == "" {
		dir = "/tmp/kube"
	}
	sock := dir + "/containerd/sock"
	if _, err := os.Stat(sock); err != nil {
		return nil
	}
	images, err := exec.Command("ctr", "-a", sock, "-n", "k8s.io", "images", "ls", "-q").Output()
	if err != nil || strings.Contains(string(images), "meshless-test/odd:latest") {
		return err
	}
	if out, err := exec.Command("bash", "image.sh").CombinedOutput(); err != nil {
		return fmt.Errorf("image.sh: %w\n%s", err, out)
	}
	return nil
}
