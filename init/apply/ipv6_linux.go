package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/api"
)

// disableIPv6 is the switch of lo; net.ipv6.conf.all.disable_ipv6 sets it too. It is absent where the kernel has no
// IPv6.
const disableIPv6 = "/proc/sys/net/ipv6/conf/lo/disable_ipv6"

// ipv6Known tells whether the kernel has IPv6 at all, usable or not.
func ipv6Known() bool {
	_, err := os.Stat(disableIPv6)
	return !errors.Is(err, fs.ErrNotExist)
}

// ipv6Usable tells whether the pod has IPv6. It is an error if an interface has an IPv6 address while lo may have none:
// the rules would send IPv6 to a loopback address that does not exist.
func ipv6Usable() (bool, error) {
	data, err := os.ReadFile(disableIPv6)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("find out whether the pod has IPv6: %w", err)
	}
	if err == nil && strings.TrimSpace(string(data)) == "0" {
		return true, nil
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V6)
	if err != nil {
		return false, explain("list the IPv6 addresses of the pod", err)
	}
	if len(addrs) > 0 {
		return false, fmt.Errorf("the pod has the IPv6 address %s but IPv6 is off for lo, through which the proxy is reached: "+
			"set the sysctl net.ipv6.conf.lo.disable_ipv6=0, or disable IPv6 in the pod as a whole", addrs[0].IP)
	}
	return false, nil
}

// addInboundSource6 gives lo the address from which the inbound proxy dials the app over IPv6 (the IPv4 one needs
// nothing, all of 127.0.0.0/8 is lo's). It is added as deprecated (RFC 4862, section 5.5.4), so that nobody gets it as
// a source address who did not ask for it; otherwise a pod whose only other address is link-local would call out from
// it.
func addInboundSource6() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return explain("find the interface lo", err)
	}
	if lo.Attrs().Flags&net.FlagUp == 0 {
		return errors.New("the interface lo is down, so the pod cannot reach its proxy: the container runtime's loopback network plugin brings it up")
	}
	source := net.ParseIP(api.InboundSource6)
	forever := uint32(math.MaxUint32) // a variable: as a constant it would not compile where int has 32 bits
	err = netlink.AddrReplace(lo, &netlink.Addr{
		IPNet: &net.IPNet{IP: source, Mask: net.CIDRMask(128, 128)}, Flags: unix.IFA_F_NODAD,
		ValidLft: int(forever), PreferedLft: 0,
	})
	if err != nil {
		return explain(fmt.Sprintf("add the address %s to lo", source), err)
	}
	addrs, err := netlink.AddrList(lo, netlink.FAMILY_V6)
	if err != nil {
		return explain("list the addresses of lo", err)
	}
	if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.Equal(source) && a.Flags&unix.IFA_F_TENTATIVE == 0 }) {
		return fmt.Errorf("the address %s was added to lo, but lo does not have it", source)
	}
	return nil
}
