package proto

import "time"

// AttachSubsystem is the SSH subsystem of terminals that outlive their viewers. Behind
// its name and a space may stand an [Attach] in JSON; without it the default terminal is
// attached to.
const AttachSubsystem = "fairlead-attach"

// DefaultTerminal is the name of a terminal that nobody gave one.
const DefaultTerminal = "main"

// TerminalKilled is the detail of the end of viewers whose user had the terminal killed.
const TerminalKilled = "the user killed the terminal"

// What an [Attach] asks for.
const (
	AttachToTerminal = "" // the session's terminal becomes a viewer
	ListTerminals    = "list"
	KillTerminal     = "kill"
)

// Attach asks for something of the caller's terminals.
type Attach struct {
	Action string `json:"action,omitempty"`
	// Name of the terminal; "" is DefaultTerminal.
	Name string `json:"name,omitempty"`
	// Command is a command line for the user's shell, if the terminal is not there yet;
	// "" starts a login shell.
	Command string `json:"command,omitempty"`
	// TakeOver sends the other viewers away.
	TakeOver bool `json:"take_over,omitempty"`
}

// Terminal is one element of the answer to [ListTerminals].
type Terminal struct {
	Name     string     `json:"name"`
	Command  string     `json:"command"`  // "" is the login shell
	Title    string     `json:"title"`    // as its program set it
	Began    time.Time  `json:"began"`    // by the agent's clock
	Detached *time.Time `json:"detached"` // since when nobody is attached; nil: somebody is
	Viewers  int        `json:"viewers"`
	Columns  int        `json:"columns"`
	Rows     int        `json:"rows"`
}

// RefreshRequest is the channel request by which a viewer asks to be shown the state of
// its terminal anew. It has no payload.
const RefreshRequest = "refresh@fairlead.dev"
