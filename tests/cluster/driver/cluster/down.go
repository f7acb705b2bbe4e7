package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sluice.dev/tests/cluster/driver/host"
)

// Down takes the cluster down, whatever state it is in, and leaves its logs.
func (c *Cluster) Down() error {
	release, err := c.lock()
	if err != nil {
		return err
	}
	defer release()
	return c.clear()
}

// clear ends every process of the cluster and removes what they used. Each step looks for what is there instead of
// believing the records: a start may have been broken off anywhere.
func (c *Cluster) clear() error {
	all, err := host.Recorded(c.processes())
	if err != nil {
		return err
	}
	for name, process := range all {
		if strings.HasSuffix(name, "_init") { // takes the rest of its node along
			if err := process.Kill(); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	for name, process := range all {
		if err := process.Kill(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	namespaces, err := c.ownNetns()
	if err != nil {
		return err
	}
	for _, name := range namespaces {
		if err := c.killStrays(name); err != nil {
			return err
		}
		if err := deleteNetns(name); err != nil {
			return err
		}
	}
	for node := range maxNodes {
		if err := host.RemoveCgroup(c.cgroup(node)); err != nil {
			return err
		}
	}
	return os.RemoveAll(c.state)
}

// ownNetns lists the network namespaces by their names.
func (c *Cluster) ownNetns() ([]string, error) {
	paths, err := filepath.Glob(host.NetPath(c.Network()) + "*")
	if err != nil {
		return nil, err
	}
	var own []string
	for _, path := range paths {
		name := filepath.Base(path)
		if name == c.Network() || strings.HasPrefix(name, c.Network()+"-") {
			own = append(own, name)
		}
	}
	return own, nil
}

// killStrays ends processes that were started and not yet recorded when the driver was killed: the cluster's own
// programs in its network. Others there are left alone: the driver may have been called by one.
func (c *Cluster) killStrays(netns string) error {
	pids, err := host.InNetns(netns)
	if err != nil {
		return err
	}
	own := []string{c.binary("components"), c.Driver}
	for _, pid := range pids {
		executable, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		executable = strings.TrimSuffix(executable, " (deleted)")
		if err != nil || pid == os.Getpid() || !slices.Contains(own, executable) {
			continue
		}
		process, err := host.Identify(pid)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = process.Kill()
		}
		if err != nil {
			return err
		}
	}
	return nil
}
