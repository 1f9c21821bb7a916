package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// runCLI executes one command line in this process.
func runCLI(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code = Run(t.Context(), args, strings.NewReader(""), &out, &errOut)
	return code, out.String(), errOut.String()
}

// TestMisuseIsOneLineAndExitCode2 walks what people get wrong on the command line.
func TestMisuseIsOneLineAndExitCode2(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		env  map[string]string
		part string
	}{
		"unknown command":       {args: []string{"sssh"}, part: "unknown command"},
		"unknown flag":          {args: []string{"ls", "--nope"}, part: "unknown flag"},
		"no workspace":          {args: []string{"ssh"}, part: "name one workspace"},
		"command without --":    {args: []string{"ssh", "dev", "make"}, part: "a command comes after --"},
		"workspace after --":    {args: []string{"ssh", "--", "dev"}, part: "name one workspace"},
		"workspace name":        {args: []string{"ssh", "De\x1b[31mv"}, part: "cannot be a workspace"},
		"output format":         {args: []string{"version", "--output", "xml"}, part: `--output "xml" is not known`},
		"log level":             {args: []string{"ssh", "dev", "--log-level", "loud"}, part: `--log-level "loud" is not known`},
		"value in the variable": {args: []string{"ssh", "dev"}, env: map[string]string{"FAIRLEAD_STDIO": "perhaps"}, part: "FAIRLEAD_STDIO"},
		"server URL":            {args: []string{"login", "ftp://x"}, part: "is not a server URL"},
		"agent without token":   {args: []string{"agent", "http://127.0.0.1:1"}, part: "token is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("FAIRLEAD_CONFIG_DIR", t.TempDir())
			for key, value := range tc.env {
				t.Setenv(key, value)
			}
			code, stdout, stderr := runCLI(t, tc.args...)
			require.Equal(t, exitUsage, code, stderr)
			require.Empty(t, stdout)
			require.Contains(t, stderr, tc.part)
			require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
			require.NotContains(t, stderr, "\x1b")
		})
	}
}

func TestVersion(t *testing.T) {
	code, stdout, _ := runCLI(t, "version", "--output", "json")
	require.Zero(t, code)
	require.Contains(t, stdout, `"version":`)
	require.Equal(t, 1, strings.Count(stdout, "\n"))
}
