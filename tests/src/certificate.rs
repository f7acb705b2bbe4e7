//! Certificates of a private authority, and the TLS settings of a client that trusts just that one.

use crate::Address;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A leaf with its key.
pub struct Leaf {
    pub certificate_pem: String,
    pub key_pem: String,
    pub der: CertificateDer<'static>,
    key_der: Vec<u8>,
}

impl Default for Authority {
    fn default() -> Self {
        Authority::new("sluice test authority")
    }
}

impl Authority {
    pub fn new(name: &str) -> Self {
        install_provider();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Authority { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// The authority's own certificate.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A leaf for DNS names or addresses, with a key of its own: no two are alike.
    pub fn leaf(&self, names: &[&str]) -> Leaf {
        let params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        self.sign(params)
    }

    /// A leaf whose validity has ended.
    pub fn expired_leaf(&self, names: &[&str]) -> Leaf {
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        self.sign(params)
    }

    /// A leaf that is valid until then.
    pub fn leaf_until(&self, names: &[&str], end: std::time::SystemTime) -> Leaf {
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_after = end.into();
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &*self.issuer).unwrap();
        Leaf {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            der: certificate.der().clone(),
            key_der: key.serialize_der(),
        }
    }

    /// What a client trusts that trusts this authority alone.
    pub fn trust(&self) -> Trust {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        Trust { roots: Arc::new(roots) }
    }

    /// A client that trusts this authority alone, offers `alpn`, and never resumes a session.
    pub fn client(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        self.trust().client(alpn)
    }
}

/// Roots that client configurations are made with.
#[derive(Clone)]
pub struct Trust {
    roots: Arc<RootCertStore>,
}

impl Trust {
    pub fn client(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder().with_root_certificates(self.roots.clone()).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }

    /// A client of HTTP/1.1 that shows a certificate.
    pub fn client_as(&self, leaf: &Leaf) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder()
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(vec![leaf.der.clone()], leaf.key())
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }
}

impl Leaf {
    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key_der.clone()))
    }

    /// A server of HTTP/1.1 that lets in whom the authority has signed.
    pub fn mutual_server_config(&self, authority: &Authority) -> Arc<ServerConfig> {
        let verifier = WebPkiClientVerifier::builder(authority.trust().roots).build().unwrap();
        let builder = ServerConfig::builder().with_client_cert_verifier(verifier);
        let mut config = builder.with_single_cert(vec![self.der.clone()], self.key()).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    pub fn server_config(&self, alpn: &[&str]) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder().with_no_client_auth();
        let mut config = builder.with_single_cert(vec![self.der.clone()], self.key()).unwrap();
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// A TLS connection, with `name` as SNI.
pub async fn connect(
    to: impl Into<Address>,
    name: &str,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = to.into().connect().await?;
    let name = ServerName::try_from(name.to_owned()).expect("a DNS name");
    TlsConnector::from(config).connect(name, tcp).await
}

/// The leaf that the server showed.
pub fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().expect("a finished handshake")[0].clone().into_owned()
}

fn install_provider() {
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
