package cluster

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"sluice.dev/tests/cluster/driver/host"
)

// component is a process of the cluster; on a node it is called "node0/kubelet".
type component struct {
	name    string
	node    int
	command []string
}

const outside = -1

// LoadBalancerCommand is the driver's hidden command that gives Services their addresses.
const LoadBalancerCommand = "loadbalancer"

// controlPlane is in the order of starting.
func (c *Cluster) controlPlane() []component {
	const etcd = "http://127.0.0.1:2379"
	programs := []component{
		{name: "etcd", command: []string{c.binary("etcd"),
			"--data-dir", filepath.Join(c.state, "etcd"),
			"--listen-client-urls", etcd, "--advertise-client-urls", etcd,
			"--listen-peer-urls", "http://127.0.0.1:2380",
			// Nothing here outlives the machine.
			"--unsafe-no-fsync",
		}},
		{name: "kube-apiserver", command: []string{c.binary("kube-apiserver"),
			"--etcd-servers=" + etcd,
			"--advertise-address=" + serverAddress, fmt.Sprintf("--secure-port=%d", serverPort),
			"--tls-cert-file=" + c.pki("kube-apiserver.crt"), "--tls-private-key-file=" + c.pki("kube-apiserver.key"),
			"--client-ca-file=" + c.pki("ca.crt"),
			"--kubelet-certificate-authority=" + c.pki("ca.crt"),
			"--kubelet-client-certificate=" + c.pki("admin.crt"), "--kubelet-client-key=" + c.pki("admin.key"),
			// A node's name is in no DNS that the API server asks.
			"--kubelet-preferred-address-types=InternalIP",
			"--requestheader-client-ca-file=" + c.pki("ca.crt"), "--requestheader-allowed-names=front-proxy",
			"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--proxy-client-cert-file=" + c.pki("front-proxy.crt"), "--proxy-client-key-file=" + c.pki("front-proxy.key"),
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + c.pki("service-accounts.pub"),
			"--service-account-signing-key-file=" + c.pki("service-accounts.key"),
			"--service-cluster-ip-range=" + c.families(serviceCIDR, serviceCIDRv6),
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
		}},
		{name: "kube-controller-manager", command: []string{c.binary("kube-controller-manager"),
			"--kubeconfig=" + c.kubeconfig("kube-controller-manager"), "--leader-elect=false",
			"--bind-address=127.0.0.1",
			"--service-account-private-key-file=" + c.pki("service-accounts.key"), "--root-ca-file=" + c.pki("ca.crt"),
			"--cluster-signing-cert-file=" + c.pki("ca.crt"), "--cluster-signing-key-file=" + c.pki("ca.key"),
			"--use-service-account-credentials",
			// A node gets its pods' addresses from plugIn and CNI's configuration.
			"--allocate-node-cidrs=false",
			// A node that is lost is noticed in half the usual time; its kubelet renews its lease accordingly.
			"--node-monitor-grace-period=20s", "--node-monitor-period=2s",
		}},
		{name: "kube-scheduler", command: []string{c.binary("kube-scheduler"),
			"--kubeconfig=" + c.kubeconfig("kube-scheduler"), "--leader-elect=false", "--bind-address=127.0.0.1",
		}},
		{name: LoadBalancerCommand, command: []string{c.Driver, LoadBalancerCommand,
			"--kubeconfig", c.Kubeconfig(), "--network", c.Network(),
			"--range", LoadBalancerCIDR, "--range", LoadBalancerCIDRv6,
		}},
	}
	for i := range programs {
		programs[i].node = outside
	}
	return programs
}

// nodePrograms are a node's processes but for the first, in the order of starting.
func (c *Cluster) nodePrograms(node int) []component {
	prefix := nodeName(node) + "/"
	return []component{
		{name: prefix + "containerd", node: node, command: []string{"containerd", "--config", c.nodeFile(node, "containerd.toml")}},
		{name: prefix + "kubelet", node: node, command: []string{c.binary("kubelet"),
			"--config=" + c.nodeFile(node, "kubelet.yaml"),
			"--kubeconfig=" + c.kubeconfig(nodeName(node)), "--hostname-override=" + nodeName(node),
			"--node-ip=" + c.families(nodeAddress(node), nodeAddressV6(node)),
			// For topology hints and spread constraints.
			fmt.Sprintf("--node-labels=topology.kubernetes.io/zone=zone%d", node),
		}},
		{name: prefix + "kube-proxy", node: node, command: []string{c.binary("kube-proxy"),
			"--config=" + c.nodeFile(node, "kube-proxy.yaml"),
		}},
	}
}

// components are all that can be stopped and started by name.
func (c *Cluster) components() map[string]component {
	all := map[string]component{}
	for _, program := range c.controlPlane() {
		all[program.name] = program
	}
	for node := range c.Options.Nodes {
		for _, program := range c.nodePrograms(node) {
			all[program.name] = program
		}
	}
	return all
}

// ComponentNames are those, and the nodes.
func (c *Cluster) ComponentNames() []string {
	names := slices.Collect(maps.Keys(c.components()))
	for node := range c.Options.Nodes {
		names = append(names, nodeName(node))
	}
	slices.Sort(names)
	return names
}

// start starts a process and records it, so that any later run of the driver can end it.
func (c *Cluster) start(program component) error {
	in := host.Namespaces{Net: host.NetPath(c.Network())}
	if program.node != outside {
		first, err := c.recorded(nodeName(program.node) + "/init")
		if err != nil {
			return err
		}
		if !first.Alive() {
			return fmt.Errorf("%s: node%d is stopped; start the node", program.name, program.node)
		}
		in = host.NamespacesOf(first.PID, host.NetPath(c.netns(program.node)))
	}
	log, err := c.openLog(program.name)
	if err != nil {
		return err
	}
	defer log.Close()
	command := exec.Command(program.command[0], program.command[1:]...)
	command.Stdout, command.Stderr = log, log
	command.Dir = "/"
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := host.Start(command, in); err != nil {
		return fmt.Errorf("start %s: %w", program.name, err)
	}
	// A child that ends meanwhile must not stay as a zombie: a node's process namespace ends with its last process.
	go func() { _ = command.Wait() }()
	process, err := host.Identify(command.Process.Pid)
	if err != nil {
		return fmt.Errorf("%s ended at once; see %s", program.name, log.Name())
	}
	return process.Record(c.record(program.name))
}

func (c *Cluster) openLog(name string) (*os.File, error) {
	path := filepath.Join(c.logs, strings.ReplaceAll(name, "/", "-")+".log")
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
}

func (c *Cluster) record(name string) string {
	return filepath.Join(c.processes(), strings.ReplaceAll(name, "/", "_")+".json")
}

func (c *Cluster) recorded(name string) (host.Process, error) {
	all, err := host.Recorded(c.processes())
	return all[strings.ReplaceAll(name, "/", "_")], err
}

func (c *Cluster) binary(name string) string { return filepath.Join(c.Build.Binaries, name) }

// families is one or both of an IPv4 and an IPv6 setting.
func (c *Cluster) families(v4, v6 string) string {
	if c.Options.DualStack {
		return v4 + "," + v6
	}
	return v4
}
