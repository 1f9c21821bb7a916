package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/sdk"
)

func newWhoami(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "whoami",
		Short: "Show who you are logged in as, and where",
		Args:  cobra.NoArgs,
	}
	withAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, _ []string, asJSON bool) error {
		me, err := api.WhoAmI(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(s.out, struct {
				URL string `json:"url"`
				sdk.Identity
			}{api.URL().String(), me})
		}
		fmt.Fprintf(s.out, "%s (%s) at %s, with the token %q of scope %s, which %s.\n",
			plain(me.Name), plain(me.Role), api.URL(), plain(me.Token.Label), plain(me.Token.Scope), expiry(me.Token, time.Now()))
		return nil
	})
	return cmd
}

// expiry says until when a token is good.
func expiry(t sdk.Token, now time.Time) string {
	switch {
	case t.ExpiresAt == nil:
		return "does not expire"
	case !now.Before(*t.ExpiresAt):
		return "has expired"
	}
	return "expires in " + age(t.ExpiresAt.Sub(now)+time.Second) // the second that has begun counts
}
