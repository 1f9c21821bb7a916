// Package explain says in plain language what a verdict means to the person who reads it:
// what happened, whether that is normal, who began it, how sure that is, and one next
// step.
//
// It decides nothing: package verdict does. It knows no language but English, no
// terminal and no command line beyond the names of the commands that it suggests.
package explain
