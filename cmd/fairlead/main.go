// Command fairlead is the whole system in one binary: server, agent and client.
package main

import (
	"os"

	"fairlead.dev/fairlead/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:]))
}
