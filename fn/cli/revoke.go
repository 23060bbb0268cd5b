package cli

import (
	"github.com/spf13/cobra"
)

func (p *program) revokeCommand() *cobra.Command {
	var o issueOptions
	cmd := &cobra.Command{
		Use:   "revoke DIR WORKLOAD|KEY...",
		Short: "Revoke the keys of workloads, and give them new ones",
		Long: `Revoke keys: peers refuse them although their certificates are valid. The workloads get new keys at once, and other
workloads are not affected. The command also does what 'meshless issue' does, so it writes whatever else is due.

A workload is kind/name or namespace/kind/name, such as deployment/web, and means the key that it has now. Another key,
such as one before it, is named by its digest: the annotation meshless.dev/public-key of the Secret, also in Git's history.`,
		Args: cobra.MinimumNArgs(2), ValidArgsFunction: completeDirectory,
		RunE: func(_ *cobra.Command, args []string) error {
			o.revoke = args[1:]
			return p.issue(args[0], o)
		},
	}
	p.issueFlags(cmd, &o)
	return cmd
}
