// Package cluster brings a Kubernetes cluster up from its own components and takes it down without a trace.
//
//	outside (network namespace sluice-NAME)             node0, node1, … (a network, mount and process namespace each)
//	etcd, API server, controllers, scheduler  ──lan──   containerd, kubelet, kube-proxy, pods
//	loadbalancer, the tests' clients
//
// Clients stand outside of the nodes, as a browser does: what reaches a Service's address crosses a node's kube-proxy.
package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"sluice.dev/tests/cluster/driver/build"
)

// Options are what clusters differ in.
type Options struct {
	Nodes     int    `json:"nodes"`
	ProxyMode string `json:"proxyMode"`
	// GatewayAPI is the channel of its CRDs: standard, experimental or none.
	GatewayAPI string `json:"gatewayAPI"`
	// DualStack adds IPv6. A pod then starts a second or two later: CNI waits for its address to be checked.
	DualStack bool `json:"dualStack"`
}

// Validate answers what is wrong with the options.
func (o Options) Validate() error {
	switch {
	case o.Nodes < 1 || o.Nodes > maxNodes:
		return fmt.Errorf("--nodes %d: choose from 1 to %d", o.Nodes, maxNodes)
	case o.ProxyMode != "iptables" && o.ProxyMode != "nftables":
		return fmt.Errorf("--proxy-mode %q: choose iptables or nftables", o.ProxyMode)
	case o.GatewayAPI != "standard" && o.GatewayAPI != "experimental" && o.GatewayAPI != "none":
		return fmt.Errorf("--gateway-api %q: choose standard, experimental or none", o.GatewayAPI)
	}
	return nil
}

// Cluster is one cluster of this machine. Nothing is shared between two of them but the binaries.
type Cluster struct {
	Name    string
	Options Options
	Build   build.Where
	// Driver is this program, which a node's first process and the load balancer are too.
	Driver string
	// state holds what the cluster keeps between two runs of the driver; logs what is left of it when it is down.
	state, logs string
}

// Names are part of network interfaces' and control groups' names; without hyphens none is the beginning of another.
var validName = regexp.MustCompile(`^[a-z0-9]{1,12}$`)

// Open finds a cluster by name, whether it is up or not.
func Open(name string, where build.Where, driver string) (*Cluster, error) {
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("cluster name %q: use up to 12 lower case letters and digits", name)
	}
	folder := filepath.Join(filepath.Dir(where.Binaries), "clusters", name)
	c := &Cluster{
		Name: name, Build: where, Driver: driver,
		state: filepath.Join(folder, "state"), logs: filepath.Join(folder, "logs"),
	}
	content, err := os.ReadFile(filepath.Join(c.state, "options.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(content, &c.Options)
	}
	return c, err
}

// Kubeconfig is the administrator's; its server answers inside the cluster's network.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.state, "admin.kubeconfig") }

// Logs is the folder with one file for each component.
func (c *Cluster) Logs() string { return c.logs }

// Network is the name of the network namespace outside of the nodes.
func (c *Cluster) Network() string { return "sluice-" + c.Name }

func (c *Cluster) processes() string { return filepath.Join(c.state, "processes") }

func (c *Cluster) saveOptions() error {
	content, err := json.Marshal(c.Options)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.state, "options.json"), content, 0o644)
}

// lock keeps two drivers from changing one cluster at a time; it ends with the process at the latest.
func (c *Cluster) lock() (release func(), err error) {
	folder := filepath.Dir(c.state)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("cluster %s is being brought up or down by another run of the driver; wait for it", c.Name)
	}
	return func() { file.Close() }, nil
}
