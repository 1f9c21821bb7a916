package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/server/store"
)

func newServerBackup(s streams) *cobra.Command {
	stateDir := defaultStateDir("server")
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write a copy of the server's database to FILE, also while it runs",
		Long: "Write a copy of the server's database to the new file FILE. A server may run\n" +
			"meanwhile: the copy is the database at one moment. It holds the server's keys, so\n" +
			"keep it as safe as the server.",
		Args: oneFile("backup"),
	}
	cmd.Flags().StringVar(&stateDir, "state-dir", stateDir, "directory of the database")
	cmd.RunE = run(func(cmd *cobra.Command, args []string) error {
		if err := store.Backup(cmd.Context(), stateDir, args[0]); err != nil {
			return err
		}
		fmt.Fprintf(s.err, "The database of %s is in %s.\n", stateDir, args[0])
		return nil
	})
	return cmd
}

func newServerRestore(s streams) *cobra.Command {
	stateDir := defaultStateDir("server")
	var force bool
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a backup the server's database",
		Long: "Make the backup FILE the server's database. The server must not run. What was made\n" +
			"after the backup (users, workspaces, tokens) is not known any more.",
		Args: oneFile("restore"),
	}
	flags := cmd.Flags()
	flags.StringVar(&stateDir, "state-dir", stateDir, "directory of the database")
	flags.BoolVar(&force, "force", false, "replace a database that is there; it is kept beside the new one, as fairlead.db.old")
	cmd.RunE = run(func(cmd *cobra.Command, args []string) error {
		if err := store.Restore(cmd.Context(), args[0], stateDir, force); err != nil {
			return err
		}
		fmt.Fprintf(s.err, "%s is the database of %s now.\n", args[0], stateDir)
		return nil
	})
	return cmd
}

func oneFile(verb string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("name one file: fairlead server %s FILE", verb)
		}
		return nil
	}
}
