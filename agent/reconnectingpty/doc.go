// Package reconnectingpty keeps terminals that outlive their viewers: a program runs on
// a pseudo-terminal of the agent, and whoever attaches sees what the program shows now,
// as if they had been there all the time.
//
// It does not emulate a terminal. What the program writes goes to the viewers as it is,
// and into a bounded history. Beside that stream runs a parser that knows where escape
// sequences begin and end and follows the few modes that a fresh terminal would have to
// be told (modes.go). It knows nothing of SSH, of connections or of the server: whoever
// serves a viewer judges and reports how that ended.
//
// # Attaching
//
// A program on the main screen is shown by its history: the terminal is cleared, set to
// the modes that held where the history begins, and fed with it, without what would make
// it answer, beep or reach for the clipboard (history.go). A history that had to forget
// something begins at a line. What programs showed on the alternate screen is not kept;
// one that is there now is asked to paint itself anew, by a change of the terminal's
// size, and what it will leave behind is the main screen.
//
// # Flow
//
// Every viewer reads from one ring at its own pace. The program is held back only while
// all viewers are behind; one that is overtaken by the others is shown the state of the
// terminal instead of what it missed, and one that reads nothing at all for
// Config.SlowLimit is dropped with slow_peer. Without viewers the program never waits.
package reconnectingpty
