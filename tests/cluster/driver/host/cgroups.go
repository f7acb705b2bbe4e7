package host

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// MakeCgroup makes a control group of that name at the top of every hierarchy (cgroup v1) or of the one there is (v2),
// for a kubelet to put its pods under. A kubelet removes pods' groups that it does not know, so each needs its own.
func MakeCgroup(name string) error {
	roots, second, err := cgroupRoots()
	if err != nil {
		return err
	}
	unified := len(roots) == 0
	if unified {
		roots = []string{second}
	}
	for _, root := range roots {
		group := filepath.Join(root, name)
		if unified {
			// Refused for controllers that this kernel or container does not pass on; kubelet names the one it misses.
			for _, controller := range []string{"+cpu", "+memory", "+pids", "+cpuset", "+io"} {
				_ = os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte(controller), 0o644)
			}
		}
		if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("control group %s: %w", group, err)
		}
		// A v1 cpuset starts empty, and no process can be put into an empty one.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			content, err := os.ReadFile(filepath.Join(root, file))
			if unified || errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(group, file), content, 0o644)
			}
			if err != nil {
				return fmt.Errorf("control group %s: %s: %w", group, file, err)
			}
		}
	}
	return nil
}

// RemoveCgroup removes it and all below it, once the last process in there has gone.
func RemoveCgroup(name string) error {
	roots, second, err := cgroupRoots()
	if err != nil {
		return err
	}
	// Where both kinds are mounted, runc makes groups in the second too.
	if second != "" {
		roots = append(roots, second)
	}
	for _, root := range roots {
		group := filepath.Join(root, name)
		err := Eventually(10*time.Second, "control group "+group+" is empty", func() error { return removeGroups(group) })
		if err != nil {
			return err
		}
	}
	return nil
}

func removeGroups(top string) error {
	var groups []string
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && entry.IsDir() {
			groups = append(groups, path)
		}
		return err
	})
	for _, group := range slices.Backward(groups) {
		if err := os.Remove(group); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return err
}

// cgroupRoots are where hierarchies of the first kind are mounted, and the one of the second.
func cgroupRoots() (roots []string, second string, err error) {
	file, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, "", err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) < 3 || !strings.HasPrefix(fields[1], "/sys/fs/cgroup"):
		case fields[2] == "cgroup":
			roots = append(roots, fields[1])
		case fields[2] == "cgroup2":
			second = fields[1]
		}
	}
	if len(roots) == 0 && second == "" {
		return nil, "", errors.New("no control groups are mounted under /sys/fs/cgroup; a container needs them writable (--privileged --cgroupns=host)")
	}
	return roots, second, nil
}
