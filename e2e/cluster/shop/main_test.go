//go:build e2e && linux

package shop

import (
	"os"
	"testing"

	"github.com/meshless-dev/meshless/e2e/cluster/kube"
	"github.com/meshless-dev/meshless/internal/contract"
)

const shopImage = "ghcr.io/meshless-dev/shop:" + contract.Version

func TestMain(m *testing.M) { os.Exit(kube.Main(m)) }
