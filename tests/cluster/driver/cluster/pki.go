package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// authority is the cluster's one certificate authority, for servers, clients and the front proxy alike.
type authority struct {
	folder      string
	certificate *x509.Certificate
	key         crypto.Signer
	pem         []byte
	serial      int64
}

func newAuthority(folder string) (*authority, error) {
	a := &authority{folder: folder}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "sluice-test-cluster"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	var err error
	if a.pem, _, err = a.issue("ca", template); err != nil {
		return nil, err
	}
	// Service account tokens are signed by a key without a certificate.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	private, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	if err := a.write("service-accounts.key", private); err != nil {
		return nil, err
	}
	return a, a.write("service-accounts.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
}

// identity issues a certificate for a user of the API, which may serve under these names and addresses too.
func (a *authority) identity(file, user, group string, names []string, addresses ...string) (certificate, key []byte, err error) {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: user}, DNSNames: names,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if group != "" {
		template.Subject.Organization = []string{group}
	}
	for _, address := range addresses {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(address))
	}
	return a.issue(file, template)
}

// issue signs, with its own key when there is no authority yet, and writes both files.
func (a *authority) issue(file string, template *x509.Certificate) (certificate, private []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	a.serial++
	template.SerialNumber = big.NewInt(a.serial)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)
	parent, signer := a.certificate, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate %s: %w", file, err)
	}
	if a.certificate == nil {
		if a.certificate, err = x509.ParseCertificate(der); err != nil {
			return nil, nil, err
		}
		a.key = key
	}
	certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if private, err = encodeKey(key); err != nil {
		return nil, nil, err
	}
	if err := a.write(file+".crt", certificate); err != nil {
		return nil, nil, err
	}
	return certificate, private, a.write(file+".key", private)
}

func (a *authority) write(file string, content []byte) error {
	return os.WriteFile(filepath.Join(a.folder, file), content, 0o600)
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), err
}

// makeIdentities issues every certificate of the cluster and writes a kubeconfig for each client.
func (c *Cluster) makeIdentities() error {
	if err := os.MkdirAll(c.pki(""), 0o700); err != nil {
		return err
	}
	ca, err := newAuthority(c.pki(""))
	if err != nil {
		return err
	}
	service := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"}
	if _, _, err := ca.identity("kube-apiserver", "kube-apiserver", "", service, serverAddress, serverService, "127.0.0.1"); err != nil {
		return err
	}
	if _, _, err := ca.identity("front-proxy", "front-proxy", "", nil); err != nil {
		return err
	}
	type client struct{ file, user, group, address string }
	clients := []client{
		{file: "admin", user: "admin", group: "system:masters"},
		{file: "kube-controller-manager", user: "system:kube-controller-manager"},
		{file: "kube-scheduler", user: "system:kube-scheduler"},
		{file: "kube-proxy", user: "system:kube-proxy"},
	}
	for node := range c.Options.Nodes {
		name := nodeName(node)
		clients = append(clients, client{file: name, user: "system:node:" + name, group: "system:nodes", address: nodeAddress(node)})
	}
	for _, client := range clients {
		var addresses []string
		if client.address != "" {
			addresses = []string{client.address}
		}
		certificate, key, err := ca.identity(client.file, client.user, client.group, []string{client.file}, addresses...)
		if err != nil {
			return err
		}
		config := api.NewConfig()
		config.Clusters["sluice"] = &api.Cluster{
			Server: fmt.Sprintf("https://%s:%d", serverAddress, serverPort), CertificateAuthorityData: ca.pem,
		}
		config.AuthInfos[client.file] = &api.AuthInfo{ClientCertificateData: certificate, ClientKeyData: key}
		config.Contexts["sluice"] = &api.Context{Cluster: "sluice", AuthInfo: client.file}
		config.CurrentContext = "sluice"
		if err := clientcmd.WriteToFile(*config, c.kubeconfig(client.file)); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) pki(file string) string { return filepath.Join(c.state, "pki", file) }

func (c *Cluster) kubeconfig(user string) string { return filepath.Join(c.state, user+".kubeconfig") }
