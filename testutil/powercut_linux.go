package testutil

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const namespaceVariable = "FAIRLEAD_TEST_NAMESPACE"

// InMountNamespace runs the test again in a process with mounts of its own, and tells
// whether this is that process. Without the right to mount the test is skipped.
func InMountNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(namespaceVariable) != "" {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), namespaceVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	output, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		t.Skip("no mount namespace here: ", err)
	}
	require.NoError(t, err, "%s", output)
	t.Logf("%s", output)
	return false
}

// Disk is a real file system whose power can be cut. It is for one goroutine.
type Disk struct {
	t     *testing.T
	image string
	Dir   string // where it is mounted
}

// NewDisk makes a file system of that many bytes in a mount namespace of the test's own
// ([InMountNamespace]), and does not mount it. It skips the test where that cannot be.
func NewDisk(t *testing.T, size int64) *Disk {
	t.Helper()
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip(err)
	}
	work := t.TempDir()
	d := &Disk{t: t, image: filepath.Join(work, "image"), Dir: filepath.Join(work, "disk")}
	require.NoError(t, os.Mkdir(d.Dir, 0o700))
	require.NoError(t, os.WriteFile(d.image, nil, 0o600))
	require.NoError(t, os.Truncate(d.image, size))
	output, err := exec.Command("mkfs.ext4", "-q", "-F", d.image).CombinedOutput()
	require.NoError(t, err, "%s", output)
	return d
}

// Mount mounts it. (noauto_da_alloc: ext4 is not to guess that a renamed file should have
// been synced.)
func (d *Disk) Mount() {
	d.t.Helper()
	if output, err := exec.Command("mount", "-o", "loop,noauto_da_alloc", d.image, d.Dir).CombinedOutput(); err != nil {
		d.t.Skipf("no loop devices here: %v: %s", err, output)
	}
}

// CutPower shuts the file system down without letting it write anything more: what is not
// synced is lost. It has to be unmounted then.
func (d *Disk) CutPower() {
	d.t.Helper()
	f, err := os.Open(d.Dir)
	require.NoError(d.t, err)
	defer f.Close()
	// EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH
	if err := unix.IoctlSetPointerInt(int(f.Fd()), 0x8004587d, 2); err != nil {
		d.t.Skip("the file system cannot be shut down: ", err)
	}
}

// Unmount unmounts it. No file on it may be open.
func (d *Disk) Unmount() {
	d.t.Helper()
	require.NoError(d.t, syscall.Unmount(d.Dir, 0))
}
