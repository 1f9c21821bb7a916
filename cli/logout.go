package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/sdk"
)

func newLogout(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "logout",
		Short: "Revoke this login's token and forget it",
		Long: "Revoke this login's token at the server and forget it here. What is connected with the\n" +
			"token ends. The login is forgotten even when the server cannot be reached. A login by\n" +
			"FAIRLEAD_URL and FAIRLEAD_TOKEN is revoked; the remembered ones stay.",
		Args: cobra.NoArgs,
	}
	profileName := cmd.Flags().String("profile", "", "login to end (default: the last one)")
	cmd.RunE = run(func(cmd *cobra.Command, _ []string) error {
		if p, ok := envProfile(*profileName); ok { // the one that every other command uses
			answer, err := revokeLogin(cmd, p)
			if err != nil {
				return err
			}
			fmt.Fprintf(s.out, "Logged out of %s: the token in FAIRLEAD_TOKEN is void.\n", plain(p.URL))
			warnLockedOut(s, answer)
			return nil
		}
		name, p, err := storedProfile(*profileName)
		if err != nil {
			return err
		}
		answer, revoked := revokeLogin(cmd, p)
		if err := removeProfile(name); err != nil {
			return errors.Join(err, revoked)
		}
		if revoked != nil {
			return fmt.Errorf("the login %s is forgotten here, but its token was not revoked: %w", name, revoked)
		}
		fmt.Fprintf(s.out, "Logged out of %s.\n", plain(p.URL))
		warnLockedOut(s, answer)
		return nil
	})
	return cmd
}

// revokeLogin makes the token of a login void. One that is void already is no error.
func revokeLogin(cmd *cobra.Command, p profile) (sdk.RevokedToken, error) {
	api, err := sdk.NewClient(p.URL, p.Token)
	if err != nil {
		return sdk.RevokedToken{}, err
	}
	defer api.Close()
	answer, err := api.RevokeToken(cmd.Context(), sdk.CurrentToken)
	var e *sdk.Error
	if errors.As(err, &e) && e.Status == 401 {
		return answer, nil
	}
	return answer, err
}

// warnLockedOut tells who revoked the last token of an admin how one gets in again.
func warnLockedOut(s streams, answer sdk.RevokedToken) {
	if answer.NoAdminLeft {
		fmt.Fprintln(s.err, "No admin has a valid token any more. Restart the server: it makes a one-time code to log in with.")
	}
}
