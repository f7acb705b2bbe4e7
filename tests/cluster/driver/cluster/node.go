package cluster

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"text/template"
	"time"

	"golang.org/x/sys/unix"

	"sluice.dev/tests/cluster/driver/host"
)

//go:embed manifests
var manifests embed.FS

// bound are the folders that kubelet and CNI use whatever they are told. A node sees its own there. The machine's are made
// and never removed: a removed folder takes the mounts on it along, and another cluster may have some.
var bound = []string{"/var/lib/kubelet", "/var/lib/cni", "/var/log/containers"}

func (c *Cluster) nodeFile(node int, file string) string {
	return filepath.Join(c.state, nodeName(node), file)
}

// makeNode writes a node's configuration.
func (c *Cluster) makeNode(node int) error {
	for _, folder := range []string{"cni", "pod-logs"} {
		if err := os.MkdirAll(c.nodeFile(node, folder), 0o755); err != nil {
			return err
		}
	}
	snapshotter, err := snapshotterFor(c.state)
	if err != nil {
		return err
	}
	values := map[string]any{
		"Name": nodeName(node), "Folder": c.nodeFile(node, ""), "State": c.state, "PKI": c.pki(""),
		"Cgroup": c.cgroup(node), "Netns": c.netns(node), "DNS": dnsService,
		"PodCIDR": nodePodCIDR(node), "PodCIDRv6": nodePodCIDRv6(node), "ClusterCIDR": c.families(podCIDR, podCIDRv6),
		"DualStack": c.Options.DualStack, "ProxyMode": c.Options.ProxyMode,
		"PauseImage": pauseImage, "CNIFolder": host.CNIFolder, "Snapshotter": snapshotter,
	}
	for from, to := range map[string]string{
		"containerd.toml": "containerd.toml",
		"pods.conflist":   "cni/10-pods.conflist",
		"kubelet.yaml":    "kubelet.yaml",
		"kube-proxy.yaml": "kube-proxy.yaml",
	} {
		content, err := render(from, values)
		if err != nil {
			return err
		}
		if err := os.WriteFile(c.nodeFile(node, to), content, 0o644); err != nil {
			return err
		}
	}
	// For pods with dnsPolicy Default. Nobody answers there.
	return os.WriteFile(c.nodeFile(node, "resolv.conf"), []byte("nameserver 127.0.0.1\n"), 0o644)
}

// bootNode starts a node's first process and containerd, in a network that is plugged in already.
func (c *Cluster) bootNode(node int) error {
	if err := host.MakeCgroup(c.cgroup(node)); err != nil {
		return err
	}
	var binds []host.Bind
	for _, folder := range bound {
		own := c.nodeFile(node, "root"+folder)
		if err := os.MkdirAll(own, 0o755); err != nil {
			return err
		}
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		binds = append(binds, host.Bind{From: own, To: folder})
	}
	log, err := c.openLog(nodeName(node) + "/init")
	if err != nil {
		return err
	}
	defer log.Close()
	first, err := host.StartInit(c.Driver, host.NetPath(c.netns(node)), binds, log)
	if err != nil {
		return err
	}
	if err := first.Record(c.record(nodeName(node) + "/init")); err != nil {
		return err
	}
	socket := c.nodeFile(node, "containerd.sock")
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := c.start(c.nodePrograms(node)[0]); err != nil {
		return err
	}
	return host.Eventually(30*time.Second, nodeName(node)+"'s containerd answers", func() error {
		output, err := exec.Command("ctr", "--address", socket, "--timeout", "5s", "version").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s; see %s", err, bytes.TrimSpace(output), c.logs)
		}
		return nil
	})
}

// joinNode starts what makes it a node of the cluster.
func (c *Cluster) joinNode(node int) error {
	for _, program := range c.nodePrograms(node)[1:] {
		if err := c.start(program); err != nil {
			return err
		}
	}
	return nil
}

// loseNode ends all of a node at once and pulls its plug, as a power cut does. Its disk stays.
func (c *Cluster) loseNode(node int) error {
	first, err := c.recorded(nodeName(node) + "/init")
	if err != nil {
		return err
	}
	if err := first.Kill(); err != nil {
		return fmt.Errorf("%s: %w", nodeName(node), err)
	}
	if _, err := os.Stat(host.NetPath(c.netns(node))); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// A namespace may outlive its name a little, and its end of the wire with it.
	if err := host.IP(c.Network(), "link delete "+nodeName(node)); err != nil {
		return err
	}
	return deleteNetns(c.netns(node))
}

// snapshotterFor keeps off overlayfs where the state lies on one already, as in a container.
func snapshotterFor(folder string) (string, error) {
	var where unix.Statfs_t
	if err := unix.Statfs(folder, &where); err != nil {
		return "", fmt.Errorf("file system of %s: %w", folder, err)
	}
	if where.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "native", nil
	}
	return "overlayfs", nil
}

func render(name string, values map[string]any) ([]byte, error) {
	parsed, err := template.New(name).Option("missingkey=error").ParseFS(manifests, "manifests/"+name)
	if err != nil {
		return nil, err
	}
	var content bytes.Buffer
	err = parsed.Execute(&content, values)
	return content.Bytes(), err
}
