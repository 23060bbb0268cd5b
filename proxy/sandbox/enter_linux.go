package sandbox

import "github.com/meshless-dev/meshless/internal/private"

// enter applies Landlock first: the filter of system calls comes last, since it applies to all that runs after it.
func enter(directory string, listens bool) (r Report) {
	r.Listens = listens
	// with shareProcessNamespace any container of the pod may have a process of the proxy's user
	err := private.Memory()
	if err != nil {
		r.Missing = append(r.Missing, "private memory: "+err.Error())
	}
	if r.Landlock, err = restrictFiles(directory, listens); err != nil {
		r.Missing = append(r.Missing, "landlock: "+err.Error())
	}
	if err = restrictCalls(listens); err != nil {
		r.Missing = append(r.Missing, "seccomp: "+err.Error())
	}
	r.Seccomp = err == nil
	return r
}
