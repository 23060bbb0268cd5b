// Meshless-init runs as the first init container of a pod in the mesh. It routes the pod's TCP through the sidecar proxy, prints the
// rules that the kernel then holds, and exits. It needs the capability NET_ADMIN, and NET_RAW for the legacy iptables alone. Its command line is
// contract.InitArgs; any failure exits 1, so that the pod does not start unprotected.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/meshless-dev/meshless/init/apply"
	"github.com/meshless-dev/meshless/internal/contract"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", contract.InitName, err)
		os.Exit(1)
	}
}

func run(args []string, stdout, stderr io.Writer) error {
	parsed, err := contract.ParseInitArgs(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	return apply.Apply(parsed, stdout)
}
