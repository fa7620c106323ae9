// Command consulhost is the Consul agent, built from its Go module: HashiCorp's own main package is not importable.
package main

import (
	"fmt"
	"os"

	"github.com/hashicorp/consul/command"
	"github.com/hashicorp/consul/command/cli"
	mcli "github.com/mitchellh/cli"
)

func main() {
	ui := &cli.BasicUI{BasicUi: mcli.BasicUi{Writer: os.Stdout, ErrorWriter: os.Stderr}}
	code, err := (&mcli.CLI{
		Name:     "consul",
		Args:     os.Args[1:],
		Commands: command.RegisteredCommands(ui),
		HelpFunc: mcli.BasicHelpFunc("consul"),
	}).Run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "consul:", err)
		os.Exit(1)
	}
	os.Exit(code)
}
