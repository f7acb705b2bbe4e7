//go:build cluster

// Package smoke is the harness's own test, against clusters that it brings up: `cluster selftest`.
package smoke

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"sluice.dev/tests/cluster/driver/build"
	"sluice.dev/tests/cluster/driver/cluster"
	"sluice.dev/tests/cluster/driver/host"
)

const patience = 60 * time.Second

func TestOneNodeWithIptables(t *testing.T) {
	c := bringUp(t, "selftest1", "--nodes", "1", "--proxy-mode", "iptables")
	c.servesPods()
}

func TestTwoNodesWithNftables(t *testing.T) {
	c := bringUp(t, "selftest2", "--nodes", "2", "--proxy-mode", "nftables")
	c.servesPods()

	c.run("traffic_goes_on_without_the_API_server", func(t *testing.T) {
		address := c.service("echo").Spec.ClusterIP
		c.driver("stop", "kube-apiserver")
		if err := c.reachesAll(address, 4); err != nil {
			t.Error(err)
		}
		c.driver("start", "kube-apiserver")
		c.eventually("cluster is whole", func() error { return c.Check(t.Context()) })
	})
	c.run("a_lost_node_is_noticed_and_comes_back", func(t *testing.T) {
		address := c.loadBalancer("local")
		c.driver("stop", "node1")
		c.eventually("node1 is not Ready", func() error {
			node, err := c.client.CoreV1().Nodes().Get(t.Context(), "node1", metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, condition := range node.Status.Conditions {
				if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
					return errors.New("it is")
				}
			}
			return nil
		})
		c.eventually("only node0 answers", func() error {
			for range 20 {
				if answer, err := c.get("http://" + address); err != nil || answer.Node != "node0" {
					return fmt.Errorf("answered by %q, %v", answer.Node, err)
				}
			}
			return nil
		})
		c.driver("start", "node1")
		c.eventually("cluster is whole", func() error { return c.Check(t.Context()) })
		c.reaches(t, address, 4)
	})
}

func TestTwoClustersShareNothing(t *testing.T) {
	first := bringUp(t, "selftest1")
	second := bringUp(t, "selftest2")
	for _, c := range []*testCluster{first, second} {
		c.loadAndApply()
		c.reaches(t, c.service("echo").Spec.ClusterIP, 4)
	}
	first.driver("down")
	if err := second.Check(t.Context()); err != nil {
		t.Fatalf("taking down the first has broken the second: %v", err)
	}
	second.reaches(t, second.loadBalancer("echo"), 4)
}

func TestAStartThatIsKilledLeavesNothingThatANextOneTripsOver(t *testing.T) {
	for _, after := range []time.Duration{300 * time.Millisecond, 2 * time.Second, 5 * time.Second} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		command := driverCommand(ctx, "--name", "selftest1", "up")
		if err := command.Run(); err == nil {
			t.Logf("up had ended within %v", after)
		}
		cancel()
	}
	bringUp(t, "selftest1")
}

type testCluster struct {
	*cluster.Cluster
	t      *testing.T
	client *kubernetes.Clientset
	http   http.Client
}

// bringUp brings a cluster up, which is taken down at the test's end and must then leave no trace.
func bringUp(t *testing.T, name string, options ...string) *testCluster {
	driver := os.Getenv("SLUICE_CLUSTER_DRIVER")
	where := build.Where{Source: os.Getenv("SLUICE_CLUSTER_SOURCE"), Binaries: filepath.Dir(driver)}
	t.Cleanup(func() {
		c := testCluster{t: t, Cluster: &cluster.Cluster{Name: name}}
		if t.Failed() {
			c.report()
		}
		c.driver("down")
		c.left()
	})
	c := &testCluster{t: t, Cluster: &cluster.Cluster{Name: name}}
	c.driver(append([]string{"up"}, options...)...)
	again := c.driver(append([]string{"up"}, options...)...)
	if !strings.Contains(again, "is up") || strings.Contains(again, "API server") {
		t.Fatalf("a second up did not leave the cluster alone: %s", again)
	}
	var err error
	if c.Cluster, err = cluster.Open(name, where, driver); err != nil {
		t.Fatal(err)
	}
	if c.client, err = c.Client(); err != nil {
		t.Fatal(err)
	}
	// A new connection each time: kube-proxy chooses once for each.
	c.http = http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: c.Dial, DisableKeepAlives: true}}
	return c
}

func (c *testCluster) loadAndApply() {
	c.t.Helper()
	if err := build.Ensure(c.Build, os.Stdout, "backend"); err != nil {
		c.t.Fatal(err)
	}
	getent, err := exec.LookPath("getent")
	if err != nil {
		c.t.Fatal(err)
	}
	c.driver("load-image", "sluice.test/backend:1", filepath.Join(c.Build.Binaries, "backend"))
	c.driver("load-image", "sluice.test/getent:1", getent)
	c.driver("run", "kubectl", "apply", "-f", "manifests.yaml")
	c.driver("run", "kubectl", "rollout", "status", "deployment/echo", "--timeout=60s")
}

// servesPods is what holds on any cluster.
func (c *testCluster) servesPods() {
	c.loadAndApply()
	c.run("a_cluster_ip_spreads_over_the_ready_pods", func(t *testing.T) {
		c.reaches(t, c.service("echo").Spec.ClusterIP, 4)
	})
	c.run("every_node_serves_a_node_port", func(t *testing.T) {
		for _, node := range c.nodes() {
			c.reaches(t, node+":30080", 4)
		}
	})
	c.run("a_load_balancer_gets_an_address_that_answers", func(t *testing.T) {
		c.reaches(t, c.loadBalancer("echo"), 4)
	})
	c.run("it_gets_the_address_that_it_asks_for", func(t *testing.T) {
		if address := c.loadBalancer("asked"); address != "172.31.200.77" {
			t.Fatalf("it got %s", address)
		}
		c.reaches(t, "172.31.200.77", 4)
	})
	c.run("with_policy_Local_the_pod_sees_the_client", func(t *testing.T) {
		address := c.loadBalancer("local")
		c.reaches(t, address, 4)
		answer, err := c.get("http://" + address)
		if err != nil || answer.Client != "172.31.0.1" {
			t.Fatalf("client %q, %v", answer.Client, err)
		}
	})
	c.run("a_service_without_pods_refuses", func(t *testing.T) {
		address := c.loadBalancer("nobody")
		c.eventually("it refuses", func() error {
			_, err := c.get("http://" + address)
			if err == nil || !strings.Contains(err.Error(), "refused") {
				return fmt.Errorf("it answered %v", err)
			}
			return nil
		})
	})
	c.run("a_pod_resolves_services_and_nothing_else", func(t *testing.T) {
		service := c.service("echo").Spec.ClusterIP
		for _, name := range []string{"echo", "echo.default.svc.cluster.local"} {
			answer, err := c.get("http://" + service + "/lookup?name=" + name)
			if err != nil || len(answer.Addresses) != 1 || answer.Addresses[0] != service {
				t.Fatalf("%s resolves to %v, %v", name, answer.Addresses, err)
			}
		}
		if answer, err := c.get("http://" + service + "/lookup?name=example.com"); err == nil {
			t.Fatalf("example.com resolves to %v", answer.Addresses)
		}
		for _, target := range []string{"http://echo/", "http://" + c.loadBalancer("echo") + "/"} {
			if _, err := c.get("http://" + service + "/fetch?url=" + url.QueryEscape(target)); err != nil {
				t.Fatalf("from a pod: %v", err)
			}
		}
	})
	c.run("an_image_brings_the_c_library_along", func(t *testing.T) {
		c.driver("run", "kubectl", "wait", "pod/glibc", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
		if said := c.driver("run", "kubectl", "logs", "glibc"); !strings.Contains(said, "10.96.0.1") {
			t.Fatalf("it said %q", said)
		}
	})
	c.run("the_custom_resources_are_served", func(t *testing.T) {
		for _, kind := range []string{"httproutes.gateway.networking.k8s.io", "plugins.sluice.dev"} {
			c.driver("run", "kubectl", "get", kind)
		}
	})
}

// run runs a subtest, which is then the one that fails.
func (c *testCluster) run(name string, test func(t *testing.T)) {
	whole := c.t
	defer func() { c.t = whole }()
	whole.Run(name, func(t *testing.T) {
		c.t = t
		test(t)
	})
}

type answer struct {
	Pod, Node, Client string
	Addresses         []string
}

func (c *testCluster) get(target string) (answer, error) {
	var said answer
	response, err := c.http.Get(target)
	if err != nil {
		return said, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return said, err
	}
	if response.StatusCode != http.StatusOK {
		return said, fmt.Errorf("%s: %s: %s", target, response.Status, body)
	}
	return said, json.Unmarshal(body, &said)
}

func (c *testCluster) reaches(t *testing.T, address string, pods int) {
	t.Helper()
	// A pod is Ready before kube-proxy, which gathers changes for a second, has it in its rules.
	if err := host.Eventually(patience, "all pods answer", func() error { return c.reachesAll(address, pods) }); err != nil {
		t.Fatal(err)
	}
}

// reachesAll asks often enough that chance hardly leaves a pod out: (3/4)^100 for one of four.
func (c *testCluster) reachesAll(address string, pods int) error {
	seen := map[string]bool{}
	for range 100 {
		answer, err := c.get("http://" + address)
		if err != nil {
			return err
		}
		seen[answer.Pod] = true
	}
	if len(seen) != pods {
		return fmt.Errorf("%s: %d pods answered instead of %d: %v", address, len(seen), pods, seen)
	}
	return nil
}

func (c *testCluster) service(name string) *corev1.Service {
	c.t.Helper()
	service, err := c.client.CoreV1().Services("default").Get(c.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return service
}

func (c *testCluster) loadBalancer(name string) (address string) {
	c.t.Helper()
	c.eventually("Service "+name+" has an address", func() error {
		ingress := c.service(name).Status.LoadBalancer.Ingress
		if len(ingress) == 0 {
			return errors.New("it has none")
		}
		address = ingress[0].IP
		return nil
	})
	return address
}

func (c *testCluster) nodes() (addresses []string) {
	nodes, err := c.client.CoreV1().Nodes().List(c.t.Context(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, node := range nodes.Items {
		addresses = append(addresses, node.Status.Addresses[0].Address)
	}
	return addresses
}

func (c *testCluster) eventually(what string, ask func() error) {
	c.t.Helper()
	if err := host.Eventually(patience, what, ask); err != nil {
		c.t.Fatal(err)
	}
}

func (c *testCluster) driver(arguments ...string) string {
	c.t.Helper()
	begin := time.Now()
	output, err := driverCommand(context.Background(), append([]string{"--name", c.Name}, arguments...)...).CombinedOutput()
	c.t.Logf("cluster %s (%.1f s)\n%s", strings.Join(arguments, " "), time.Since(begin).Seconds(), output)
	if err != nil {
		c.t.Fatalf("cluster %s: %v", strings.Join(arguments, " "), err)
	}
	return string(output)
}

// report shows what a failure may come from, before the cluster is gone.
func (c *testCluster) report() {
	for _, arguments := range [][]string{
		{"status"},
		{"run", "kubectl", "get", "nodes,pods,services,endpointslices", "-A", "-o", "wide"},
		{"run", "kubectl", "get", "events", "-A"},
	} {
		output, _ := driverCommand(context.Background(), append([]string{"--name", c.Name}, arguments...)...).CombinedOutput()
		c.t.Logf("cluster %s\n%s", strings.Join(arguments, " "), output)
	}
}

// left fails when a cluster that is down has left a process, a network namespace, a mount or a control group behind.
func (c *testCluster) left() {
	netns := "sluice-" + c.Name
	for _, pattern := range []string{host.NetPath(netns) + "*", "/sys/fs/cgroup/" + netns + "*", "/sys/fs/cgroup/*/" + netns + "*"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			c.t.Errorf("down has left %v", found)
		}
	}
	state := "/clusters/" + c.Name + "/"
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || bytes.Contains(mounts, []byte(state)) {
		c.t.Errorf("down has left mounts: %v %s", err, mounts)
	}
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range commands {
		if line, _ := os.ReadFile(file); bytes.Contains(line, []byte(state)) {
			c.t.Errorf("down has left process %s: %s", file, bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		}
	}
}

func driverCommand(ctx context.Context, arguments ...string) *exec.Cmd {
	return exec.CommandContext(ctx, os.Getenv("SLUICE_CLUSTER_DRIVER"), arguments...)
}
