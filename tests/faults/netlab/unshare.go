package netlab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// unshared marks a process that Unshare has started anew.
const unshared = "NETLAB_UNSHARED"

// Unshare makes labs possible for who is not root: it starts this program anew in a user
// namespace where it is. Call it first in main or TestMain. For root it does nothing; the
// error says why somebody else cannot have labs.
func Unshare() error {
	if os.Geteuid() == 0 {
		return nil
	}
	if os.Getenv(unshared) != "" {
		return errors.New("a user namespace in which we are not root")
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return fmt.Errorf("labs without root need unshare(1): %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if out, err := exec.Command(unshare, "--map-root-user", "--net", "--mount", "true").CombinedOutput(); err != nil {
		return fmt.Errorf("labs need root, or user namespaces, which this machine does not allow: %s", out)
	}
	// ip(8) keeps names in /run/netns, where only root may write.
	args := []string{unshare, "--map-root-user", "--mount", "sh", "-c",
		`mount -t tmpfs tmpfs /run && exec "$0" "$@"`, self}
	return syscall.Exec(unshare, append(args, os.Args[1:]...), append(os.Environ(), unshared+"=1"))
}

// HasTAP reports whether TAP devices can be made here, which needs the machine's root.
func HasTAP() bool {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	return f.Close() == nil
}
