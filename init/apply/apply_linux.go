package apply

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// system is the machine that Apply works on; tests have some without programs.
type system struct{ directories []string }

// host looks for programs where Debian, Alpine and Fedora have them, never in $PATH: what runs with NET_ADMIN is not
// for an environment to choose.
var host = system{directories: []string{"/usr/sbin", "/sbin", "/usr/bin"}}

// Apply routes the TCP of the calling thread's network namespace through the proxy and writes the chains, as read back
// from the kernel, to out; the first line says which back end it took and why. Auto means nftables over netlink, and
// iptables if the kernel has no nftables and the image has the programs. Running it again replaces the rules at once,
// also those of the other back end; established connections stay. Errors name what was refused and guess the cause.
func Apply(args podplan.InitArgs, out io.Writer) error { return host.apply(args, out) }

func (s system) apply(args podplan.InitArgs, out io.Writer) error {
	switch args.Backend {
	case "", podplan.BackendAuto, podplan.BackendNFTables, podplan.BackendIPTables:
	default:
		return fmt.Errorf("back end %q is not known to this release", args.Backend)
	}
	ipv6, err := ipv6Usable()
	if err != nil {
		return err
	}
	if args, err = chooseClients(args); err != nil {
		return err
	}
	own, err := ownAddresses()
	if err != nil {
		return err
	}
	want, err := rules.New(args, ipv6, own...)
	if err != nil {
		return err
	}
	if err := s.refuseForeignLegacy(); err != nil {
		return err
	}
	if err := addClients(args.ClientCIDRs, ipv6); err != nil {
		return err
	}
	if err := setTransparent(args.TransparentPorts, ipv6); err != nil {
		return err
	}
	why := "as --backend=" + string(args.Backend) + " says"
	if args.Backend != podplan.BackendIPTables {
		got, err := writeNFTables(want, uint32(args.ProxyUID))
		if err == nil && len(args.TransparentPorts) > 0 {
			if err := setZone(uint32(args.ProxyUID)); err != nil {
				return fmt.Errorf("%w: %w", errTransparent, err)
			}
			got += rules.TransparentText(args.TransparentPorts)
		}
		if err == nil {
			return s.finish(out, result{backend: "nftables over netlink", why: "which this kernel has", ipv6: ipv6, clients: args.ClientCIDRs, nftables: true, text: got})
		}
		if args.Backend == podplan.BackendNFTables || !noNFTables(err) {
			return err
		}
		if len(s.variants()) == 0 {
			return fmt.Errorf("%w; for such nodes there is the image %s, which has the programs of iptables", err, api.InitIPTablesImage)
		}
		why = fmt.Sprintf("as nftables over netlink failed (%s)", cause(err))
	}
	if len(args.TransparentPorts) > 0 {
		return errTransparent
	}
	got, err := s.writeIPTables(want, ipv6)
	if err != nil {
		return fmt.Errorf("iptables, %s: %w", why, err)
	}
	got.why, got.clients = why, args.ClientCIDRs
	return s.finish(out, got)
}

// result is what was done.
type result struct {
	backend, why string
	ipv6         bool
	clients      clientaddr.Ranges // local to the pod
	nftables     bool              // table inet meshless holds the rules
	variant      variant           // of iptables, if it is not nftables
	text         string            // the rules as read back
}

// finish takes out what an earlier run left in another back end, and prints. The new rules are there already: in
// between a connection meets two rule sets, of which the first redirect counts.
func (s system) finish(out io.Writer, r result) error {
	if err := s.removeOthers(r); err != nil {
		return fmt.Errorf("take out the rules of an earlier run: %w", err)
	}
	families := "IPv4 and IPv6"
	if !r.ipv6 {
		families, r.clients.V6 = "IPv4; IPv6 is disabled in this pod", netip.Prefix{}
	}
	_, err := fmt.Fprintf(out, "# %s %s: %s, %s; the app sees its clients in %s; the rules of this pod as the kernel holds them (%s)\n%s",
		api.InitName, api.Version, r.backend, r.why, r.clients, families, r.text)
	return err
}

// noNFTables tells whether the error is one of a kernel that lacks nftables or a part of it, and not, say, of a missing
// capability.
func noNFTables(err error) bool {
	return isAny(err, unix.ENOENT, unix.EOPNOTSUPP, unix.EINVAL, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT)
}

// cause is the kernel's own error.
func cause(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return strings.ReplaceAll(err.Error(), "\n", " ")
}
