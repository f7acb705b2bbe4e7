package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sluice.dev/tests/cluster/driver/host"
	"sluice.dev/tests/cluster/driver/loadbalancer"
)

// Addresses can be the same in every cluster, since each lives in network namespaces of its own.
const (
	serverAddress = "172.31.0.1"
	serverPort    = 6443
	serviceCIDR   = "10.96.0.0/16"
	serviceCIDRv6 = "fd00:96::/112"
	serverService = "10.96.0.1"
	dnsService    = "10.96.0.10"
	podCIDR       = "10.244.0.0/16"
	podCIDRv6     = "fd00:244::/48"
	// LoadBalancerCIDR and its IPv6 twin are what Services of type LoadBalancer get their addresses from.
	LoadBalancerCIDR   = "172.31.200.0/24"
	LoadBalancerCIDRv6 = "fd00:200::/120"
	// One byte of a pod's address says its node.
	maxNodes = 8
)

func nodeName(node int) string         { return fmt.Sprintf("node%d", node) }
func nodeAddress(node int) string      { return fmt.Sprintf("172.31.0.%d", 10+node) }
func nodeAddressV6(node int) string    { return fmt.Sprintf("fd00:31::%x", 0x10+node) }
func nodePodCIDR(node int) string      { return fmt.Sprintf("10.244.%d.0/24", node) }
func nodePodCIDRv6(node int) string    { return fmt.Sprintf("fd00:244:0:%x::/64", node) }
func (c *Cluster) netns(n int) string  { return c.Network() + "-" + nodeName(n) }
func (c *Cluster) cgroup(n int) string { return c.netns(n) }

// sysctls are set in each of the cluster's network namespaces and touch nothing outside.
var sysctls = map[string]string{
	"net/ipv4/ip_forward":          "1",
	"net/ipv6/conf/all/forwarding": "1",
	// Connections, not pairs of hosts, spread over the nodes; a node whose neighbour entry has failed gets none.
	"net/ipv4/fib_multipath_hash_policy": "1",
	"net/ipv4/fib_multipath_use_neigh":   "1",
	"net/ipv6/fib_multipath_hash_policy": "1",
}

// Ports of clients that stand outside. They end their connections first, and each port then rests for a minute: with the
// usual range a client that opens some hundred connections a second would run short.
const clientPorts = "11000 65535"

// makeNetwork lays the outside: a switch that the nodes are plugged into, and routes to what only nodes can deliver.
func (c *Cluster) makeNetwork() error {
	name := c.Network()
	if err := addNetns(name); err != nil {
		return err
	}
	err := host.InNetwork(host.NetPath(name), func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte(clientPorts), 0o644)
	})
	if err != nil {
		return err
	}
	lines := []string{
		"link set lo up",
		"link add lan type bridge",
		"address add " + serverAddress + "/24 dev lan",
		"address add fd00:31::1/64 dev lan nodad",
		"link set lan up",
		// A LoadBalancer address that nobody has fails at once instead of going in circles.
		"route add unreachable " + LoadBalancerCIDR,
		"route add unreachable " + LoadBalancerCIDRv6,
	}
	if err := host.IP(name, lines...); err != nil {
		return err
	}
	for node := range c.Options.Nodes {
		if err := c.plugIn(node); err != nil {
			return err
		}
	}
	// Any node's kube-proxy serves a ClusterIP.
	var nodes, nodesV6 []netip.Addr
	var nexthops, nexthopsV6 strings.Builder
	for node := range c.Options.Nodes {
		nodes = append(nodes, netip.MustParseAddr(nodeAddress(node)))
		nodesV6 = append(nodesV6, netip.MustParseAddr(nodeAddressV6(node)))
		fmt.Fprintf(&nexthops, " nexthop via %s", nodeAddress(node))
		fmt.Fprintf(&nexthopsV6, " nexthop via %s", nodeAddressV6(node))
	}
	lines = []string{"route add " + serviceCIDR + nexthops.String(), "route add " + serviceCIDRv6 + nexthopsV6.String()}
	lines = append(lines, loadbalancer.SlotRoutes(serviceCIDR, nodes)...)
	lines = append(lines, loadbalancer.SlotRoutes(serviceCIDRv6, nodesV6)...)
	if err := host.IP(name, append(lines, loadbalancer.SlotRules()...)...); err != nil {
		return err
	}
	if err := host.IPv6(name, loadbalancer.SlotRules()...); err != nil {
		return err
	}
	var destinations []netip.Prefix
	for _, text := range []string{LoadBalancerCIDR, LoadBalancerCIDRv6, serviceCIDR, serviceCIDRv6} {
		destinations = append(destinations, netip.MustParsePrefix(text))
	}
	return nft(name, loadbalancer.SlotMarks(destinations...))
}

// guard refuses what comes for a LoadBalancer address that the node's kube-proxy does not know yet. Forwarded, it would go
// round until its time is over; and as connection tracking would remember it untranslated, each repetition would too.
const guard = "table inet guard {\nchain forward {\ntype filter hook forward priority filter;\n" +
	"ip daddr " + LoadBalancerCIDR + " reject\nip6 daddr " + LoadBalancerCIDRv6 + " reject\n}\n}\n"

func nft(netns, ruleset string) error {
	command := exec.Command("ip", "netns", "exec", netns, "nft", "-f", "-")
	command.Stdin = strings.NewReader(ruleset)
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("nft in network namespace %s: %w: %s", netns, err, output)
	}
	return nil
}

// plugIn makes a node's network and connects it. The routes to its pods stay in place when the node goes.
func (c *Cluster) plugIn(node int) error {
	name := c.netns(node)
	if err := addNetns(name); err != nil {
		return err
	}
	outside := []string{
		fmt.Sprintf("link add %s type veth peer name eth0 netns %s", nodeName(node), name),
		fmt.Sprintf("link set %s master lan up", nodeName(node)),
		fmt.Sprintf("route replace %s via %s", nodePodCIDR(node), nodeAddress(node)),
		fmt.Sprintf("route replace %s via %s", nodePodCIDRv6(node), nodeAddressV6(node)),
	}
	if err := host.IP(c.Network(), outside...); err != nil {
		return err
	}
	inside := []string{
		"link set lo up",
		// The same after a power cut, or its neighbours would talk to the former one for some seconds.
		fmt.Sprintf("link set eth0 address 02:00:00:00:00:%02x", 0x10+node),
		fmt.Sprintf("address add %s/24 dev eth0", nodeAddress(node)),
		fmt.Sprintf("address add %s/64 dev eth0 nodad", nodeAddressV6(node)),
		"link set eth0 up",
		"route add default via " + serverAddress,
		"route add default via fd00:31::1",
	}
	for other := range c.Options.Nodes {
		if other != node {
			inside = append(inside,
				fmt.Sprintf("route add %s via %s", nodePodCIDR(other), nodeAddress(other)),
				fmt.Sprintf("route add %s via %s", nodePodCIDRv6(other), nodeAddressV6(other)))
		}
	}
	if err := host.IP(name, inside...); err != nil {
		return err
	}
	return nft(name, guard)
}

func addNetns(name string) error {
	if output, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		return fmt.Errorf("network namespace %s: %w: %s", name, err, output)
	}
	return host.InNetwork(host.NetPath(name), func() error {
		for key, value := range sysctls {
			err := os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0o644)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("network namespace %s: %w", name, err)
			}
		}
		return nil
	})
}

func deleteNetns(name string) error {
	if output, err := exec.Command("ip", "netns", "delete", name).CombinedOutput(); err != nil {
		return fmt.Errorf("network namespace %s: %w: %s", name, err, output)
	}
	return nil
}
