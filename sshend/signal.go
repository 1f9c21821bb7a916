package sshend

// signals are those that SSH has names for (RFC 4254 section 6.10), and those that a
// process may die of besides, with their numbers in Linux. The number of a signal that
// ended a process of another machine must not depend on this one.
var signals = map[string]int{
	"ABRT": 6, "ALRM": 14, "FPE": 8, "HUP": 1, "ILL": 4, "INT": 2, "KILL": 9, "PIPE": 13, "QUIT": 3,
	"SEGV": 11, "TERM": 15, "USR1": 10, "USR2": 12,
	"BUS": 7, "TRAP": 5, "SYS": 31, "XCPU": 24, "XFSZ": 25, "VTALRM": 26, "PROF": 27, "CONT": 18,
}

// SignalNumber returns the number in Linux of the signal of that name, without SIG; 0
// when it is not known, so that 128 + it is still the code of a signal's ending.
func SignalNumber(name string) int { return signals[name] }
