package cli_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	lootVariable  = "TEST_LOOT"  // the file that says what the hostile program found
	decoyVariable = "TEST_DECOY" // a variable that nobody hides
	nobody        = 65534
)

// steal is a transformer that passes on what it gets, and looks for the identity wherever its user may.
func steal() {
	loot, err := os.OpenFile(os.Getenv(lootVariable), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	look := func(place string, text []byte) {
		for name, needle := range map[string]string{"identity": "AGE-SECRET-KEY-1", "file": "MESHLESS_CA_IDENTITY_FILE=/", "decoy": "DECOY-IN-THE-CLEAR"} {
			if bytes.Contains(text, []byte(needle)) {
				fmt.Fprintf(loot, "%s %s\n", place, name)
			}
		}
	}
	look("own", []byte(strings.Join(os.Environ(), "\n")))
	// not those of the test, whose programs are the machine's, nor its own
	parent := strconv.Itoa(os.Getppid())
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range all {
		text, _ := os.ReadFile(file)
		look(map[bool]string{true: "parent", false: "other"}[strings.Contains(file, "/"+parent+"/")], text)
	}
	// by the descriptors themselves, since package os waits where nothing is to be read
	text := make([]byte, 4096)
	for n := 3; n < 64; n++ {
		if unix.SetNonblock(n, true) == nil {
			count, _ := unix.Pread(n, text, 0)
			look("descriptor", text[:max(count, 0)])
			count, _ = unix.Read(n, text)
			look("descriptor", text[:max(count, 0)])
		}
		if fd, err := unix.Open("/proc/"+parent+"/fd/"+strconv.Itoa(n), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
			count, _ := unix.Read(fd, text)
			look("descriptor of the parent", text[:max(count, 0)])
			unix.Close(fd)
		}
	}
	stealMemory(parent, look)
	if unix.PtraceSeize(os.Getppid()) == nil { // which stops nobody, and ends with this process
		fmt.Fprintln(loot, "parent traced")
	}
	loot.Close()
	_, _ = io.Copy(os.Stdout, os.Stdin)
}

// stealMemory reads whatever of another process is mapped for writing.
func stealMemory(pid string, look func(string, []byte)) {
	maps, err1 := os.Open("/proc/" + pid + "/maps")
	memory, err2 := os.Open("/proc/" + pid + "/mem")
	if err1 != nil || err2 != nil {
		return
	}
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var start, end int64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &start, &end, &mode); err != nil || !strings.HasPrefix(mode, "rw") {
			continue
		}
		text := make([]byte, min(end-start, 64<<20))
		count, _ := memory.ReadAt(text, start)
		look("memory", text[:count])
	}
}

// hostilePackage is a kustomization whose first transformer is the program steal.
func hostilePackage(t *testing.T) (folder, identity string) {
	t.Helper()
	folder, identity = mesh(t, "cluster.local", "")
	if err := os.Chmod(filepath.Dir(folder), 0o755); err != nil { // for the other user
		t.Fatal(err)
	}
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"kustomization.yaml": []byte("resources: [web.yaml]\ntransformers: [steal.yaml, mtls.yaml]\n"),
		"steal.yaml":         []byte("apiVersion: example.org/v1\nkind: Steal\nmetadata: {name: steal, annotations: {config.kubernetes.io/function: 'exec: {path: ./steal}'}}\n"),
		"steal":              program, "meshless": program, "loot": nil,
	} {
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return folder, identity
}

// TestIdentityIsHidden: a program that kustomize starts finds the CA's identity nowhere, however it was given.
func TestIdentityIsHidden(t *testing.T) {
	slow(t)
	for _, way := range []string{"variable", "file on a descriptor", "pipe"} {
		t.Run(way, func(t *testing.T) {
			found := issueBesideThief(t, way, os.Getuid())
			if os.Getuid() != 0 {
				wantNothing(t, found)
				return
			}
			// root sees memory and whatever is open, which is the control; environment blocks are clean all the same
			if !found["memory identity"] || !found["parent decoy"] || !found["parent traced"] {
				t.Errorf("root found only %v: does the thief look?", found)
			}
			if found["own identity"] || found["parent identity"] || found["other identity"] || found["descriptor identity"] || found["own file"] {
				t.Errorf("root found %v", found)
			}
			wantNothing(t, issueBesideThief(t, way, nobody))
		})
	}
}

// wantNothing: a program of the same user sees its own environment, and nothing of meshless.
func wantNothing(t *testing.T, found map[string]bool) {
	t.Helper()
	if !found["own decoy"] {
		t.Errorf("found only %v: does the thief look?", found)
	}
	for what := range found {
		if !strings.HasSuffix(what, " decoy") || strings.HasPrefix(what, "parent") || strings.HasPrefix(what, "memory") {
			t.Errorf("a program that kustomize starts found: %s", what)
		}
	}
}

// issueBesideThief issues anew with the thief as a transformer, and returns what it found, as "place what".
func issueBesideThief(t *testing.T, way string, uid int) map[string]bool {
	t.Helper()
	folder, identity := hostilePackage(t)
	env, files := give(t, way, identity)
	loot := filepath.Join(folder, "loot")
	run := func(loot string, env []string, files []*os.File, args ...string) {
		c := exec.CommandContext(t.Context(), filepath.Join(folder, "meshless"), append([]string{"issue", "--enable-alpha-plugins", "--enable-exec", "."}, args...)...)
		c.Dir, c.ExtraFiles = folder, files
		c.Env = append(os.Environ(), lootVariable+"="+loot, decoyVariable+"=DECOY-IN-THE-CLEAR", "HOME="+folder, "TMPDIR="+folder)
		c.Env = append(c.Env, env...)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid), NoSetGroups: uid == os.Getuid()}}
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if uid != os.Getuid() {
		for _, f := range files {
			if err := f.Chown(uid, uid); err != nil {
				t.Fatal(err)
			}
		}
		err := filepath.WalkDir(folder, func(file string, _ os.DirEntry, err error) error { return errors.Join(err, os.Chown(file, uid, uid)) })
		if err != nil {
			t.Fatal(err)
		}
	}
	run(os.DevNull, nil, nil)
	run(loot, env, files, "--renew", "deployment/web") // which fails without the identity
	text, err := os.ReadFile(loot)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		found[strings.TrimSpace(line)] = true
	}
	return found
}

// give hands over the identity in one of the ways that meshless knows.
func give(t *testing.T, way, identity string) (env []string, files []*os.File) {
	t.Helper()
	if way == "variable" {
		return []string{"MESHLESS_CA_IDENTITY=" + identity}, nil
	}
	var f *os.File
	var err error
	if way == "pipe" {
		var w *os.File
		if f, w, err = os.Pipe(); err == nil {
			_, err = w.WriteString(identity + "\n")
			w.Close()
		}
	} else {
		secret := filepath.Join(t.TempDir(), "ca.txt")
		if err = os.WriteFile(secret, []byte(identity+"\n"), 0o600); err == nil {
			f, err = os.Open(secret)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return []string{"MESHLESS_CA_IDENTITY_FILE=/dev/fd/3"}, []*os.File{f}
}
