package contract

import (
	"flag"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Backend is how init writes its rules.
type Backend string

// The back ends of init.
const (
	BackendAuto     Backend = "Auto"
	BackendNFTables Backend = "NFTables"
	BackendIPTables Backend = "IPTables"
)

// InitArgs is the command line of meshless-init. The function writes it, so that a reviewer reads in the manifest what bypasses the proxy.
type InitArgs struct {
	ProxyUID                  int // whose traffic is not redirected
	ExcludeInboundPorts       Ports
	ExcludeInboundInterfaces  Interfaces
	ExcludeOutboundPorts      Ports
	ExcludeOutboundCIDRs      []netip.Prefix
	ExcludeOutboundInterfaces Interfaces
	ExcludeOutboundUIDs       UIDs
	Backend                   Backend
}

// Args is the command line that ParseInitArgs reads; defaults are left out.
func (a InitArgs) Args() []string {
	args := []string{"--proxy-uid=" + strconv.Itoa(a.ProxyUID)}
	if len(a.ExcludeInboundPorts) > 0 {
		args = append(args, "--exclude-inbound-ports="+a.ExcludeInboundPorts.String())
	}
	if len(a.ExcludeInboundInterfaces) > 0 {
		args = append(args, "--exclude-inbound-interfaces="+a.ExcludeInboundInterfaces.String())
	}
	if len(a.ExcludeOutboundPorts) > 0 {
		args = append(args, "--exclude-outbound-ports="+a.ExcludeOutboundPorts.String())
	}
	if len(a.ExcludeOutboundCIDRs) > 0 {
		args = append(args, "--exclude-outbound-cidrs="+joinPrefixes(a.ExcludeOutboundCIDRs))
	}
	if len(a.ExcludeOutboundInterfaces) > 0 {
		args = append(args, "--exclude-outbound-interfaces="+a.ExcludeOutboundInterfaces.String())
	}
	if len(a.ExcludeOutboundUIDs) > 0 {
		args = append(args, "--exclude-outbound-uids="+a.ExcludeOutboundUIDs.String())
	}
	if a.Backend != "" && a.Backend != BackendAuto {
		args = append(args, "--backend="+string(a.Backend))
	}
	return args
}

// ParseInitArgs reads the command line of meshless-init (without the program's name). flag.ErrHelp is returned for --help, after the usage went to usage.
func ParseInitArgs(args []string, usage io.Writer) (InitArgs, error) {
	a := InitArgs{Backend: BackendAuto}
	fs := newFlagSet("meshless-init", usage)
	fs.Usage = func() {
		fmt.Fprintf(usage, "meshless-init [flags] routes the TCP of this network namespace through the proxy.\n"+
			"meshless-init %s takes out what it wrote there: in a pod, that opens the mesh.\n", InitRemove)
		fs.PrintDefaults()
	}
	fs.IntVar(&a.ProxyUID, "proxy-uid", DefaultUID, "user of the proxy, whose traffic is not redirected")
	fs.TextVar(&a.ExcludeInboundPorts, "exclude-inbound-ports", Ports{}, "ports on which peers reach the app without the proxy, like 22,9000-9010")
	fs.TextVar(&a.ExcludeInboundInterfaces, "exclude-inbound-interfaces", Interfaces{}, "interfaces through which the app is reached without the proxy, like net1,docker0")
	fs.TextVar(&a.ExcludeOutboundPorts, "exclude-outbound-ports", Ports{}, "ports that the app reaches without the proxy")
	fs.Func("exclude-outbound-cidrs", "networks that the app reaches without the proxy, like 10.1.0.0/16,fd00::/8", func(s string) (err error) {
		a.ExcludeOutboundCIDRs, err = ParsePrefixes(s)
		return err
	})
	fs.TextVar(&a.ExcludeOutboundInterfaces, "exclude-outbound-interfaces", Interfaces{}, "interfaces through which the app reaches others without the proxy")
	fs.TextVar(&a.ExcludeOutboundUIDs, "exclude-outbound-uids", UIDs{}, "users whose processes reach others without the proxy, like 1001,1002")
	fs.Func("backend", "Auto, NFTables or IPTables (default Auto)", func(s string) error {
		a.Backend = Backend(s)
		switch a.Backend {
		case BackendAuto, BackendNFTables, BackendIPTables:
			return nil
		}
		return fmt.Errorf("%q is not Auto, NFTables or IPTables", s)
	})
	if err := parseAll(fs, args); err != nil {
		return InitArgs{}, err
	}
	if err := a.Validate(); err != nil {
		return InitArgs{}, err
	}
	return a, nil
}

// Validate checks what can be wrong of users and interfaces; the error begins with the flag.
func (a InitArgs) Validate() error {
	if a.ProxyUID < 1 || a.ProxyUID > maxUID {
		return fmt.Errorf("--proxy-uid: %d is not a user id of a non-root user", a.ProxyUID)
	}
	for flag, names := range map[string]Interfaces{"--exclude-inbound-interfaces": a.ExcludeInboundInterfaces, "--exclude-outbound-interfaces": a.ExcludeOutboundInterfaces} {
		if err := names.Validate(); err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
	}
	if err := a.ExcludeOutboundUIDs.Validate(int64(a.ProxyUID)); err != nil {
		return fmt.Errorf("--exclude-outbound-uids: %w", err)
	}
	return nil
}

// InitCommand is a command line of meshless-init; one field is set.
type InitCommand struct {
	Apply  *InitArgs
	Remove bool // take out what an earlier run put into the network namespace; never in a manifest, where ParseInitArgs refuses it
}

// InitRemove is the command that takes everything out.
const InitRemove = "remove"

// ParseInitCommand reads any command line of meshless-init (without the program's name). flag.ErrHelp is returned for --help, after the usage went to usage.
func ParseInitCommand(args []string, usage io.Writer) (c InitCommand, err error) {
	if len(args) > 0 && args[0] == InitRemove {
		c.Remove = true
		return c, parseAll(newFlagSet("meshless-init "+InitRemove, usage), args[1:])
	}
	c.Apply = new(InitArgs)
	*c.Apply, err = ParseInitArgs(args, usage)
	return c, err
}

// ProxyArgs is the command line of meshless-proxy.
type ProxyArgs struct {
	Directory    string        // Directory, but in tests
	LogLevel     string        // debug, info, warn or error
	DrainTimeout time.Duration // how long connections may finish after SIGTERM
	Pprof        bool          // serve /debug/pprof/ on AdminPort, which is bound to loopback
}

// FIPSVariable and FIPSValue are the environment variable of a proxy whose cryptography is to run in FIPS 140-3 mode (go.dev/doc/security/fips140).
const (
	FIPSVariable = "GODEBUG"
	FIPSValue    = "fips140=on"
)

// DefaultDrainTimeout leaves five of the default thirty seconds of terminationGracePeriodSeconds for the exit itself.
const DefaultDrainTimeout = 25 * time.Second

// Args is the command line that ParseProxyArgs reads; defaults are left out.
func (a ProxyArgs) Args() []string {
	var args []string
	if a.LogLevel != "" && a.LogLevel != "info" {
		args = append(args, "--log-level="+a.LogLevel)
	}
	if a.DrainTimeout != 0 && a.DrainTimeout != DefaultDrainTimeout {
		args = append(args, "--drain-timeout="+a.DrainTimeout.String())
	}
	if a.Pprof {
		args = append(args, "--pprof")
	}
	return args
}

// ParseProxyArgs reads the command line of meshless-proxy (without the program's name).
func ParseProxyArgs(args []string, usage io.Writer) (ProxyArgs, error) {
	var a ProxyArgs
	fs := newFlagSet("meshless-proxy", usage)
	fs.StringVar(&a.Directory, "directory", Directory, "where the projected volume is mounted")
	fs.DurationVar(&a.DrainTimeout, "drain-timeout", DefaultDrainTimeout, "how long connections may finish after SIGTERM")
	fs.BoolVar(&a.Pprof, "pprof", false, fmt.Sprintf("serve Go's profiles on 127.0.0.1:%d/debug/pprof/", AdminPort))
	fs.StringVar(&a.LogLevel, "log-level", "info", "debug, info, warn or error")
	if err := parseAll(fs, args); err != nil {
		return ProxyArgs{}, err
	}
	if err := ValidateLogLevel(a.LogLevel); err != nil {
		return ProxyArgs{}, fmt.Errorf("--log-level: %w", err)
	}
	return a, nil
}

// ValidateLogLevel checks that s is debug, info, warn or error.
func ValidateLogLevel(s string) error {
	switch s {
	case "debug", "info", "warn", "error":
		return nil
	}
	return fmt.Errorf("%q is not debug, info, warn or error", s)
}

// ParsePrefixes reads "10.1.0.0/16,fd00::/8" in its order, and each network once. What is no network, and what ValidatePrefix refuses, is an error that quotes it.
func ParsePrefixes(s string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		p, err := netip.ParsePrefix(part)
		if err != nil {
			return nil, fmt.Errorf("%q is not a network like 10.1.0.0/16", part)
		}
		if err := ValidatePrefix(p); err != nil {
			return nil, err
		}
		if !slices.Contains(prefixes, p) {
			prefixes = append(prefixes, p)
		}
	}
	return prefixes, nil
}

// ValidatePrefix refuses a network with host bits set, since it is likely a typing error, and one of IPv4 addresses in IPv6 form: no packet carries such an address, and others are
// compared in their IPv4 form, so it would match nothing.
func ValidatePrefix(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return fmt.Errorf("%q is not a network like 10.1.0.0/16", p)
	case p != p.Masked():
		return fmt.Errorf("%s has host bits set; write %s", p, p.Masked())
	case p.Addr().Is4In6(): // of at least 96 bits: fewer mask what makes it one
		return fmt.Errorf("%s is of IPv4 addresses in IPv6 form; write it as an IPv4 network, %s", p, netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96))
	}
	return nil
}

// UnionPrefixes are the networks that are in any of the lists, each once, sorted: two equal sets have one spelling.
func UnionPrefixes(lists ...[]netip.Prefix) []netip.Prefix {
	all := slices.Concat(lists...)
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}

func joinPrefixes(prefixes []netip.Prefix) string {
	parts := make([]string, len(prefixes))
	for i, p := range prefixes {
		parts[i] = p.String()
	}
	return strings.Join(parts, ",")
}

func newFlagSet(name string, usage io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(usage)
	return fs
}

// parseAll refuses what is left over, so that a mistyped flag without dashes is not dropped in silence.
func parseAll(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	return nil
}
