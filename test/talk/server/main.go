// The server of package talk: it holds the server's half of a conversation on every port of the ranges that it is
// given, such as 21000-21179.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/test/talk"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "talk:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("want one argument: ports, such as 21000-21179,22000")
	}
	ranges, err := netset.ParsePorts(args[0])
	if err != nil {
		return err
	}
	var ports []int
	for _, r := range ranges {
		for port := int(r.First); port <= int(r.Last); port++ {
			if _, ok := talk.Of(port); ok {
				ports = append(ports, port)
			}
		}
	}
	return talk.Serve(ctx, ports, out)
}
