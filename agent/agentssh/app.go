package agentssh

import "regexp"

// AppSource says how it is known which program a connection belongs to.
type AppSource string

// Sources of the name of an app, the surest first.
const (
	// AppDeclared is what the client said in the variable FAIRLEAD_APP.
	AppDeclared AppSource = "declared"
	// AppProcess was recognised by the command line of the process that a forward of the
	// same SSH connection leads to.
	AppProcess AppSource = "process"
	// AppDefault is what a connection is called of which nothing is known.
	AppDefault AppSource = "default"
)

// App is the program that a connection belongs to.
type App struct {
	Name   string // never empty
	Source AppSource
}

// Names of apps.
const (
	appSSH       = "ssh"
	appVSCode    = "vscode"
	appJetBrains = "jetbrains"
)

var appName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`)

// validApp reports whether a client may call itself that.
func validApp(name string) bool { return appName.MatchString(name) }

// app is what the session belongs to. What is learnt of its connection while it lasts
// counts, unless the session itself has declared one.
func (s *session) application() App {
	if s.app != "" {
		return App{s.app, AppDeclared}
	}
	return s.c.application()
}

// application is what the connection as a whole belongs to.
func (c *conn) application() App {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.app.Name == "" {
		return App{appSSH, AppDefault}
	}
	return c.app
}

// learn notes what the connection belongs to; a declaration goes before anything else,
// and the first of its kind stays.
func (c *conn) learn(app App) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.app.Name == "" || (c.app.Source != AppDeclared && app.Source == AppDeclared) {
		c.app = app
	}
}
