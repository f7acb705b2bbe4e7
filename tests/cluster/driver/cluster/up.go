package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"sluice.dev/tests/cluster/driver/build"
	"sluice.dev/tests/cluster/driver/host"
)

// Up brings the cluster up, or leaves it alone when it is up with the same options. What a broken start or an earlier
// boot of the machine has left is cleared away first.
func (c *Cluster) Up(ctx context.Context, wanted Options, out io.Writer) error {
	if err := wanted.Validate(); err != nil {
		return err
	}
	if err := host.Prepare(out); err != nil {
		return err
	}
	if err := build.Ensure(c.Build, out, "components", "pause", "coredns"); err != nil {
		return err
	}
	crds, err := c.crdFiles(wanted.GatewayAPI)
	if err != nil {
		return err
	}
	release, err := c.lock()
	if err != nil {
		return err
	}
	defer release()
	if c.isComplete() && c.Check(ctx) == nil {
		if c.Options == wanted {
			fmt.Fprintf(out, "cluster %s is up\n", c.Name)
			return nil
		}
		return fmt.Errorf("cluster %s is up with other options (%+v); take it down first, or choose another --name", c.Name, c.Options)
	}
	if err := c.clear(); err != nil {
		return err
	}
	c.Options = wanted
	steps := &steps{out: out, begin: time.Now()}
	if err := c.boot(ctx, steps, crds); err != nil {
		return fmt.Errorf("cluster %s: %w (logs are in %s)", c.Name, err, c.logs)
	}
	steps.done("cluster %s is up", c.Name)
	return os.WriteFile(c.completeMark(), nil, 0o644)
}

// isComplete is whether a start has come to its end. Nodes are Ready some time before.
func (c *Cluster) isComplete() bool {
	_, err := os.Stat(c.completeMark())
	return err == nil
}

func (c *Cluster) completeMark() string { return filepath.Join(c.state, "complete") }

// boot ends with every node Ready and DNS available.
func (c *Cluster) boot(ctx context.Context, steps *steps, crds []string) error {
	if err := os.RemoveAll(c.logs); err != nil {
		return err
	}
	for _, folder := range []string{c.state, c.logs, c.processes()} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	if err := c.saveOptions(); err != nil {
		return err
	}
	if err := c.makeIdentities(); err != nil {
		return err
	}
	if err := c.makeNetwork(); err != nil {
		return err
	}
	steps.done("certificates and networks")

	plane := c.controlPlane()
	for _, program := range plane[:2] { // etcd and the API server, which waits for it
		if err := c.start(program); err != nil {
			return err
		}
	}
	// Meanwhile the nodes get as far as they can without it.
	nodes := make(chan error, c.Options.Nodes)
	for node := range c.Options.Nodes {
		go func() {
			err := c.makeNode(node)
			if err == nil {
				err = c.bootNode(node)
			}
			if err == nil {
				err = c.loadOwn(node)
			}
			nodes <- err
		}()
	}
	client, err := c.Client()
	if err != nil {
		return err
	}
	err = host.Eventually(60*time.Second, "the API server is ready", func() error {
		return errors.Join(c.mustRun("kube-apiserver"), client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error())
	})
	if err != nil {
		return err
	}
	steps.done("API server")
	for _, program := range plane[2:] {
		if err := c.start(program); err != nil {
			return err
		}
	}
	furnished := make(chan error, 1)
	go func() { furnished <- c.furnish(crds) }()
	for range c.Options.Nodes {
		if err := <-nodes; err != nil {
			return err
		}
	}
	steps.done("containerd and its first images on %d node(s)", c.Options.Nodes)
	for node := range c.Options.Nodes {
		if err := c.joinNode(node); err != nil {
			return err
		}
	}
	for node := range c.Options.Nodes {
		if err := c.awaitNode(ctx, client, node); err != nil {
			return err
		}
		steps.done("%s is Ready", nodeName(node))
	}
	if err := <-furnished; err != nil {
		return err
	}
	steps.done("%d files of custom resources", len(crds))
	if err := c.awaitFurniture(ctx, client); err != nil {
		return err
	}
	steps.done("DNS and the default service account")
	return nil
}

// furnish adds what a cluster is expected to have.
func (c *Cluster) furnish(crds []string) error {
	dns, err := render("dns.yaml", map[string]any{"DNSImage": dnsImage, "DNS": dnsService})
	if err != nil {
		return err
	}
	manifest := filepath.Join(c.state, "dns.yaml")
	if err := os.WriteFile(manifest, dns, 0o644); err != nil {
		return err
	}
	// File by file: the Gateway API's folder holds a kustomization too. On the server's side: some are too large for the
	// annotation that kubectl keeps otherwise.
	arguments := []string{"apply", "--server-side", "--filename", manifest}
	for _, crd := range crds {
		arguments = append(arguments, "--filename", crd)
	}
	if err := c.kubectl(arguments...); err != nil {
		return err
	}
	return c.kubectl("wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinitions", "--all")
}

// awaitFurniture waits for what others make of it. No pod starts without the default service account.
func (c *Cluster) awaitFurniture(ctx context.Context, client *kubernetes.Clientset) error {
	return host.Eventually(60*time.Second, "DNS is available and the default service account there", func() error {
		_, err := client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		if err != nil {
			return err
		}
		dns, err := client.AppsV1().Deployments("kube-system").Get(ctx, "coredns", metav1.GetOptions{})
		if err == nil && dns.Status.AvailableReplicas == 0 {
			err = errors.New("no replica of coredns is available")
		}
		return err
	})
}

// crdFiles are those of the Gateway API, from the module that the conformance suite is from, and the project's own.
func (c *Cluster) crdFiles(channel string) ([]string, error) {
	own, err := filepath.Glob(filepath.Join(c.Build.Source, "../../deploy/crds/*.yaml"))
	if err != nil || channel == "none" {
		return own, err
	}
	module, err := build.ModuleFolder(c.Build, "conformance", "sigs.k8s.io/gateway-api")
	if err != nil {
		return nil, err
	}
	theirs, err := filepath.Glob(filepath.Join(module, "config/crd", channel, "gateway.networking.*.yaml"))
	if err != nil {
		return nil, err
	}
	if len(theirs) == 0 {
		return nil, fmt.Errorf("no custom resources in %s/config/crd/%s", module, channel)
	}
	return append(theirs, own...), nil
}

func (c *Cluster) awaitNode(ctx context.Context, client *kubernetes.Clientset, node int) error {
	name := nodeName(node)
	return host.Eventually(60*time.Second, name+" is Ready", func() error {
		for _, program := range c.nodePrograms(node) {
			if err := c.mustRun(program.name); err != nil {
				return err
			}
		}
		object, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !isReady(object) {
			return errors.New("its condition Ready is not True")
		}
		return nil
	})
}

// mustRun tells a component that has ended from one that is slow.
func (c *Cluster) mustRun(name string) error {
	process, err := c.recorded(name)
	if err == nil && !process.Alive() {
		err = fmt.Errorf("%s does not run", name)
	}
	return err
}

func (c *Cluster) kubectl(arguments ...string) error {
	command := exec.Command(c.binary("kubectl"), append([]string{"--kubeconfig", c.Kubeconfig()}, arguments...)...)
	output, err := os.CreateTemp(c.state, "kubectl-*")
	if err != nil {
		return err
	}
	defer os.Remove(output.Name())
	defer output.Close()
	command.Stdout, command.Stderr = output, output
	if err := host.Start(command, host.Namespaces{Net: host.NetPath(c.Network())}); err != nil {
		return err
	}
	if err := command.Wait(); err != nil {
		said, _ := os.ReadFile(output.Name())
		return fmt.Errorf("kubectl %s: %w: %s", arguments[0], err, said)
	}
	return nil
}

func isReady(node *corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// steps says what has been done and how long after the start.
type steps struct {
	out   io.Writer
	begin time.Time
}

func (s *steps) done(format string, arguments ...any) {
	fmt.Fprintf(s.out, "%6.1f s  %s\n", time.Since(s.begin).Seconds(), fmt.Sprintf(format, arguments...))
}
