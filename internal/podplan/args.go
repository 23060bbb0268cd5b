package podplan

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/internal/netset"
)

// Backend is how init writes its rules.
type Backend string

// The back ends of init.
const (
	BackendAuto     Backend = "Auto"
	BackendNFTables Backend = "NFTables"
	BackendIPTables Backend = "IPTables"
)

// InitArgs is the command line of meshless-init. The function writes it, so that a reviewer reads in the manifest what
// bypasses the proxy.
type InitArgs struct {
	ProxyUID                  int // whose traffic is not redirected
	ExcludeInboundPorts       netset.Ports
	ExcludeInboundInterfaces  netset.Interfaces
	ExcludeOutboundPorts      netset.Ports
	ExcludeOutboundCIDRs      netset.Prefixes
	ExcludeOutboundInterfaces netset.Interfaces
	ExcludeOutboundUIDs       netset.UIDs
	TransparentPorts          netset.Ports      // on which the app sees the client's own address
	ClientCIDRs               clientaddr.Ranges // of the addresses that apps see; a family not set is init's choice
	Backend                   Backend
}

// Args is the command line that ParseInitArgs reads; defaults are left out.
func (a InitArgs) Args() []string {
	args := []string{"--proxy-uid=" + strconv.Itoa(a.ProxyUID)}
	for _, set := range []struct{ flag, value string }{
		{"--exclude-inbound-ports", a.ExcludeInboundPorts.String()},
		{"--exclude-inbound-interfaces", a.ExcludeInboundInterfaces.String()},
		{"--exclude-outbound-ports", a.ExcludeOutboundPorts.String()},
		{"--exclude-outbound-cidrs", a.ExcludeOutboundCIDRs.String()},
		{"--exclude-outbound-interfaces", a.ExcludeOutboundInterfaces.String()},
		{"--exclude-outbound-uids", a.ExcludeOutboundUIDs.String()},
		{"--transparent-ports", a.TransparentPorts.String()},
		{clientCIDRsFlag, a.ClientCIDRs.String()},
	} {
		if set.value != "" {
			args = append(args, set.flag+"="+set.value)
		}
	}
	if a.Backend != "" && a.Backend != BackendAuto {
		args = append(args, "--backend="+string(a.Backend))
	}
	return args
}

// ParseInitArgs reads the command line of meshless-init (without the program's name). flag.ErrHelp is returned for
// --help, after the usage went to usage.
func ParseInitArgs(args []string, usage io.Writer) (InitArgs, error) {
	a := InitArgs{Backend: BackendAuto}
	fs := newFlagSet("meshless-init", usage)
	fs.Usage = func() {
		fmt.Fprintf(usage, "meshless-init [flags] routes the TCP of this network namespace through the proxy.\n"+
			"meshless-init %s takes out what it wrote there: in a pod, that opens the mesh.\n", InitRemove)
		fs.PrintDefaults()
	}
	fs.IntVar(&a.ProxyUID, "proxy-uid", api.DefaultUID, "user of the proxy, whose traffic is not redirected")
	fs.TextVar(&a.ExcludeInboundPorts, "exclude-inbound-ports", netset.Ports{}, "ports on which peers reach the app without the proxy, like 22,9000-9010")
	fs.TextVar(&a.ExcludeInboundInterfaces, "exclude-inbound-interfaces", netset.Interfaces{}, "interfaces through which the app is reached without the proxy, like net1,docker0")
	fs.TextVar(&a.ExcludeOutboundPorts, "exclude-outbound-ports", netset.Ports{}, "ports that the app reaches without the proxy")
	fs.TextVar(&a.ExcludeOutboundCIDRs, "exclude-outbound-cidrs", netset.Prefixes{}, "networks that the app reaches without the proxy, like 10.1.0.0/16,fd00::/8")
	fs.TextVar(&a.ExcludeOutboundInterfaces, "exclude-outbound-interfaces", netset.Interfaces{}, "interfaces through which the app reaches others without the proxy")
	fs.TextVar(&a.ExcludeOutboundUIDs, "exclude-outbound-uids", netset.UIDs{}, "users whose processes reach others without the proxy, like 1001,1002")
	fs.TextVar(&a.TransparentPorts, "transparent-ports", netset.Ports{}, "ports on which the app sees its clients' own addresses")
	clientCIDRs(fs, &a.ClientCIDRs)
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
	if a.ProxyUID < 1 || a.ProxyUID > netset.MaxUID {
		return fmt.Errorf("--proxy-uid: %d is not a user id of a non-root user", a.ProxyUID)
	}
	for flag, names := range map[string]netset.Interfaces{"--exclude-inbound-interfaces": a.ExcludeInboundInterfaces, "--exclude-outbound-interfaces": a.ExcludeOutboundInterfaces} {
		if err := names.Validate(); err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
	}
	if err := a.ExcludeOutboundUIDs.Validate(int64(a.ProxyUID)); err != nil {
		return fmt.Errorf("--exclude-outbound-uids: %w", err)
	}
	if len(a.TransparentPorts) > 0 && len(a.ExcludeInboundInterfaces) > 0 {
		return errors.New("--transparent-ports: answers of such a port go to the proxy alone, and with --exclude-inbound-interfaces clients come without it")
	}
	if err := a.ClientCIDRs.Validate(); err != nil {
		return fmt.Errorf("%s: %w", clientCIDRsFlag, err)
	}
	return nil
}

// ValidateResolver refuses what needs rules, of a pod that has none; the error begins with the flag.
func (a InitArgs) ValidateResolver() error {
	for _, set := range []struct{ flag, value string }{
		{"--exclude-inbound-interfaces", a.ExcludeInboundInterfaces.String()},
		{"--exclude-outbound-ports", a.ExcludeOutboundPorts.String()},
		{"--exclude-outbound-cidrs", a.ExcludeOutboundCIDRs.String()},
		{"--exclude-outbound-interfaces", a.ExcludeOutboundInterfaces.String()},
		{"--exclude-outbound-uids", a.ExcludeOutboundUIDs.String()},
		{"--transparent-ports", a.TransparentPorts.String()},
		{clientCIDRsFlag, a.ClientCIDRs.String()},
	} {
		if set.value != "" {
			return fmt.Errorf("%s: %s needs the rules of %s, and this pod has none", set.flag, set.value, api.InitName)
		}
	}
	return nil
}

// clientCIDRsFlag is of both programs: init makes the networks local, the proxy takes its addresses there.
const clientCIDRsFlag = "--client-cidrs"

func clientCIDRs(fs *flag.FlagSet, r *clientaddr.Ranges) {
	fs.TextVar(r, strings.TrimPrefix(clientCIDRsFlag, "--"), clientaddr.Ranges{}, "networks of the addresses that the app sees in place of its clients', like 198.18.0.0/15,fd00:1::/64")
}

// InitCommand is a command line of meshless-init; one field is set.
type InitCommand struct {
	Apply *InitArgs
	// take out what an earlier run put into the network namespace; never in a manifest, where ParseInitArgs refuses it
	Remove bool
	// without redirect rules: leave a resolv.conf for the pod's other containers, and say what is not protected
	Resolver *InitArgs
}

// InitResolver is the command of a pod without redirect rules. Its flags are those of Apply; what a rule alone can do
// is an error.
const InitResolver = "resolver"

// InitRemove is the command that takes everything out.
const InitRemove = "remove"

// ParseInitCommand reads any command line of meshless-init (without the program's name). flag.ErrHelp is returned for
// --help, after the usage went to usage; other errors are a UsageError.
func ParseInitCommand(args []string, usage io.Writer) (InitCommand, error) {
	c, err := parseInitCommand(args, usage)
	return c, asUsage(err)
}

func parseInitCommand(args []string, usage io.Writer) (c InitCommand, err error) {
	if len(args) > 0 && args[0] == InitRemove {
		c.Remove = true
		return c, parseAll(newFlagSet("meshless-init "+InitRemove, usage), args[1:])
	}
	if len(args) > 0 && args[0] == InitResolver {
		c.Resolver = new(InitArgs)
		if *c.Resolver, err = ParseInitArgs(args[1:], usage); err == nil {
			err = c.Resolver.ValidateResolver()
		}
		return c, err
	}
	c.Apply = new(InitArgs)
	*c.Apply, err = ParseInitArgs(args, usage)
	return c, err
}

// ProxyArgs is the command line of meshless-proxy.
type ProxyArgs struct {
	Directory    string            // api.Directory, but in tests
	LogLevel     string            // debug, info, warn or error
	DrainTimeout time.Duration     // how long connections may finish after SIGTERM
	IdleTimeout  time.Duration     // after so long without a byte a connection ends; 0 is never
	Pprof        bool              // serve /debug/pprof/ on api.AdminPort, which is bound to loopback
	ClientCIDRs  clientaddr.Ranges // as in InitArgs
	Records      Records           // whose record layer protects connections
	Direct       *Direct           // set: no rules lead anything to the proxy (spec.redirect.mode: None)
}

// Direct is what a proxy without redirect rules is told. The pod's names of the mesh lead to its loopback addresses,
// and other proxies and Services to api.DirectPort of each port.
type Direct struct {
	Ports      netset.Ports // of the app, that pass the proxy
	AppAddress AppAddress   // where the app listens
}

// AppAddress is the address at which a proxy without redirect rules reaches the app.
type AppAddress string

// The addresses of apps.
const (
	AppPod      AppAddress = "Pod"      // the pod's own, and the app sees it as its client's
	AppLoopback AppAddress = "Loopback" // 127.0.0.1, for apps that listen nowhere else
)

// The flags of Direct.
const (
	directPortsFlag = "--direct-ports"
	appAddressFlag  = "--app-address"
	noRedirectFlag  = "--no-redirect"
)

// args are those of Direct.
func (d *Direct) args() []string {
	if d == nil {
		return nil
	}
	args := []string{noRedirectFlag}
	if len(d.Ports) > 0 {
		args = append(args, directPortsFlag+"="+d.Ports.String())
	}
	if d.AppAddress != "" && d.AppAddress != AppPod {
		args = append(args, appAddressFlag+"="+string(d.AppAddress))
	}
	return args
}

// directFlags defines the flags of Direct. What it returns makes a Direct of them, or nil, once they are parsed.
func directFlags(fs *flag.FlagSet) func() (*Direct, error) {
	none, d := false, Direct{AppAddress: AppPod}
	fs.BoolVar(&none, strings.TrimPrefix(noRedirectFlag, "--"), false, "no rules redirect this pod's traffic: serve its DNS, and listen on loopback and direct ports")
	fs.TextVar(&d.Ports, strings.TrimPrefix(directPortsFlag, "--"), netset.Ports{}, "with "+noRedirectFlag+": ports of the app that are taken at their direct ports, 22000 + port for those below 10000")
	fs.Func(strings.TrimPrefix(appAddressFlag, "--"), "with "+noRedirectFlag+": where the app listens, Pod or Loopback (default Pod)", func(s string) error {
		d.AppAddress = AppAddress(s)
		if d.AppAddress != AppPod && d.AppAddress != AppLoopback {
			return fmt.Errorf("%q is not Pod or Loopback", s)
		}
		return nil
	})
	return func() (*Direct, error) {
		if none {
			return &d, d.Validate()
		}
		if len(d.Ports) > 0 || d.AppAddress != AppPod {
			return nil, fmt.Errorf("%s and %s are for %s alone", directPortsFlag, appAddressFlag, noRedirectFlag)
		}
		return nil, nil
	}
}

// keepRules is the way out where the ports of an app are given.
const keepRules = ", or let this workload keep its rules: " + api.RedirectAnnotation + ": Rules"

// Validate refuses ports that cannot be told apart at their direct ports.
func (d *Direct) Validate() error {
	taken := map[uint16]uint16{}
	for port := range d.Ports.All() {
		direct := api.DirectPort(port)
		if other, twice := taken[direct]; twice {
			return fmt.Errorf("ports %d and %d are both taken at %d; let the app listen on another port in place of one of them"+keepRules, other, port, direct)
		}
		if slices.Contains(api.ReservedPorts, int(direct)) {
			return fmt.Errorf("what is for port %d would be taken at %d, which the proxy uses otherwise; let the app listen on another port"+keepRules, port, direct)
		}
		taken[direct] = port
	}
	for port := range d.Ports.All() {
		if of, is := taken[port]; is {
			return fmt.Errorf("port %d is where the proxy takes what is for port %d; let the app listen on another port"+keepRules, port, of)
		}
	}
	return nil
}

// Records is whose record layer protects connections behind their handshake. In FIPS 140-3 mode it is Standard.
type Records string

// The record layers.
const (
	RecordsOwn      Records = "Own"      // the proxy's
	RecordsStandard Records = "Standard" // that of Go's crypto/tls
)

// FIPSVariable and FIPSValue are the environment variable of a proxy whose cryptography is to run in FIPS 140-3 mode
// (go.dev/doc/security/fips140).
const (
	FIPSVariable = "GODEBUG"
	FIPSValue    = "fips140=on"
)

// NamespaceVariable is the environment variable that tells a proxy the namespace of its pod, and NamespaceField where
// the kubelet takes it from.
const (
	NamespaceVariable = "MESHLESS_POD_NAMESPACE"
	NamespaceField    = "metadata.namespace"
)

// DefaultDrainTimeout leaves five of the default thirty seconds of terminationGracePeriodSeconds for the exit itself.
const DefaultDrainTimeout = 25 * time.Second

// idleTimeoutFlag is for meshes that want to cut what does not move; the default is never.
const idleTimeoutFlag = "--idle-timeout"

// Args is the command line that ParseProxyArgs reads; defaults are left out.
func (a ProxyArgs) Args() []string {
	var args []string
	if a.LogLevel != "" && a.LogLevel != "info" {
		args = append(args, "--log-level="+a.LogLevel)
	}
	if a.DrainTimeout != 0 && a.DrainTimeout != DefaultDrainTimeout {
		args = append(args, "--drain-timeout="+a.DrainTimeout.String())
	}
	if a.IdleTimeout != 0 {
		args = append(args, idleTimeoutFlag+"="+a.IdleTimeout.String())
	}
	if a.Pprof {
		args = append(args, "--pprof")
	}
	if a.ClientCIDRs != (clientaddr.Ranges{}) {
		args = append(args, clientCIDRsFlag+"="+a.ClientCIDRs.String())
	}
	if a.Records != "" && a.Records != RecordsOwn {
		args = append(args, "--records="+string(a.Records))
	}
	return append(args, a.Direct.args()...)
}

// ParseProxyArgs reads the command line of meshless-proxy (without the program's name).
func ParseProxyArgs(args []string, usage io.Writer) (ProxyArgs, error) {
	a := ProxyArgs{Records: RecordsOwn}
	fs := newFlagSet("meshless-proxy", usage)
	fs.Usage = func() {
		fmt.Fprintf(usage, "meshless-proxy [flags] is the sidecar.\n"+
			"meshless-proxy %s ends when the proxy beside it is ready, and meshless-proxy %s when it may be stopped: hooks of containers; --help behind them lists their flags.\n", waitCommand, drainCommand)
		fs.PrintDefaults()
	}
	fs.StringVar(&a.Directory, "directory", api.Directory, "where the projected volume is mounted")
	fs.DurationVar(&a.DrainTimeout, "drain-timeout", DefaultDrainTimeout, "how long connections may finish after SIGTERM")
	fs.DurationVar(&a.IdleTimeout, strings.TrimPrefix(idleTimeoutFlag, "--"), 0, "after so long without a byte in either direction a connection ends; 0 is never")
	fs.BoolVar(&a.Pprof, "pprof", false, fmt.Sprintf("serve Go's profiles on 127.0.0.1:%d/debug/pprof/", api.AdminPort))
	clientCIDRs(fs, &a.ClientCIDRs)
	direct := directFlags(fs)
	fs.StringVar(&a.LogLevel, "log-level", "info", "debug, info, warn or error")
	fs.Func("records", "whose TLS record layer protects connections: Own or Standard, which is Go's crypto/tls (default Own)", func(s string) error {
		a.Records = Records(s)
		switch a.Records {
		case RecordsOwn, RecordsStandard:
			return nil
		}
		return fmt.Errorf("%q is not Own or Standard", s)
	})
	if err := parseAll(fs, args); err != nil {
		return ProxyArgs{}, err
	}
	if err := ValidateLogLevel(a.LogLevel); err != nil {
		return ProxyArgs{}, fmt.Errorf("--log-level: %w", err)
	}
	var err error
	if a.Direct, err = direct(); err != nil {
		return ProxyArgs{}, err
	}
	if a.IdleTimeout < 0 {
		return ProxyArgs{}, fmt.Errorf("%s: %s is less than 0", idleTimeoutFlag, a.IdleTimeout)
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
