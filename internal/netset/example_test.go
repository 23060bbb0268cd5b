package netset_test

import (
	"fmt"

	"github.com/meshless-dev/meshless/internal/netset"
)

// Equal sets have one spelling: parsed text comes back sorted and merged.
func ExampleParsePorts() {
	ports, err := netset.ParsePorts("9001,80,9000,8080-8089,8085")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(ports, ports.Contains(8081))

	_, err = netset.ParsePorts("80,9010-9000")
	fmt.Println(err)
	// Output:
	// 80,8080-8089,9000-9001 true
	// "9010-9000" is not a port (1 to 65535) or a range like 9000-9010
}

func ExamplePorts_Intersect() {
	a, _ := netset.ParsePorts("80,9000-9010")
	b, _ := netset.ParsePorts("9005-9020")
	fmt.Println(a.Intersect(b))
	// Output: 9005-9010
}

func ExampleParsePrefixes() {
	prefixes, err := netset.ParsePrefixes("10.1.0.0/16,fd00::/8")
	fmt.Println(prefixes, err)

	_, err = netset.ParsePrefixes("10.1.2.3/16")
	fmt.Println(err)
	// Output:
	// 10.1.0.0/16,fd00::/8 <nil>
	// 10.1.2.3/16 has host bits set; write 10.1.0.0/16
}
