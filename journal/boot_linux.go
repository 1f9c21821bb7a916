package journal

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// boot identifies the machine's boot and says when it was. What is not known is zero.
func boot() (id string, at time.Time) {
	if text, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		id = strings.TrimSpace(string(text))
	}
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return id, time.Time{}
	}
	up, _, _ := strings.Cut(string(text), " ")
	seconds, err := strconv.ParseFloat(up, 64)
	if err != nil {
		return id, time.Time{}
	}
	return id, time.Now().Add(-time.Duration(seconds * float64(time.Second)))
}
