//go:build !linux

package hostwatch

func readKills() Kills { return Kills{Group: -1, Machine: -1} }
