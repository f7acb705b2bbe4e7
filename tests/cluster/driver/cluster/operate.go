package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sluice.dev/tests/cluster/driver/build"
	"sluice.dev/tests/cluster/driver/host"
)

// Check answers the first reason that the cluster is not whole: a component that does not run, an API server that does
// not answer, a node that is not Ready.
func (c *Cluster) Check(ctx context.Context) error {
	if err := c.mustBeUp(); err != nil {
		return err
	}
	for name := range c.components() {
		if err := c.mustRun(name); err != nil {
			return err
		}
	}
	client, err := c.Client()
	if err != nil {
		return err
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, node := range nodes.Items {
		if !isReady(&node) {
			return fmt.Errorf("%s is not Ready", node.Name)
		}
	}
	if len(nodes.Items) < c.Options.Nodes {
		return fmt.Errorf("%d of %d nodes have joined", len(nodes.Items), c.Options.Nodes)
	}
	return nil
}

// Status lists the components with their processes, and says what Check says.
func (c *Cluster) Status(ctx context.Context, out io.Writer) error {
	if err := c.mustBeUp(); err != nil {
		return err
	}
	all, err := host.Recorded(c.processes())
	if err != nil {
		return err
	}
	names := []string{}
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, name := range names {
		state := "runs"
		if !all[name].Alive() {
			state = "stopped"
		}
		fmt.Fprintf(table, "%s\t%s\tpid %d\n", strings.ReplaceAll(name, "_", "/"), state, all[name].PID)
	}
	fmt.Fprintf(table, "KUBECONFIG\t%s\n", c.Kubeconfig())
	fmt.Fprintf(table, "network namespace\t%s\n", c.Network())
	fmt.Fprintf(table, "logs\t%s\n", c.logs)
	return errors.Join(table.Flush(), c.Check(ctx))
}

// Stop ends a component at once, or a whole node as a power cut does.
func (c *Cluster) Stop(name string) error {
	if err := c.mustBeUp(); err != nil {
		return err
	}
	if node, whole := c.nodeNamed(name); whole {
		return c.loseNode(node)
	}
	if _, known := c.components()[name]; !known {
		return c.unknown(name)
	}
	process, err := c.recorded(name)
	if err != nil {
		return err
	}
	return process.Kill()
}

// Start starts it again, with what its disk holds.
func (c *Cluster) Start(ctx context.Context, name string) error {
	if err := c.mustBeUp(); err != nil {
		return err
	}
	node, whole := c.nodeNamed(name)
	if !whole {
		program, known := c.components()[name]
		if !known {
			return c.unknown(name)
		}
		if c.mustRun(name) == nil {
			return nil
		}
		return c.start(program)
	}
	if c.mustRun(name+"/init") == nil {
		return nil
	}
	if err := c.loseNode(node); err != nil {
		return err
	}
	if err := c.plugIn(node); err != nil {
		return err
	}
	if err := c.bootNode(node); err != nil {
		return err
	}
	if err := c.joinNode(node); err != nil {
		return err
	}
	client, err := c.Client()
	if err != nil {
		return err
	}
	return c.awaitNode(ctx, client, node)
}

// Run becomes the command, in the cluster's network, as its administrator.
func (c *Cluster) Run(out io.Writer, command []string) error {
	if err := c.mustBeUp(); err != nil {
		return err
	}
	if program, known := build.Known(command[0]); known {
		if err := build.Ensure(c.Build, out, program); err != nil {
			return err
		}
	}
	for key, value := range map[string]string{
		"KUBECONFIG":           c.Kubeconfig(),
		"PATH":                 c.Build.Binaries + ":" + os.Getenv("PATH"),
		"SLUICE_CLUSTER":       c.Name,
		"SLUICE_CLUSTER_NODES": strconv.Itoa(c.Options.Nodes),
	} {
		if err := os.Setenv(key, value); err != nil {
			return err
		}
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	return host.InNetwork(host.NetPath(c.Network()), func() error {
		return fmt.Errorf("run %s: %w", path, syscall.Exec(path, command, os.Environ()))
	})
}

func (c *Cluster) mustBeUp() error {
	_, err := os.Stat(c.Kubeconfig())
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cluster %s is not up; bring it up first", c.Name)
	}
	return err
}

func (c *Cluster) nodeNamed(name string) (int, bool) {
	for node := range c.Options.Nodes {
		if nodeName(node) == name {
			return node, true
		}
	}
	return 0, false
}

func (c *Cluster) unknown(name string) error {
	return fmt.Errorf("no component is called %q; choose from %s", name, strings.Join(c.ComponentNames(), ", "))
}
