//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: measures with what Linux alone has (/proc, splice, network namespaces); run it there")
	os.Exit(1)
}
