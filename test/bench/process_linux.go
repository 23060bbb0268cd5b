package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// command is a program to be started.
type command struct {
	name  string // of its log
	argv  []string
	env   []string // beside PATH
	uid   int
	pipes bool // standard input and output belong to the caller; else output goes to the log
}

// process is a program of ours with everything that it starts itself: all of one process group.
type process struct {
	command
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  io.ReadCloser
	log  string
	done chan struct{} // closed when it has ended
}

// launch starts a program in the place; its log is in dir.
func (p *place) launch(c command, dir string) (*process, error) {
	r := &process{command: c, cmd: exec.Command(c.argv[0], c.argv[1:]...), log: filepath.Join(dir, c.name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(r.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	r.cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=" + dir}, c.env...)
	r.cmd.Stdout, r.cmd.Stderr = log, log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if c.uid != 0 {
		r.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(c.uid), Gid: uint32(c.uid)}
	}
	if c.pipes {
		r.cmd.Stdout = nil
		if r.in, err = r.cmd.StdinPipe(); err != nil {
			return nil, err
		}
		if r.out, err = r.cmd.StdoutPipe(); err != nil {
			return nil, err
		}
	}
	if err := p.do(r.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	go func() {
		_, _ = r.cmd.Process.Wait() // not Cmd.Wait, which would close out while it is read
		close(r.done)
	}()
	return r, nil
}

// stop ends the process and what it started at once: nothing that is measured comes after it.
func (r *process) stop() {
	_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL) // the group is ours: Setpgid
	<-r.done
	for _, f := range []io.Closer{r.in, r.out} {
		if f != nil {
			f.Close()
		}
	}
}

// alive is an error, with the end of the log, if the process has ended.
func (r *process) alive() error {
	select {
	case <-r.done:
		return fmt.Errorf("%s has ended: %s", r.name, r.logTail())
	default:
		return nil
	}
}

func (r *process) logTail() string {
	text, _ := os.ReadFile(r.log)
	text = bytes.ReplaceAll(bytes.TrimSpace(text), []byte("\n"), []byte(" / "))
	return string(text[max(0, len(text)-300):])
}

// members are the processes of the group.
func (r *process) members() (pids []int) {
	group := strconv.Itoa(r.cmd.Process.Pid)
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if fields := stat(pid); len(fields) > 2 && fields[2] == group && fields[0] != "Z" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// stat is /proc/PID/stat from the third field, the state, on (proc_pid_stat(5)).
func stat(pid int) []string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(text), ") ")
	return strings.Fields(rest)
}

// cpu is the CPU time that the processes have used, user and system, all threads, those of children that have ended
// too. The process's CPU clock counts nanoseconds where utime and stime of /proc/PID/stat count hundredths of a second.
func cpu(pids []int) (sum time.Duration) {
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every architecture of ours
	for _, pid := range pids {
		var t unix.Timespec
		if unix.ClockGettime(int32(^pid<<3|2), &t) == nil {
			// MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of linux/posix-timers.h
			sum += time.Duration(t.Nano())
		}
		if fields := stat(pid); len(fields) > 14 {
			for _, ended := range fields[13:15] { // cutime, cstime
				n, _ := strconv.Atoi(ended)
				sum += time.Duration(n) * tick
			}
		}
	}
	return sum
}

// footprint is memory in KiB: RSS counts what processes share in each of them, PSS once; anonymous is what is nobody's
// file.
type footprint struct{ RSS, PSS, Anonymous float64 }

func (r *process) memory() (sum footprint) {
	for _, pid := range r.members() {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) < 2 {
				continue
			}
			kib, _ := strconv.ParseFloat(fields[1], 64)
			switch fields[0] {
			case "Rss:":
				sum.RSS += kib
			case "Pss:":
				sum.PSS += kib
			case "Anonymous:":
				sum.Anonymous += kib
			}
		}
	}
	return sum
}
