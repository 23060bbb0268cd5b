package cli

import (
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/meshless-dev/meshless/internal/api"
)

func TestVersionText(t *testing.T) {
	first, last := "meshless "+api.Version+"\n", "go       go1.26.8\nplatform "+runtime.GOOS+"/"+runtime.GOARCH+"\n"
	for name, test := range map[string]struct {
		settings []debug.BuildSetting
		want     string
	}{
		"without VCS": {nil, first + last},
		"clean":       {[]debug.BuildSetting{{Key: "vcs.revision", Value: "0a13fbc"}, {Key: "vcs.time", Value: "2026-03-01T12:00:00Z"}, {Key: "vcs.modified", Value: "false"}}, first + "commit   0a13fbc of 2026-03-01T12:00:00Z\n" + last},
		"dirty":       {[]debug.BuildSetting{{Key: "vcs.revision", Value: "0a13fbc"}, {Key: "vcs.modified", Value: "true"}}, first + "commit   0a13fbc, dirty (with changes that are not committed)\n" + last},
	} {
		if got := versionText(&debug.BuildInfo{GoVersion: "go1.26.8", Settings: test.settings}); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}
