//go:build !linux

package apply

import (
	"fmt"
	"io"
	"runtime"

	"github.com/meshless-dev/meshless/internal/podplan"
)

// Apply fails: there are no nftables here.
func Apply(podplan.InitArgs, io.Writer) error { return errNotLinux() }

// Remove fails: there is nothing to remove here.
func Remove(io.Writer) error { return errNotLinux() }

func errNotLinux() error {
	return fmt.Errorf("routing a pod through the proxy needs the nftables of Linux, this is %s", runtime.GOOS)
}
