// Command sluice-cluster brings a real Kubernetes cluster up on this machine, for the tests, and takes it down. README.md in
// tests/cluster says how it is used; the wrapper `cluster` beside it builds and calls it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"sluice.dev/tests/cluster/driver/build"
	"sluice.dev/tests/cluster/driver/cluster"
	"sluice.dev/tests/cluster/driver/host"
	"sluice.dev/tests/cluster/driver/image"
	"sluice.dev/tests/cluster/driver/loadbalancer"
)

const usage = `usage: cluster [--name NAME] COMMAND

  up [--nodes N] [--proxy-mode iptables|nftables] [--gateway-api standard|experimental|none] [--dual-stack]
  down                          leaves nothing but the logs
  status                        what runs; fails unless the cluster is whole
  run COMMAND…                  in the cluster's network, with KUBECONFIG, kubectl and helm
  stop COMPONENT|NODE           at once: kube-apiserver, node0/kubelet, …; a node as by a power cut
  start COMPONENT|NODE          again
  load-image [options] NAME FILE[:PLACE]…
                                an image of these files, on every node; FILE alone: an archive, when it ends in .tar
  load-conformance-images       what the Gateway API's conformance suite runs as backends
  image --out ARCHIVE [options] NAME FILE[:PLACE]…
                                the same image, as an archive
  build [PROGRAM…]              ahead of time; without names all
  selftest                      the harness's own tests, which bring up clusters of their own

options of an image: --entrypoint PROGRAM, --arg ARGUMENT, --env NAME=VALUE (repeated), --user ID
NAME is $SLUICE_CLUSTER or "test" unless it is given.
`

// The main goroutine keeps the main thread, so that no other goroutine takes that into another namespace: /proc/self is
// what the main thread sees.
func init() { runtime.LockOSThread() }

func main() {
	log.SetFlags(log.LstdFlags | log.Lmicroseconds)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, arguments []string) error {
	flags := newFlags("cluster")
	name := flags.String("name", "", "")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("no command\n" + usage)
	}
	verb, rest := flags.Arg(0), flags.Args()[1:]
	switch verb { // those that know no cluster
	case host.InitCommand:
		return host.Init(rest)
	case cluster.LoadBalancerCommand:
		return serveLoadBalancer(ctx, rest)
	case "image":
		return writeImage(rest)
	}
	c, err := openCluster(*name)
	if err != nil {
		return err
	}
	if verb == "build" {
		if len(rest) == 0 {
			rest = build.Names()
		}
		return build.Ensure(c.Build, os.Stdout, rest...)
	}
	if err := host.Fit(); err != nil {
		return err
	}
	// Containers inherit the limit, and a gateway wants more than a shell's usual 1024 files.
	if err := raiseFileLimit(); err != nil {
		return err
	}
	switch verb {
	case "up":
		return up(ctx, c, rest)
	case "load-image":
		return loadImage(c, rest)
	case "run":
		if len(rest) > 0 && rest[0] == "--" {
			rest = rest[1:]
		}
		if len(rest) == 0 {
			return errors.New("run: name a command, for example: run kubectl get pods")
		}
		return c.Run(os.Stderr, rest)
	case "stop", "start":
		if len(rest) != 1 {
			return fmt.Errorf("%s: name one of %s", verb, strings.Join(c.ComponentNames(), ", "))
		}
		if verb == "stop" {
			return c.Stop(rest[0])
		}
		return c.Start(ctx, rest[0])
	}
	if len(rest) > 0 {
		return fmt.Errorf("%s takes no arguments, and %q was given", verb, rest)
	}
	switch verb {
	case "down":
		return c.Down()
	case "status":
		return c.Status(ctx, os.Stdout)
	case "load-conformance-images":
		return c.LoadConformanceImages(os.Stdout)
	case "selftest":
		return selfTest(c)
	}
	return fmt.Errorf("there is no command %q\n%s", verb, usage)
}

func openCluster(name string) (*cluster.Cluster, error) {
	if name == "" {
		name = os.Getenv("SLUICE_CLUSTER")
	}
	if name == "" {
		name = "test"
	}
	driver, err := os.Executable()
	if err != nil {
		return nil, err
	}
	source := os.Getenv("SLUICE_CLUSTER_SOURCE")
	if source == "" {
		return nil, errors.New("SLUICE_CLUSTER_SOURCE does not say where tests/cluster is; call tests/cluster/cluster, which sets it")
	}
	return cluster.Open(name, build.Where{Source: source, Binaries: filepath.Dir(driver)}, driver)
}

func up(ctx context.Context, c *cluster.Cluster, arguments []string) error {
	flags := newFlags("up")
	var options cluster.Options
	flags.IntVar(&options.Nodes, "nodes", 1, "")
	flags.StringVar(&options.ProxyMode, "proxy-mode", "iptables", "")
	flags.StringVar(&options.GatewayAPI, "gateway-api", "standard", "")
	flags.BoolVar(&options.DualStack, "dual-stack", false, "")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("up: what is %q?", flags.Arg(0))
	}
	return c.Up(ctx, options, os.Stdout)
}

func loadImage(c *cluster.Cluster, arguments []string) error {
	if len(arguments) == 1 && strings.HasSuffix(arguments[0], ".tar") {
		return c.LoadArchive(arguments[0])
	}
	spec, name, err := parseImage(newFlags("load-image"), arguments)
	if err != nil {
		return err
	}
	made, err := image.Build(spec)
	if err != nil {
		return err
	}
	return c.LoadImage(made, name)
}

func writeImage(arguments []string) error {
	flags := newFlags("image")
	out := flags.String("out", "", "")
	spec, name, err := parseImage(flags, arguments)
	if err != nil {
		return err
	}
	if *out == "" {
		return errors.New("image: --out ARCHIVE says where to write it")
	}
	made, err := image.Build(spec)
	if err != nil {
		return err
	}
	return image.Save(*out, name, made)
}

func parseImage(flags *flag.FlagSet, arguments []string) (spec image.Spec, name string, err error) {
	repeated := func(list *[]string) func(string) error {
		return func(value string) error { *list = append(*list, value); return nil }
	}
	flags.Func("entrypoint", "", repeated(&spec.Entrypoint))
	flags.Func("arg", "", repeated(&spec.Arguments))
	flags.Func("env", "", repeated(&spec.Env))
	flags.StringVar(&spec.User, "user", "", "")
	if err := flags.Parse(arguments); err != nil {
		return spec, "", err
	}
	if flags.NArg() < 2 {
		return spec, "", fmt.Errorf("%s: name the image and at least one file, after the options", flags.Name())
	}
	spec.Files = flags.Args()[1:]
	return spec, flags.Arg(0), nil
}

func serveLoadBalancer(ctx context.Context, arguments []string) error {
	flags := newFlags(cluster.LoadBalancerCommand)
	kubeconfig := flags.String("kubeconfig", "", "")
	network := flags.String("network", "", "")
	var ranges []netip.Prefix
	flags.Func("range", "", func(text string) error {
		parsed, err := netip.ParsePrefix(text)
		ranges = append(ranges, parsed)
		return err
	})
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	balancer := loadbalancer.Balancer{
		Client: client, Ranges: ranges,
		Route: func(lines ...string) error { return host.IP(*network, lines...) },
	}
	return balancer.Run(ctx)
}

func selfTest(c *cluster.Cluster) error {
	if err := host.Prepare(os.Stdout); err != nil {
		return err
	}
	for _, arguments := range [][]string{
		{"test", "-trimpath", "./..."},
		{"test", "-trimpath", "-tags", "cluster", "-count", "1", "-timeout", "20m", "-v", "./smoke"},
	} {
		test := exec.Command("go", arguments...)
		test.Dir = filepath.Join(c.Build.Source, "driver")
		test.Env = append(os.Environ(), "SLUICE_CLUSTER_DRIVER="+c.Driver, "CGO_ENABLED=0", "GOWORK=off")
		test.Stdout, test.Stderr = os.Stdout, os.Stderr
		if err := test.Run(); err != nil {
			return fmt.Errorf("go %s: %w", strings.Join(arguments, " "), err)
		}
	}
	return nil
}

func raiseFileLimit() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

func newFlags(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(flags.Output(), usage) }
	return flags
}
