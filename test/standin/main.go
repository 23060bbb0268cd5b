// Command standin takes the place of an application in the tests on a cluster: it listens where a manifest says and
// calls what the manifest's environment names, so that what a mesh does to real manifests can be seen without the
// images of others. It is FROM scratch and static, writes nothing to disk and runs as any user; ports below 1024 are
// for those whom the container runtime lets have them.
//
//	standin serve [--port N ...] [--grpc-port N] [--delay D]
//	standin call  [--retries N] [--timeout D] URL ...
//	standin load  --rate N [--keepalive] [--for D] [--port N] [--timeout D] URL ...
//	standin auto
//
// Every port that serve and auto listen on speaks HTTP/1.1, and HTTP/2 without TLS for the gRPC health protocol:
//
//	/                  200 {"host":…, "port":…, "remote":…}; so does every path that is not below
//	/healthz           200, and after /fail 503 (gRPC: NOT_SERVING) until /heal
//	/slow?d=300ms      answers after that time, at most a minute
//	/echo?n=1000       n bytes, at most 16 MiB; of a POST, its body
//	/calls             auto: what came of the calls, per target
//
// On SIGTERM a server goes on for a second, in which Services learn that the pod ends, closes what clients keep open,
// finishes the requests that run and exits 0, within 5 s in all.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

// errFailed is the end of a command that has said on its standard output what failed.
var errFailed = errors.New("a request failed")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "standin:", err)
		os.Exit(1)
	}
}

// run is the program. It ends when its command has, or soon after ctx.
func run(ctx context.Context, args, environ []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("want serve, call, load or auto")
	}
	env := environment(environ)
	switch command, rest := args[0], args[1:]; command {
	case "serve":
		return serve(ctx, rest)
	case "call":
		return call(ctx, rest, out)
	case "load":
		return load(ctx, rest, env, out)
	case "auto":
		return auto(ctx, rest, env)
	default:
		return fmt.Errorf("%q is none of serve, call, load, auto", command)
	}
}

// environment is what os.Environ returns, by name.
func environment(environ []string) map[string]string {
	env := map[string]string{}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		env[name] = value
	}
	return env
}

// ports is a flag that may be repeated, and a comma list.
type ports []int

func (p *ports) String() string { return strings.Trim(fmt.Sprint([]int(*p)), "[]") }

// Set adds the ports of a comma list.
func (p *ports) Set(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(part), 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("%q is not a port", part)
		}
		*p = append(*p, int(n))
	}
	return nil
}

// targets parses a command's flags and returns what follows them: URLs, at least one.
func targets(flags *flag.FlagSet, args []string) ([]string, error) {
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() == 0 {
		return nil, fmt.Errorf("%s: want URLs after the flags", flags.Name())
	}
	for _, target := range flags.Args() {
		if !strings.HasPrefix(target, "http://") {
			return nil, fmt.Errorf("%s: %q does not begin with http:// (flags come before URLs)", flags.Name(), target)
		}
	}
	return flags.Args(), nil
}

func nothing(flags *flag.FlagSet, args []string) error {
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("%s: %q is not a flag", flags.Name(), flags.Arg(0))
	}
	return err
}

func printJSON(out io.Writer, value any) error { return json.NewEncoder(out).Encode(value) }
