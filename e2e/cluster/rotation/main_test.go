//go:build e2e && linux

package rotation

import (
	"os"
	"testing"

	"github.com/meshless-dev/meshless/e2e/cluster/kube"
)

func TestMain(m *testing.M) { os.Exit(kube.Main(m)) }
