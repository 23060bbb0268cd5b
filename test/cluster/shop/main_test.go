//go:build e2e && linux

package shop

import (
	"os"
	"testing"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/kube"
)

const shopImage = "ghcr.io/meshless-dev/shop:" + api.Version

func TestMain(m *testing.M) { os.Exit(kube.Main(m)) }
