package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a started process, told from a later one of the same number by when it started. The kernel counts that
// from its boot, so the boot belongs to it.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
	Boot  string `json:"boot"`
}

// Identify notes what a running process is known by.
func Identify(pid int) (Process, error) {
	start, _, err := readStat(pid)
	if err != nil {
		return Process{}, err
	}
	boot, err := bootID()
	return Process{PID: pid, Start: start, Boot: boot}, err
}

// Alive is whether it still runs; one that has ended and was not yet waited for does not.
func (p Process) Alive() bool {
	start, state, err := readStat(p.PID)
	if err != nil || start != p.Start || state == "Z" || state == "X" {
		return false
	}
	boot, err := bootID()
	return err == nil && boot == p.Boot
}

// Kill ends it at once and waits until it is gone. An API server that is asked politely takes a minute, and nothing
// here is worth keeping.
func (p Process) Kill() error {
	if !p.Alive() {
		return nil
	}
	// The descriptor is taken before the second look, so that the number cannot change hands in between.
	file, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		return fmt.Errorf("process %d: %w", p.PID, err)
	}
	defer unix.Close(file)
	if !p.Alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(file, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	return Eventually(10*time.Second, fmt.Sprintf("process %d ends", p.PID), func() error {
		if p.Alive() {
			return errors.New("it still runs")
		}
		return nil
	})
}

// Record keeps a process in a file for later runs of the driver.
func (p Process) Record(path string) error {
	content, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}

// Recorded reads every process recorded in a folder, by file name without its ending.
func Recorded(folder string) (map[string]Process, error) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		return nil, err
	}
	found := map[string]Process{}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var process Process
		if json.Unmarshal(content, &process) == nil {
			found[strings.TrimSuffix(filepath.Base(path), ".json")] = process
		}
	}
	return found, nil
}

// InNetns lists the processes in a named network namespace, as its id tells.
func InNetns(name string) ([]int, error) {
	var want, have unix.Stat_t
	if err := unix.Stat(NetPath(name), &want); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil, nil
		}
		return nil, fmt.Errorf("network namespace %s: %w", name, err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &have) != nil {
			continue
		}
		if have.Dev == want.Dev && have.Ino == want.Ino {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Eventually asks until there is no error left or the time is over; then the last error is part of the answer.
func Eventually(patience time.Duration, what string, ask func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %v until %s: %w", patience, what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func readStat(pid int) (start uint64, state string, err error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, "", err
	}
	// The second field is the name in brackets and may itself hold brackets and spaces.
	_, rest, found := strings.Cut(string(content[strings.LastIndexByte(string(content), ')')+1:]), " ")
	fields := strings.Fields(rest)
	const startTime = 22 - 3 // proc_pid_stat(5) counts from 1, and two fields are cut off
	if !found || len(fields) <= startTime {
		return 0, "", fmt.Errorf("/proc/%d/stat: too few fields", pid)
	}
	start, err = strconv.ParseUint(fields[startTime], 10, 64)
	return start, fields[0], err
}

func bootID() (string, error) {
	content, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(content)), err
}
