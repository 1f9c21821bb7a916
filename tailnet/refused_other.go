//go:build !linux

package tailnet

import (
	"net/netip"
	"syscall"
)

func askWhoAnswers(syscall.RawConn) bool { return false }

func whoAnswered(syscall.RawConn) netip.Addr { return netip.Addr{} }
