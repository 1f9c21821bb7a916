package cli

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/client"
	"fairlead.dev/fairlead/sdk"
)

func newLogin(s streams) *cobra.Command {
	var code, tokenFile, name, user string
	var insecure bool
	cmd := &cobra.Command{
		Use:   "login URL",
		Short: "Log in to a server and remember it",
		Long: "Log in to a server with the one-time code that its start printed, or with a\n" +
			"token (from --token-file, FAIRLEAD_TOKEN, or typed in when asked).",
		Example: "  fairlead login https://fairlead.example.com --code ABCD-EFGH-JKLM\n" +
			"  fairlead login https://fairlead.example.com --token-file ~/token",
		Args: cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&code, "code", "", "one-time code of the server's start")
	flags.StringVar(&tokenFile, "token-file", "", "file that holds a token")
	flags.StringVar(&name, "profile", "default", "name under which to remember this login")
	flags.StringVar(&user, "user", "", "with --code: the name of the first user (default admin), or of the admin who lost their token")
	flags.BoolVar(&insecure, "insecure-http", false, "send secrets over plain HTTP beyond loopback")
	cmd.RunE = run(func(cmd *cobra.Command, args []string) error {
		u, err := sdk.ParseURL(args[0])
		if err != nil {
			return withCode(exitUsage, err)
		}
		if plainBeyondLoopback(u) && !insecure {
			return withCode(exitUsage, fmt.Errorf("refusing to log in to %s: plain HTTP would show your token to everybody on the way; use https, or --insecure-http to accept the risk", u))
		}
		p, err := logIn(cmd.Context(), s, u.String(), code, tokenFile, user)
		if err != nil {
			return loginError(err)
		}
		if err := saveProfile(name, p, true); err != nil {
			return err
		}
		fmt.Fprintf(s.out, "Logged in to %s as %s.\n", p.URL, p.User)
		return nil
	})
	return cmd
}

// logIn finds out which secret to use, and tries it.
func logIn(ctx context.Context, s streams, url, code, tokenFile, user string) (profile, error) {
	token := os.Getenv("FAIRLEAD_TOKEN")
	switch {
	case code != "":
		return logInWithCode(ctx, url, code, user)
	case tokenFile != "":
		data, err := os.ReadFile(tokenFile)
		if err != nil {
			return profile{}, fmt.Errorf("read token: %w", err)
		}
		token = strings.TrimSpace(string(data))
	case token == "":
		typed, err := askSecret(s, "One-time code or token: ")
		if err != nil {
			return profile{}, err
		}
		if !strings.HasPrefix(typed, "fl_") {
			return logInWithCode(ctx, url, typed, user)
		}
		token = typed
	}
	client, err := sdk.NewClient(url, token)
	if err != nil {
		return profile{}, err
	}
	defer client.Close()
	me, err := client.WhoAmI(ctx)
	if err != nil {
		return profile{}, err
	}
	return profile{URL: url, Token: token, User: me.Name}, nil
}

func logInWithCode(ctx context.Context, url, code, user string) (profile, error) {
	client, err := sdk.NewClient(url, "")
	if err != nil {
		return profile{}, err
	}
	defer client.Close()
	answer, err := client.Login(ctx, sdk.LoginRequest{Code: code, Name: user})
	if err != nil {
		return profile{}, err
	}
	return profile{URL: url, Token: answer.Token, User: answer.User.Name}, nil
}

// askSecret asks a person; without a terminal it says what to do instead.
func askSecret(s streams, prompt string) (string, error) {
	if in, ok := terminalOf(s.in); ok {
		return in.readSecret(s.err, prompt)
	}
	line, err := bufio.NewReader(s.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the code from standard input: %w", err)
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", withCode(exitUsage, errors.New("there is no terminal to ask for a code; give --code, --token-file or FAIRLEAD_TOKEN"))
	}
	return line, nil
}

// loginError gives errors of the API their exit code.
func loginError(err error) error {
	var api *sdk.Error
	if !errors.As(err, &api) {
		return err
	}
	switch api.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return withCode(exitAuth, err)
	case http.StatusBadRequest: // what was asked for is what the person typed
		return withCode(exitUsage, err)
	}
	return err
}

// newAPI returns the API client of the chosen login.
func newAPI(profileName string) (*sdk.Client, error) {
	p, err := chooseProfile(profileName)
	if err != nil {
		return nil, err
	}
	api, _, err := openAPI(p, nil)
	return api, err
}

// openAPI returns the API client of a login, and what this machine notes under it; what
// waits there to be told is told, and its endings are logged, unless logger is nil.
func openAPI(p profile, logger *slog.Logger) (*sdk.Client, *client.Records, error) {
	api, err := sdk.NewClient(p.URL, p.Token)
	if err != nil {
		return nil, nil, err
	}
	records := recordsOf(p, api, logger)
	records.Report(context.Background())
	return api, records, nil
}

// recordsOf returns what this machine's clients note of sessions under a login; nil: there
// is no place for it.
func recordsOf(p profile, api *sdk.Client, logger *slog.Logger) *client.Records {
	dir, err := configDir()
	if err != nil {
		return nil
	}
	of := sha256.Sum256([]byte(p.URL + " " + p.User))
	return client.NewRecords(filepath.Join(dir, "sessions", hex.EncodeToString(of[:8])), api, logger)
}

func profileFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("profile", "", "login to use (default: the last one)")
}
