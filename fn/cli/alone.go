package cli

import (
	"fmt"
	"os"
	"path/filepath"
)

// alone runs what reads and writes a folder, unless another issue is at it: certificates of one run do not go with the
// authorities of another. Folders that are not there are made, and taken away where they stay empty.
func alone(folder string, run func() error) error {
	made, err := makeFolders(folder)
	defer func() {
		for _, name := range made {
			_ = os.Remove(name) // what holds something stays
		}
	}()
	if err != nil {
		return err
	}
	f, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer f.Close() // and it is free, as it is when the process ends
	if !lock(f) {
		return fmt.Errorf("%s: another `meshless issue` or `revoke` is at work here; nothing was written, so run this one again when it has ended", folder)
	}
	return run()
}

// makeFolders makes a folder and those above it that are missing, and returns those that it made, the lowest first.
func makeFolders(folder string) (made []string, err error) {
	for at := filepath.Clean(folder); ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); !os.IsNotExist(err) || at == filepath.Dir(at) {
			break
		}
		made = append(made, at)
	}
	return made, os.MkdirAll(folder, 0o755)
}
