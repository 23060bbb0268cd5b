package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"
)

func (p *program) keygenCommand() *cobra.Command {
	var file string
	var postQuantum bool
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make an age identity; its recipient (age1…) goes into the config",
		Long: `Make an age identity: a key that opens what is sealed to its recipient.

A mesh wants two of them. The identity of the cluster opens workload keys; create the Secret with it in each namespace:
  kubectl -n NAMESPACE create secret generic meshless-identity --from-file=identity.txt=FILE
The identity of the CA opens CA keys. It stays with CI or an operator and never enters a cluster.`,
		Example: "  meshless keygen -o cluster.txt\n  meshless keygen -o ca.txt --post-quantum",
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return p.keygen(file, postQuantum) },
	}
	cmd.Flags().StringVarP(&file, "output", "o", "", "file to write, which must not exist (default: standard output)")
	cmd.Flags().BoolVar(&postQuantum, "post-quantum", false, "make a hybrid post-quantum identity (age1pq1…)")
	return cmd
}

func (p *program) keygen(file string, postQuantum bool) error {
	secret, recipient, err := newIdentity(postQuantum)
	if err != nil {
		return err
	}
	text := fmt.Appendf(nil, "# created: %s\n# public key: %s\n%s\n", p.now().UTC().Format(time.RFC3339), recipient, secret)
	if file == "" {
		_, err = p.out.Write(text)
	} else {
		err = writeNew(file, text)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.err, "recipient: %s\n", recipient)
	return err
}

// writeNew writes a file that must not exist, for the eyes of its owner.
func writeNew(file string, text []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s: is there already, and may hold a key that is in use; name another file", file)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

func newIdentity(postQuantum bool) (secret, recipient string, err error) {
	if postQuantum {
		identity, err := age.GenerateHybridIdentity()
		if err != nil {
			return "", "", err
		}
		return identity.String(), identity.Recipient().String(), nil
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return "", "", err
	}
	return identity.String(), identity.Recipient().String(), nil
}
