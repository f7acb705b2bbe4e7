//! TLS towards endpoints, as BackendTLSPolicy (GEP-1897) asks.
//!
//! One `rustls` configuration a backend policy, made when the policy is: shared by all its connections and endpoints, so
//! that sessions resume, and never shared with another policy, so that a session cannot stand in for a check that the
//! other policy would have made.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer, ServerName, UnixTime,
};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};
use sluice_model::config::{
    BackendCa, BackendProtocol, BackendTls, Certificate, KeyFormat, SubjectAltName, TlsVersion,
};
use std::io;
use std::sync::{Arc, OnceLock};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// Sessions kept for resumption, for each backend policy (one server name each, several tickets).
const SESSIONS: usize = 256;

/// A policy that cannot be turned into a TLS configuration: its backend answers 502 `upstream_tls_failed`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendTlsError {
    #[error(
        "none of the {0} certificates of the CA bundle can be used as a trust anchor; give PEM certificates of CAs"
    )]
    NoUsableCa(usize),
    #[error("the host has no trusted CA certificates; install ca-certificates, or name a CA bundle in the policy")]
    NoSystemCa,
    #[error("host name `{0}` cannot be sent as SNI; give a DNS name")]
    ServerName(String),
    #[error("client certificate {0} is not loaded; check the Secret that the Gateway's backend TLS names")]
    ClientCertificateMissing(String),
    #[error("client certificate {0} cannot be used: {1}")]
    ClientCertificate(String, String),
    #[error("TLS cannot be set up: {0}")]
    Config(String),
}

/// What is spoken over a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alpn {
    Http1,
    Http2,
    /// HTTP/2 where the endpoint has it.
    Either,
    /// Nothing is said of what follows.
    Silent,
}

impl Alpn {
    /// Of a backend's ordinary requests.
    pub(super) fn of(protocol: BackendProtocol) -> Self {
        match protocol {
            BackendProtocol::Http1 => Alpn::Either,
            BackendProtocol::Http2 => Alpn::Http2,
            BackendProtocol::WebSocket => Alpn::Http1,
            BackendProtocol::Bytes | BackendProtocol::Datagrams => Alpn::Silent,
        }
    }
}

/// A policy's TLS, ready to connect.
#[derive(Debug)]
pub(super) struct TlsClient {
    name: ServerName<'static>,
    http1: TlsClientConfig,
    http2: TlsClientConfig,
    either: TlsClientConfig,
    silent: TlsClientConfig,
}

/// `TlsConnector` has no `Debug`.
struct TlsClientConfig(TlsConnector);

impl std::fmt::Debug for TlsClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsClientConfig")
    }
}

impl TlsClient {
    /// `certificate` is what [`BackendTls::client_certificate`] names.
    pub(super) fn new(tls: &BackendTls, certificate: Option<&Certificate>) -> Result<Self, BackendTlsError> {
        let name = ServerName::try_from(tls.hostname.as_str().to_owned())
            .map_err(|_| BackendTlsError::ServerName(tls.hostname.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions: &[&rustls::SupportedProtocolVersion] = match tls.min_version {
            TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::V1_3 => &[&rustls::version::TLS13],
        };
        let verifier =
            PolicyVerifier { roots: roots(&tls.ca)?, names: tls.subject_alt_names.clone(), provider: provider.clone() };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| BackendTlsError::Config(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match (&tls.client_certificate, certificate) {
            (None, _) => builder.with_no_client_auth(),
            (Some(key), None) => return Err(BackendTlsError::ClientCertificateMissing(key.to_string())),
            (Some(key), Some(certificate)) => builder
                .with_client_auth_cert(chain(certificate), private_key(certificate))
                .map_err(|error| BackendTlsError::ClientCertificate(key.to_string(), error.to_string()))?,
        };
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        // All share verifier, certificate and sessions.
        let with_alpn = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
            TlsClientConfig(TlsConnector::from(Arc::new(config)))
        };
        Ok(TlsClient {
            name,
            http1: with_alpn(&[b"http/1.1"]),
            http2: with_alpn(&[b"h2"]),
            either: with_alpn(&[b"h2", b"http/1.1"]),
            silent: with_alpn(&[]),
        })
    }

    pub(super) async fn connect(&self, tcp: TcpStream, alpn: Alpn) -> io::Result<TlsStream<TcpStream>> {
        let config = match alpn {
            Alpn::Http1 => &self.http1,
            Alpn::Http2 => &self.http2,
            Alpn::Either => &self.either,
            Alpn::Silent => &self.silent,
        };
        config.0.connect(self.name.clone(), tcp).await
    }
}

fn roots(ca: &BackendCa) -> Result<Arc<RootCertStore>, BackendTlsError> {
    match ca {
        BackendCa::System => system_roots(),
        BackendCa::Bundle(ders) => {
            let mut store = RootCertStore::empty();
            let (added, _) = store.add_parsable_certificates(ders.iter().map(|der| CertificateDer::from(der.as_ref())));
            if added == 0 { Err(BackendTlsError::NoUsableCa(ders.len())) } else { Ok(Arc::new(store)) }
        }
    }
}

/// Read once: some hundred files on most hosts.
pub(crate) fn system_roots() -> Result<Arc<RootCertStore>, BackendTlsError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a trusted CA certificate of the host cannot be read");
        }
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(found.certs);
        Arc::new(store)
    });
    if roots.is_empty() { Err(BackendTlsError::NoSystemCa) } else { Ok(roots.clone()) }
}

fn chain(certificate: &Certificate) -> Vec<CertificateDer<'static>> {
    certificate.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect()
}

fn private_key(certificate: &Certificate) -> PrivateKeyDer<'static> {
    let der = certificate.private_key.to_vec();
    match certificate.private_key_format {
        KeyFormat::Pkcs8 => PrivatePkcs8KeyDer::from(der).into(),
        KeyFormat::Pkcs1 => PrivatePkcs1KeyDer::from(der).into(),
        KeyFormat::Sec1 => PrivateSec1KeyDer::from(der).into(),
    }
}

/// Chain to the policy's CA; then the names: with `subject_alt_names`, one of them and nothing else (the host name is SNI
/// alone); without, the host name.
#[derive(Debug)]
struct PolicyVerifier {
    roots: Arc<RootCertStore>,
    names: Vec<SubjectAltName>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PolicyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        if self.names.is_empty() {
            verify_server_name(&certificate, server_name)?;
        } else if !self.names.iter().any(|name| has_name(end_entity, &certificate, name)) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A DNS name as RFC 6125 compares it (a wildcard of the certificate stands for one label), or the very wildcard; a URI
/// as it stands.
fn has_name(der: &CertificateDer<'_>, certificate: &ParsedCertificate<'_>, name: &SubjectAltName) -> bool {
    match name {
        SubjectAltName::Dns(name) => match ServerName::try_from(name.as_str()) {
            Ok(server_name) => verify_server_name(certificate, &server_name).is_ok(),
            Err(_) => any_name(der, |found| matches!(found, GeneralName::DNSName(n) if n.eq_ignore_ascii_case(name))),
        },
        SubjectAltName::Uri(uri) => any_name(der, |found| matches!(found, GeneralName::URI(u) if u == uri)),
    }
}

fn any_name(der: &CertificateDer<'_>, fits: impl Fn(&GeneralName<'_>) -> bool) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    certificate.extensions().iter().any(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => names.general_names.iter().any(&fits),
        _ => false,
    })
}
