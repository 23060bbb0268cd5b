// Command app is the application of all tests and examples. It takes the place of real applications, so that what a
// mesh does to manifests can be seen without the images of others; it writes nothing to disk, runs as any user and
// speaks no TLS but where it is told to.
//
//	app serve   [--port N ...] [--tls-port N ...] [--udp-port N ...] [--listen IP] [--http1] [--delay D]
//	app call    [--retries N] [--timeout D] [--quit] URL ...
//	app load    --rate N [--keepalive] [--for D] [--port N] [--timeout D] URL ...
//	app standin
//	app hook    [--port N] [--cert FILE] [--key FILE]
//	app talk    PORTS
//	app web|api|db|report
//
// serve answers on its ports: HTTP/1.1, and HTTP/2 without TLS for the gRPC health protocol; HTTPS with a certificate
// that nobody knows; datagrams, which it sends back. call asks once, and prints a line of JSON per URL (client.Answer);
// talk://HOST:PORT is the client's half of the conversation of the port (package talk). load asks at a rate and keeps a
// ledger (load.Stats). standin serves and calls as the environment of a manifest says. hook is what API servers call:
// webhooks and an aggregated API. talk holds the server's half of the conversations of package talk, such as on
// 21000-21179. web, api, db and report are the roles of examples/shop.
//
// On SIGTERM a server goes on for a second, in which Services learn that the pod ends, closes what clients keep open,
// finishes the requests that run and exits 0, within 5 s in all. web and api end their listeners at once, as plain
// programs do, and give what runs 10 s.
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
	"slices"
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
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

// run is the program. It ends when its command has, or soon after ctx.
func run(ctx context.Context, args, environ []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("want a command: serve, call, load, standin, hook, talk, web, api, db or report")
	}
	env := environment(environ)
	switch command, rest := args[0], args[1:]; command {
	case "serve":
		return serve(ctx, rest)
	case "call":
		return call(ctx, rest, out)
	case "load":
		return runLoad(ctx, rest, env, out)
	case "standin":
		return standin(ctx, rest, env)
	case "hook":
		return hook(ctx, rest)
	case "talk":
		return runTalk(ctx, rest, out)
	case "web", "api", "db", "report":
		return shop(ctx, args, env, out)
	default:
		return fmt.Errorf("%q is none of serve, call, load, standin, hook, talk, web, api, db, report", command)
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

// targets parses a command's flags and returns what follows them: URLs of the schemes, at least one.
func targets(flags *flag.FlagSet, args []string, schemes ...string) ([]string, error) {
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() == 0 {
		return nil, fmt.Errorf("%s: want URLs after the flags", flags.Name())
	}
	for _, target := range flags.Args() {
		if !slices.ContainsFunc(schemes, func(scheme string) bool { return strings.HasPrefix(target, scheme) }) {
			return nil, fmt.Errorf("%s: %q does not begin with %s (flags come before URLs)", flags.Name(), target, strings.Join(schemes, " or "))
		}
	}
	return flags.Args(), nil
}

// noArgs parses the flags of a command that takes nothing else.
func noArgs(flags *flag.FlagSet, args []string) error {
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("%s: %q is not a flag", flags.Name(), flags.Arg(0))
	}
	return err
}

func printJSON(out io.Writer, value any) error { return json.NewEncoder(out).Encode(value) }
