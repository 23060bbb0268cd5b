//go:build !linux

package sandbox

func enter(string) Report {
	return Report{Missing: []string{"Landlock and seccomp are features of Linux"}}
}
