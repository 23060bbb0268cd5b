// Command explicit is our proxy as the bench measures it without redirect rules: its command line says where
// connections go, in place of the kernel's connection tracking. Everything else is the sidecar's own. It belongs to no
// image.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/proxy/sidecar"
)

// setup is the only argument, in JSON.
type setup struct {
	Directory   string
	Addresses   sidecar.Addresses
	Target, App netip.AddrPort // where outbound and inbound connections go
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "explicit:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("want one argument, the setup in JSON")
	}
	var in setup
	if err := json.Unmarshal([]byte(args[0]), &in); err != nil {
		return err
	}
	redirect := sidecar.Explicit(in.Target, in.App)
	redirect.Clients = clientaddr.Ranges{V4: netip.MustParsePrefix("127.6.0.0/16")} // as in a pod
	s, err := sidecar.New(sidecar.Options{Directory: in.Directory, Pprof: true, Addresses: in.Addresses, Redirect: redirect, NameServers: []netip.AddrPort{},
		Confine: true})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return s.Run(ctx)
}
