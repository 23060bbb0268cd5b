package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
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
