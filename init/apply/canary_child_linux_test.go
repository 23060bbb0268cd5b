package apply

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/redirect"
)

// canaryVariable is the variable by which the test's program knows that it is to be a proxy, with its client addresses.
const canaryVariable = "MESHLESS_TEST_CANARY"

// listened is a port at which somebody else in the pod listens.
const listened = "15124"

func TestMain(m *testing.M) {
	if ranges, child := os.LookupEnv(canaryVariable); child {
		if err := beProxy(ranges); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// beProxy is a proxy as far as its canaries go: of its user, without a capability, it listens and checks, and prints
// each verdict: result, chains, and what Err says. It ends when its input does.
func beProxy(text string) error {
	ranges, err := clientaddr.Parse(text)
	if err != nil {
		return err
	}
	if err := syscall.Setresuid(api.DefaultUID, api.DefaultUID, api.DefaultUID); err != nil {
		return err
	}
	if _, err := net.Listen("tcp4", "127.0.0.1:"+listened); err != nil {
		return err
	}
	listeners, err := listen.Bind(fmt.Sprintf("localhost:%d", api.OutboundPort))
	if err != nil {
		return err
	}
	var c *redirect.Checker
	c, err = redirect.New(redirect.Options{Clients: ranges, OriginalDst: listen.KernelOriginalDst, Interval: 20 * time.Millisecond, Again: 10 * time.Millisecond,
		Timeout: 500 * time.Millisecond, Report: func(v redirect.Verdict) {
			why := ""
			if err := c.Err(); err != nil {
				why = strings.ReplaceAll(err.Error(), "\n", "; ")
			}
			fmt.Println(v.Result, fmt.Sprintf("%q", v.Missing), why)
		}})
	if err != nil {
		return err
	}
	for _, l := range listeners {
		go arrive(l, c)
	}
	go limitDescriptors()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		cancel()
	}()
	c.Run(ctx)
	return nil
}

func arrive(l net.Listener, c *redirect.Checker) {
	for {
		accepted, err := l.Accept()
		if err != nil {
			time.Sleep(time.Millisecond) // without descriptors
			continue
		}
		c.Arrived(accepted.(*net.TCPConn))
		accepted.Close()
	}
}

// limitDescriptors takes all descriptors away at one signal, and gives them back at the other.
func limitDescriptors() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	var before syscall.Rlimit
	_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before)
	for s := range signals {
		limit := before
		if s == syscall.SIGUSR1 {
			limit.Cur = 3
		}
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
}
