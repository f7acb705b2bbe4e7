package host

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// InitCommand is the driver's hidden command that runs as a node's first process.
const InitCommand = "node-init"

// Bind is a folder of the machine that a node sees at another place.
type Bind struct{ From, To string }

// StartInit starts the first process of a node: in a process namespace, so that killing this one process ends all of
// the node's, the containers' and their shims' too, and in a mount namespace, so that every mount ends with the last of
// them. It returns once the mounts are made.
func StartInit(driver, net string, binds []Bind, log *os.File) (Process, error) {
	arguments := []string{InitCommand}
	for _, bind := range binds {
		arguments = append(arguments, bind.From+"="+bind.To)
	}
	ready, told, err := os.Pipe()
	if err != nil {
		return Process{}, err
	}
	defer ready.Close()
	command := exec.Command(driver, arguments...)
	command.Stdout, command.Stderr = log, log
	command.ExtraFiles = []*os.File{told}
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	err = Start(command, Namespaces{Net: net})
	told.Close()
	if err != nil {
		return Process{}, fmt.Errorf("start a node's first process: %w", err)
	}
	process, err := Identify(command.Process.Pid)
	if err != nil {
		return Process{}, err
	}
	if answer, _ := io.ReadAll(ready); string(answer) != "ready" {
		return Process{}, fmt.Errorf("a node's first process failed; see %s", log.Name())
	}
	return process, nil
}

// Init is that first process: it makes the mounts, says so, and reaps the orphans until it is killed.
func Init(arguments []string) error {
	if err := mounts(arguments); err != nil {
		return err
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP)
	told := os.NewFile(3, "ready")
	if _, err := told.WriteString("ready"); err != nil {
		return err
	}
	told.Close()
	for range children {
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
	return nil
}

func mounts(binds []string) error {
	// Nothing mounted here is seen outside.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("proc", "/proc", "proc", flags|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// As after a boot: containerd's shims, CNI's namespaces and addresses, and xtables' lock belong to one life of one node.
	if err := unix.Mount("run", "/run", "tmpfs", flags, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for _, bind := range binds {
		from, to, _ := strings.Cut(bind, "=")
		if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", from, to, err)
		}
	}
	// Among themselves kubelet, containerd and the containers share them; volumes mounted later reach a running pod.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share the mounts: %w", err)
	}
	return nil
}
