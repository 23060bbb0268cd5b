package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

func (p *program) installCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "install DIR",
		Short: "Copy this program into a folder, for an init container whose image has no shell",
		Long: `Copy this program to DIR/meshless. The function's image holds this program and nothing else, neither a shell nor cp; as an
init container of Argo CD's repo-server it puts itself where kustomize finds it.`,
		Example:           "  meshless install /custom-tools",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeDirectory,
		RunE: func(_ *cobra.Command, args []string) error {
			program, err := os.Executable()
			if err != nil {
				return err
			}
			installed, err := install(program, args[0])
			if err != nil {
				return fmt.Errorf("installing into %s: %w", args[0], err)
			}
			_, err = fmt.Fprintln(p.out, installed)
			return err
		},
	}
}

// install copies a program to DIR/meshless. A file that is there is replaced at once, and whoever runs it goes on
// running it.
func install(program, dir string) (string, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return "", errors.Unwrap(err) // the caller names the folder
	}
	if !info.IsDir() {
		return "", errors.New("is no folder")
	}
	target := filepath.Join(dir, "meshless")
	if info, err := os.Lstat(target); err == nil && info.IsDir() {
		return "", fmt.Errorf("%s is a folder", target)
	}
	in, err := os.Open(program)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.CreateTemp(dir, ".meshless-*")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Chmod(0o755), out.Sync(), out.Close()); err == nil {
		err = os.Rename(out.Name(), target)
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(out.Name()))
	}
	return target, nil
}

// completeDirectory lets a shell offer folders, for the first argument only.
func completeDirectory(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// completeFile lets a shell offer files and folders, for the first argument only.
func completeFile(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveDefault
}
