package sandbox

import (
	"os"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Program is the part of the program file that lies in memory as it is on disk: code and constants.
type Program []mapping

// mapping is a range of addresses.
type mapping struct{ start, end uintptr }

// mappingLine is the first line of a mapping in /proc/PID/smaps (proc(5)), where the private ones that cannot be
// written are wanted.
var mappingLine = regexp.MustCompile(`^([0-9a-f]+)-([0-9a-f]+) r-[x-]p [0-9a-f]+ \S+ \d+ +(/.*)$`)

// OwnProgram finds it. Call it before Enter, behind which /proc cannot be read; where it cannot be read the result is
// empty.
func OwnProgram() Program {
	file, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return nil
	}
	return parseProgram(string(smaps), file)
}

// parseProgram leaves out what has pages of its own, such as those that a dynamic linker has changed: they are nowhere
// else.
func parseProgram(smaps, file string) Program {
	var p Program
	var candidate *mapping
	for line := range strings.Lines(smaps) {
		line = strings.TrimSuffix(line, "\n")
		if own, ok := strings.CutPrefix(line, "Anonymous:"); ok && candidate != nil {
			if strings.TrimSpace(own) == "0 kB" {
				p = append(p, *candidate)
			}
			candidate = nil
		}
		if !strings.HasSuffix(line, file) {
			continue
		}
		if m := mappingLine.FindStringSubmatch(line); m != nil && m[3] == file {
			start, err := strconv.ParseUint(m[1], 16, 64)
			end, errEnd := strconv.ParseUint(m[2], 16, 64)
			if err == nil && errEnd == nil && start < end {
				candidate = &mapping{uintptr(start), uintptr(end)}
			}
		}
	}
	return p
}

// Release unmaps its pages until they are needed again. Once the proxy serves, most were for starting: ten megabytes in
// every pod, clean pages that the kernel would rather take than ask for. What is needed comes back from the page cache,
// 64 KiB at a time.
func (p Program) Release() {
	for _, m := range p {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED) // advice
	}
}
