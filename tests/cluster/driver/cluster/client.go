package cluster

import (
	"context"
	"net"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"sluice.dev/tests/cluster/driver/host"
)

// Dial opens a connection from outside of the nodes, for a process that is not in the cluster's network. Addresses only:
// no DNS answers there.
func (c *Cluster) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var connection net.Conn
	err := host.InNetwork(host.NetPath(c.Network()), func() error {
		dialer := net.Dialer{Timeout: 5 * time.Second}
		var err error
		connection, err = dialer.DialContext(ctx, network, address)
		return err
	})
	return connection, err
}

// Client is the administrator's, usable outside of the cluster's network.
func (c *Cluster) Client() (*kubernetes.Clientset, error) {
	config, err := c.RESTConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

// RESTConfig is what the client is made of.
func (c *Cluster) RESTConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, err
	}
	config.Dial = c.Dial
	config.QPS = -1
	config.Timeout = 30 * time.Second
	return config, nil
}
