// Command meshless is the KRM function, when its standard input is a ResourceList, and a command line around it
// otherwise.
package main

import (
	"os"

	"github.com/meshless-dev/meshless/fn/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
