// Package cli is the command line: one file per command, with its flags, its output
// and the wiring of the parts it needs. It holds no logic that another program could
// want; that lives in client, agent and server.
package cli

//go:generate go test -tags grpcnotrace -run ^Test(Options|Command)Page$ -update .

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/disconnect"
)

// Exit codes. A remote command's own status passes through unchanged.
const (
	exitOK       = 0
	exitError    = 1
	exitUsage    = 2
	exitRefused  = 3   // the server does not accept this agent, ever: do not restart it
	exitAuth     = 4   // log in first, or the login is no longer valid
	exitNoAnswer = 5   // ping: the workspace does not answer, or its agent is offline
	exitIndirect = 6   // ping --until-direct: it answers, but only over the relay
	exitStopped  = 7   // ssh: the workspace is stopped
	exitLost     = 255 // the connection to the workspace was lost or could not be made
)

// streams are the standard streams of one run.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// exitError carries an exit code. With quiet set everything has been said.
type exitErr struct {
	code  int
	quiet bool
	err   error
}

func (e *exitErr) Error() string { return e.err.Error() }
func (e *exitErr) Unwrap() error { return e.err }

// withCode gives err an exit code.
func withCode(code int, err error) error { return &exitErr{code: code, err: err} }

// exitWith ends the program with code and prints nothing.
func exitWith(code int) error {
	if code == exitOK {
		return nil
	}
	return &exitErr{code: code, quiet: true, err: fmt.Errorf("exit status %d", code)}
}

// Main runs the program with the process' own streams and signals and returns its
// exit code.
func Main(args []string) int {
	log.SetOutput(io.Discard) // net/http writes there what answers are not HTTP
	return Run(context.Background(), args, os.Stdin, os.Stdout, os.Stderr)
}

// Run executes one command line. On failure it prints one line on stderr.
func Run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	root := newRoot(streams{in: in, out: out, err: errOut})
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var exit *exitErr
	if !errors.As(err, &exit) {
		exit = &exitErr{code: exitUsage, err: err} // cobra's own: unknown command or flag
	}
	if !exit.quiet {
		fmt.Fprintln(errOut, "fairlead: "+disconnect.ScrubTo(err.Error(), 2048))
	}
	return exit.code
}

func newRoot(s streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "fairlead",
		Short: "Remote workspaces over an encrypted peer-to-peer network",
		Long: "Fairlead connects people and their coding agents to remote workspaces over an\n" +
			"encrypted peer-to-peer network, and says for every ending who ended it, why, and\n" +
			"whether that is normal.\n\n" +
			"Start with `fairlead up` here and `fairlead ssh local` in another terminal.",
		SilenceErrors: true,
		SilenceUsage:  true,
		// Every flag may also come from the environment.
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := bindEnv(cmd); err != nil {
				return err
			}
			correct(cmd, s)
			return nil
		},
	}
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.AddCommand(
		newUp(s), newServer(s), newAgent(s), newRelay(s),
		newLogin(s), newLogout(s), newWhoami(s), newUser(s), newToken(s),
		newLs(s), newWorkspace(s), newSSH(s), newAttach(s), newPing(s), newNetcheck(s), newPortForward(s), newCp(s), newSpeedtest(s), newSupportBundle(s), newContext(s), newMCP(s), newConnections(s), newWhy(s), newVerdict(s), newConfigSSH(s), newVersion(s), newExitCodes(),
	)
	addCompletions(root)
	return root
}

// run adapts a command's function: an error without an exit code of its own is a
// plain failure, not a usage error.
func run(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := f(cmd, args)
		var exit *exitErr
		if err == nil || errors.As(err, &exit) {
			return err
		}
		return withCode(exitError, err)
	}
}
