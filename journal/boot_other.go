//go:build !linux

package journal

import "time"

// boot knows of no way to tell two boots apart here.
func boot() (id string, at time.Time) { return "", time.Time{} }
