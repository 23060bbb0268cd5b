package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// workerVariable, when it is set, makes this program one of its own workers; it holds a workerSpec.
const workerVariable = "MESHLESS_BENCH_WORKER"

// workerSpec says which worker: one field is set.
type workerSpec struct {
	Load    *loadSpec      `json:",omitempty"`
	Backend netip.AddrPort `json:",omitzero"`
	Relay   *relaySpec     `json:",omitempty"`
}

type relaySpec struct {
	Listen, Target netip.AddrPort
	Splice         bool
}

// enterWorker does a worker's work and does not return, if this process is one.
func enterWorker() {
	encoded, ok := os.LookupEnv(workerVariable)
	if !ok {
		return
	}
	var w workerSpec
	err := json.Unmarshal([]byte(encoded), &w)
	switch {
	case err != nil:
	case w.Load != nil:
		err = runLoad(*w.Load, os.Stdin, os.Stdout)
	case w.Relay != nil:
		err = runRelay(w.Relay.Listen, w.Relay.Target, w.Relay.Splice, os.Stdin)
	default:
		err = runBackend(w.Backend, os.Stdin, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// worker is the command that becomes w.
func worker(name string, w workerSpec) (command, error) {
	self, err := os.Executable()
	if err != nil {
		return command{}, err
	}
	encoded, err := json.Marshal(w)
	if err != nil {
		return command{}, err
	}
	return command{name: name, argv: []string{self}, env: []string{workerVariable + "=" + string(encoded)}, pipes: true}, nil
}

// backendProcess is a running backend.
type backendProcess struct {
	*process
	lines *bufio.Reader
}

func (p *place) startBackend(at netip.AddrPort, dir string) (*backendProcess, error) {
	c, err := worker("backend", workerSpec{Backend: at})
	if err != nil {
		return nil, err
	}
	r, err := p.launch(c, dir)
	if err != nil {
		return nil, err
	}
	b := &backendProcess{r, bufio.NewReader(r.out)}
	if line, _ := b.lines.ReadString('\n'); line != "listening\n" {
		r.stop()
		return nil, fmt.Errorf("backend: %s", r.logTail())
	}
	return b, nil
}

// sunk is how many bytes the backend has dropped so far.
func (b *backendProcess) sunk() (int64, error) {
	if _, err := io.WriteString(b.in, "\n"); err != nil {
		return 0, fmt.Errorf("backend: %w", err)
	}
	line, err := b.lines.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("backend: %w", err)
	}
	return strconv.ParseInt(strings.TrimSpace(line), 10, 64)
}

// generate runs a load; atBegin and atEnd are called when the measured time begins and ends. A load that holds
// connections (loadIdle) is held until atBegin returns.
func (p *place) generate(spec loadSpec, dir string, atBegin, atEnd func() error) (result loadResult, err error) {
	c, err := worker("load", workerSpec{Load: &spec})
	if err != nil {
		return result, err
	}
	r, err := p.launch(c, dir)
	if err != nil {
		return result, err
	}
	// Where a target neither answers nor fails, the load is ended here.
	limit := time.AfterFunc(spec.Warmup+spec.Duration+3*time.Minute, func() { _ = r.cmd.Process.Kill() })
	defer limit.Stop()
	defer r.stop()
	lines := bufio.NewReader(r.out)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return result, fmt.Errorf("load: %s", r.logTail())
		}
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "begin":
			if err := atBegin(); err != nil {
				return result, err
			}
			r.in.Close()
		case "end":
			return result, errors.Join(atEnd(), json.Unmarshal([]byte(rest), &result))
		}
	}
}
