package sandbox

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// smaps is /proc/PID/smaps, shortened: of a program with a dynamic linker, whose constants the linker has changed, and
// of a library.
const smaps = `55f0c0000000-55f0c0100000 r-xp 00001000 fe:00 9986383                            /usr/bin/a proxy
Size:               1024 kB
Anonymous:             0 kB
55f0c0100000-55f0c0180000 r--p 00101000 fe:00 9986383                            /usr/bin/a proxy
Size:                512 kB
Anonymous:             4 kB
55f0c0180000-55f0c0181000 rw-p 00181000 fe:00 9986383                            /usr/bin/a proxy
Anonymous:             0 kB
55f0c0181000-55f0c0191000 r--p 00182000 fe:00 9986383                            /usr/bin/a proxy
Anonymous:             0 kB
7f0000000000-7f0000010000 r-xp 00000000 fe:00 77                                 /usr/lib/libc.so
Anonymous:             0 kB
7f0000010000-7f0000020000 r--s 00000000 fe:00 9986383                            /usr/bin/a proxy
Anonymous:             0 kB
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                                  [stack]
Anonymous:            12 kB
`

func TestParseProgram(t *testing.T) {
	want := Program{{0x55f0c0000000, 0x55f0c0100000}, {0x55f0c0181000, 0x55f0c0191000}}
	if diff := cmp.Diff(want, parseProgram(smaps, "/usr/bin/a proxy"), cmp.AllowUnexported(mapping{})); diff != "" {
		t.Errorf("only private mappings of the file, not written and without pages of their own (-want +got):\n%s", diff)
	}
	for _, broken := range []string{"", "Anonymous: 0 kB\n", "zz-10 r-xp 0 fe:00 1 /a\nAnonymous: 0 kB\n", "20-10 r-xp 00 fe:00 1 /a\nAnonymous: 0 kB\n", "10-20 r-xp 00 fe:00 1 /a"} {
		if got := parseProgram(broken, "/a"); len(got) > 0 {
			t.Errorf("%q is taken for %v", broken, got)
		}
	}
}

// TestRelease: pages leave this process, and it runs on.
func TestRelease(t *testing.T) {
	p := OwnProgram()
	if len(p) == 0 {
		t.Fatal("this program is not found in its own memory")
	}
	before := resident(t)
	p.Release()
	if after := resident(t); after >= before {
		t.Errorf("%d pages of files before, %d after", before, after)
	}
}

// resident is how many pages of files are mapped: statm of proc(5), whose third number they are.
func resident(t *testing.T) (pages uint64) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	for _, digit := range strings.Fields(string(text))[2] {
		pages = pages*10 + uint64(digit-'0')
	}
	return pages
}
