package agentssh

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAppOf(t *testing.T) {
	t.Parallel()
	const server = "/home/ada/.vscode-server/cli/servers/Stable-18e3a1ec/server/"
	for line, want := range map[string]string{
		"java -Xmx2g -Didea.vendor.name=JetBrains com.intellij.idea.Main":                                            "jetbrains",
		"/home/ada/.cache/JetBrains/RemoteDev/dist/abc_ideaIU-2024.3/bin/remote-dev-server run /home/ada/p":          "jetbrains",
		"grep -Didea.vendor.name=JetBrainsX":                                                                         "",
		"-Didea.vendor.name=JetBrains":                                                                               "", // a program's name
		"/home/ada/.cache/JetBrains/RemoteDev/dist/abc/jbr/bin/java -jar app.jar":                                    "",
		"/home/ada/.vscode-server/code-41dd792b command-shell --cli-data-dir /home/ada/.vscode-server/cli --on-port": "vscode",
		"/home/ada/.vscode-server-insiders/code-41dd792b command-shell --on-port":                                    "vscode",
		server + "node " + server + "out/server-main.js --connection-token=remotessh --start-server":                 "vscode",
		server + "node " + server + "out/bootstrap-fork --type=extensionHost":                                        "",
		"/home/ada/.vscode-server/extensions/some.extension/bin/server --port 1":                                     "",
		"vim /home/ada/.vscode-server/code-41dd792b":                                                                 "",
		"code-41dd792b command-shell":                                                                                "",
		"/usr/bin/node app.js":                                                                                       "",
		"":                                                                                                           "",
	} {
		require.Equal(t, want, appOf(strings.Fields(line)), line)
	}
}

func TestValidApp(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"vscode": true, "Zed": true, "a": true, "my-tool_2.1": true, strings.Repeat("a", 32): true,
		"": false, strings.Repeat("a", 33): false, "-a": false, ".a": false, "a b": false, "a\n": false, "ä": false, "a\x1b": false, "a/b": false,
	} {
		require.Equal(t, want, validApp(name), "%q", name)
	}
}
