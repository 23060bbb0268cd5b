package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshless-dev/meshless/internal/api"
)

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print release, commit, Go version and platform",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprint(p.out, buildVersion())
			return err
		},
	}
}

func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{GoVersion: runtime.Version()}
	}
	return versionText(info)
}

// versionText words a build: its release, and the commit where the build knows it (`go build` in a checkout, without
// -buildvcs=false).
func versionText(info *debug.BuildInfo) string {
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	var out strings.Builder
	fmt.Fprintf(&out, "meshless %s\n", api.Version)
	if commit := settings["vcs.revision"]; commit != "" {
		fmt.Fprintf(&out, "commit   %s", commit)
		if at := settings["vcs.time"]; at != "" {
			fmt.Fprintf(&out, " of %s", at)
		}
		if settings["vcs.modified"] == "true" {
			out.WriteString(", dirty (with changes that are not committed)")
		}
		out.WriteByte('\n')
	}
	fmt.Fprintf(&out, "go       %s\nplatform %s/%s\n", info.GoVersion, runtime.GOOS, runtime.GOARCH)
	return out.String()
}
