package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/sdk"
)

func newToken(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Manage your tokens",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTokenCreate(s), newTokenList(s), newTokenRevoke(s))
	return cmd
}

func newTokenCreate(s streams) *cobra.Command {
	var tokenFile, scope, user string
	var life lifetime
	cmd := &cobra.Command{
		Use:   "create LABEL",
		Short: "Create a token, for a script or another machine",
		Long: "Create a token. Its scope is what it may be used for, within what you may do: full for\n" +
			"everything, read to look at things, ssh to list workspaces and connect to them. Made with\n" +
			"a token that expires, it expires no later than that.",
		Example: "  fairlead token create ci --scope ssh --expires 30d --token-file ci.token",
		Args:    cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&tokenFile, "token-file", "", "write the token to this new file (mode 0600) instead of showing it")
	flags.StringVar(&scope, "scope", "full", "what it may be used for: full, read or ssh")
	flags.Var(&life, "expires", "how long it is valid, as in 30d or 12h (default: for ever)")
	flags.StringVar(&user, "user", "", "for admins: whose token it is (default: yours)")
	withAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		req := sdk.CreateTokenRequest{Label: args[0], Scope: scope, User: user}
		if life > 0 {
			req.ExpiresIn = int64(math.Ceil(time.Duration(life).Seconds())) // by the server's clock, not ours
		}
		if user != "" {
			if err := mustBeAdmin(cmd.Context(), api); err != nil {
				return err
			}
		}
		var made sdk.CreateTokenResponse
		kept, err := keepSecret(tokenFile, func() (_ string, err error) {
			made, err = api.CreateToken(cmd.Context(), req)
			return made.Secret, err
		})
		if err != nil {
			return err
		}
		if kept {
			made.Secret = ""
		}
		if asJSON {
			return printJSON(s.out, made)
		}
		if !kept {
			fmt.Fprintln(s.out, plain(made.Secret))
		}
		fmt.Fprintf(s.err, "Token %s of scope %s %s. It is not shown again.\n",
			plain(made.Token.ID), plain(made.Token.Scope), expiry(made.Token, time.Now()))
		return nil
	})
	return cmd
}

// lifetime is a flag's duration that may also be a number of days.
type lifetime time.Duration

// Set implements [pflag.Value].
func (l *lifetime) Set(text string) error {
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return errors.New("give a time such as 30d, 12h or 90m")
	}
	*l = lifetime(d)
	return nil
}

// String implements [pflag.Value].
func (l *lifetime) String() string {
	if *l == 0 {
		return ""
	}
	return time.Duration(*l).String()
}

// Type implements [pflag.Value].
func (l *lifetime) Type() string { return "duration" }

func newTokenList(s streams) *cobra.Command {
	var user string
	var all bool
	cmd := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List your tokens", Args: cobra.NoArgs}
	cmd.Flags().StringVar(&user, "user", "", "for admins: list this user's tokens")
	cmd.Flags().BoolVar(&all, "all", false, "for admins: list everybody's tokens")
	withAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, _ []string, asJSON bool) error {
		var tokens []sdk.Token
		var err error
		if all || user != "" {
			if err := mustBeAdmin(cmd.Context(), api); err != nil {
				return err
			}
			tokens, err = api.TokensOf(cmd.Context(), user)
		} else {
			tokens, err = api.Tokens(cmd.Context())
		}
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(s.out, append([]sdk.Token{}, tokens...))
		}
		return printTokens(s, tokens, time.Now())
	})
	return cmd
}

func printTokens(s streams, tokens []sdk.Token, now time.Time) error {
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tUSER\tLABEL\tSCOPE\tAGE\tLAST USED\tEXPIRY")
	for _, t := range tokens {
		used := "never"
		if t.LastUsedAt != nil {
			used = age(now.Sub(*t.LastUsedAt)) + " ago"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", plain(t.ID), plain(t.User), plain(t.Label), plain(t.Scope),
			age(now.Sub(t.CreatedAt)), used, expiry(t, now))
	}
	return w.Flush()
}

func newTokenRevoke(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke ID",
		Short: "Revoke a token: what is connected with it ends at once",
		Long: "Revoke a token: what is connected with it ends at once. The beginning of an id is\n" +
			"enough when no other of your tokens begins so; \"current\" is this login's own.",
		Args: cobra.ExactArgs(1),
	}
	withAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		id, err := findToken(cmd.Context(), api, args[0])
		if err != nil {
			return err
		}
		answer, err := api.RevokeToken(cmd.Context(), id)
		if err != nil {
			return err
		}
		warnLockedOut(s, answer)
		if asJSON {
			return printJSON(s.out, struct {
				ID string `json:"id"`
			}{id})
		}
		fmt.Fprintf(s.out, "Token %s is revoked.\n", plain(id))
		return nil
	})
	return cmd
}

// findToken returns the id of the caller's token that begins so, or else what was typed:
// it may be somebody else's. A login that may not list tokens may still end its own.
func findToken(ctx context.Context, api *sdk.Client, typed string) (string, error) {
	if typed == sdk.CurrentToken {
		return typed, nil
	}
	me, err := api.WhoAmI(ctx)
	if err != nil {
		return "", err
	}
	if me.Token.Scope == "ssh" {
		if strings.HasPrefix(me.Token.ID, typed) {
			return me.Token.ID, nil
		}
		return typed, nil // the server says what such a token may not
	}
	tokens, err := api.Tokens(ctx)
	if err != nil {
		return "", err
	}
	id := typed
	for _, t := range tokens {
		if !strings.HasPrefix(t.ID, typed) {
			continue
		}
		if id != typed {
			return "", withCode(exitUsage, fmt.Errorf("more than one of your tokens begins with %q", plain(typed)))
		}
		id = t.ID
	}
	return id, nil
}
