// Command meshless-proxy is the sidecar: it encrypts and verifies what leaves the pod and what arrives at it, with the
// identity that it finds in a directory. It needs no API access, no capability and no peer but the pods that it talks
// to.
package main

import (
	"fmt"
	"os"

	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/sidecar"
)

func main() {
	if err := sidecar.Main(os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "meshless-proxy:", err)
		os.Exit(podplan.ExitCode(err))
	}
}
