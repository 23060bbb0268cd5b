// Meshless-init runs as the first init container of a pod in the mesh. It routes the pod's TCP through the sidecar
// proxy, prints the rules that the kernel then holds, and exits. It needs the capability NET_ADMIN, and NET_RAW for the
// legacy iptables alone. With the command resolver it serves a pod without redirect rules: it writes that pod's
// resolv.conf, and needs no capability. Its command line is podplan.InitCommand; any failure exits 1, so that the pod
// does not start unprotected. With the command remove it takes the rules out again: for whoever debugs a pod or a node
// (docs/init.md), never in a manifest.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/meshless-dev/meshless/init/apply"
	"github.com/meshless-dev/meshless/init/resolver"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", api.InitName, err)
		os.Exit(1)
	}
}

func run(args []string, stdout, stderr io.Writer) error {
	command, err := podplan.ParseInitCommand(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if command.Remove {
		return apply.Remove(stdout)
	}
	if command.Resolver != nil {
		return resolver.Write(*command.Resolver, stdout)
	}
	return apply.Apply(*command.Apply, stdout)
}
