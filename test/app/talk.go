package main

import (
	"context"
	"errors"
	"io"

	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/test/app/talk"
)

// runTalk holds the server's half of a conversation on every port of the ranges that has one.
func runTalk(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("talk: want one argument: ports, such as 21000-21179,22000")
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
