// Package host is what the test cluster asks of the machine: packages, namespaces, control groups and processes. It
// knows nothing of Kubernetes.
package host

import (
	"fmt"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Namespaces names the namespaces that a process is started in, each by a path that setns(2) takes. Empty: the driver's.
type Namespaces struct {
	Net, Mount, PID string
}

// NetPath is where iproute2 keeps a named network namespace.
func NetPath(name string) string { return "/var/run/netns/" + name }

// NamespacesOf are those of a running process, but for the network, which outlives it.
func NamespacesOf(pid int, net string) Namespaces {
	proc := "/proc/" + strconv.Itoa(pid) + "/ns/"
	return Namespaces{Net: net, Mount: proc + "mnt", PID: proc + "pid"}
}

// Start starts a command in other namespaces. `ip netns exec` would not do: it mounts a fresh /sys, which hides the
// control groups from kubelet and runc.
func Start(command *exec.Cmd, in Namespaces) error {
	return inThread(in, command.Start)
}

// InNetwork runs a function in a network namespace. Sockets that it opens stay there; goroutines that it starts do not.
func InNetwork(path string, f func() error) error {
	return inThread(Namespaces{Net: path}, f)
}

// inThread runs a function on a thread of its own that has entered the namespaces. The thread is never unlocked, so it
// ends with the goroutine and no other goroutine meets its namespaces.
func inThread(in Namespaces, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := in.enter(); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func (in Namespaces) enter() error {
	if in.Mount != "" {
		// The kernel lets no thread into another mount namespace that shares its root and working directory with others.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare the working directory: %w", err)
		}
	}
	// All are opened before any is entered: /proc and /run look otherwise in there.
	var files [3]int
	for i, path := range []string{in.Net, in.PID, in.Mount} {
		files[i] = -1
		if path == "" {
			continue
		}
		file, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open namespace %s: %w", path, err)
		}
		defer unix.Close(file)
		files[i] = file
	}
	for i, kind := range []int{unix.CLONE_NEWNET, unix.CLONE_NEWPID, unix.CLONE_NEWNS} {
		if files[i] < 0 {
			continue
		}
		if err := unix.Setns(files[i], kind); err != nil {
			return fmt.Errorf("enter namespace: %w", err)
		}
	}
	return nil
}

// IP runs lines of iproute2 in a network namespace, in one process.
func IP(namespace string, lines ...string) error {
	return ip(namespace, nil, lines)
}

// IPv6 is the same for what does not say its family itself.
func IPv6(namespace string, lines ...string) error {
	return ip(namespace, []string{"-6"}, lines)
}

func ip(namespace string, options []string, lines []string) error {
	command := exec.Command("ip", append(options, "-netns", namespace, "-batch", "-")...)
	command.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("ip in network namespace %s: %w: %s", namespace, err, strings.TrimSpace(string(output)))
	}
	return nil
}
