//! TLS towards clients: which listener a hello is for, and the rustls configuration that answers it.
//!
//! ```text
//! ClientHello ──SNI──► listener (HostTable) ──► ServerConfig ──SNI──► certificate (HostTable, else the first)
//! ```
//!
//! Configurations are built when the gateway's own configuration changes and live in a [`TlsCache`] by what they are
//! made of, so that a reload that does not concern a listener leaves its `ServerConfig` alone. Sessions and ticket keys
//! have an identity of their own, listener + host name + client validation, and survive a change of certificates; what
//! verifies clients is part of it, because a resumed session is not verified again. The provider is *ring*, named here
//! and never taken from the process's default.

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, ServerConfig, ServerSessionMemoryCache,
    StoresServerSessions, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme, SupportedCipherSuite};
use sha2::{Digest, Sha256};
use sluice_model::config::{
    Carries, Certificate, CertificateKey, ClientValidation, KeyFormat, Listener, ListenerId, ListenerTls, TlsVersion,
};
use sluice_model::hostname::HostTable;
use sluice_model::{Code, HostPattern, Problem};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use thiserror::Error;

/// Sessions of clients that resume by id (TLS 1.2 without tickets); all others hold their session themselves.
const SESSIONS_BY_ID: usize = 256;

/// Why a listener cannot terminate TLS. What else is on its port serves on.
#[derive(Debug, Error)]
#[error("listener {listener}: {fault}")]
pub struct TlsError {
    pub listener: ListenerId,
    pub fault: Box<TlsFault>,
}

#[derive(Debug, Error)]
pub enum TlsFault {
    #[error("certificate {0} is not in the configuration")]
    CertificateMissing(CertificateKey),
    #[error("certificate {certificate} cannot be used: {reason}; replace chain and key")]
    Certificate { certificate: CertificateKey, reason: String },
    #[error("the cipher suites name none that is supported ({known}); correct or remove them")]
    CipherSuites { known: String },
    #[error("client validation cannot be used: {0}; correct the CA bundle")]
    ClientValidation(String),
    #[error("TLS settings cannot be used: {0}")]
    Settings(String),
}

impl TlsError {
    fn new(listener: &ListenerId, fault: TlsFault) -> Self {
        TlsError { listener: listener.clone(), fault: Box::new(fault) }
    }

    /// The same as a problem of the object that the listener is written in.
    pub fn problem(&self) -> Problem {
        let (owner, name) = self.listener.owner();
        let (code, field) = match &*self.fault {
            TlsFault::CertificateMissing(_) | TlsFault::Certificate { .. } => {
                (Code::InvalidCertificate, "tls.certificateRefs")
            }
            TlsFault::ClientValidation(_) => (Code::InvalidCa, "tls.frontendValidation"),
            TlsFault::CipherSuites { .. } | TlsFault::Settings(_) => (Code::InvalidTls, "tls"),
        };
        let field = format!("spec.listeners[name={name}].{field}");
        Problem::error(code, &owner, field, self.fault.to_string())
    }
}

/// A listener's side of the handshake.
#[derive(Debug)]
pub struct TlsListener {
    pub server: Arc<ServerConfig>,
    /// Present where clients may send a certificate: verifies it once more after the handshake where a failure did not
    /// end that ([`ClientValidation::optional`]).
    optional: Option<Arc<dyn ClientCertVerifier>>,
}

impl TlsListener {
    /// Whether the chain that a client sent is one that its listener's CAs have signed. Where validation is not
    /// optional, the handshake has made sure of it.
    pub(super) fn verifies(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((leaf, rest)) = chain.split_first() else { return false };
        match &self.optional {
            Some(verifier) => verifier.verify_client_cert(leaf, rest, UnixTime::now()).is_ok(),
            None => true,
        }
    }
}

/// What a `ServerConfig` is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ConfigIdentity {
    sessions: SessionIdentity,
    certificates: Vec<CertificateKey>,
    min_version: TlsVersion,
    cipher_suites: Vec<Arc<str>>,
    carries: Carries,
    http2: bool,
    resumption: bool,
}

/// Who may resume a session: clients of the same listener and name that were verified alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SessionIdentity {
    listener: ListenerId,
    hostname: HostPattern,
    /// SHA-256 over the CAs and the mode; `None` without client validation.
    clients: Option<[u8; 32]>,
}

#[derive(Clone)]
struct Sessions {
    by_id: Arc<dyn StoresServerSessions>,
    tickets: Arc<dyn ProducesTickets>,
}

/// What was built before, for as long as something serves it.
#[derive(Default)]
pub struct TlsCache {
    configs: HashMap<ConfigIdentity, Weak<TlsListener>>,
    keys: HashMap<CertificateKey, Weak<CertifiedKey>>,
    /// Kept strongly between two sweeps: a certificate's change replaces the configuration, not the sessions.
    sessions: HashMap<SessionIdentity, Sessions>,
}

impl std::fmt::Debug for TlsCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsCache").field("configs", &self.configs.len()).field("keys", &self.keys.len()).finish()
    }
}

impl TlsCache {
    /// The configuration of a listener: the one that serves already where nothing that it is made of has changed.
    pub fn listener(
        &mut self,
        listener: &Listener,
        tls: &ListenerTls,
        certificates: &BTreeMap<CertificateKey, Arc<Certificate>>,
    ) -> Result<Arc<TlsListener>, TlsError> {
        let identity = ConfigIdentity {
            sessions: SessionIdentity {
                listener: listener.id.clone(),
                hostname: listener.hostname.clone(),
                clients: tls.client_validation.as_ref().map(fingerprint),
            },
            certificates: tls.certificates.clone(),
            min_version: tls.min_version,
            cipher_suites: tls.cipher_suites.clone(),
            carries: listener.carries,
            http2: tls.http2,
            resumption: tls.resumption,
        };
        if let Some(known) = self.configs.get(&identity).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let built = Arc::new(self.build(listener, tls, certificates, &identity.sessions)?);
        self.configs.insert(identity, Arc::downgrade(&built));
        Ok(built)
    }

    /// Forgets what no port serves any more. Called once a configuration has been put to work.
    pub fn sweep(&mut self) {
        self.configs.retain(|_, config| config.strong_count() > 0);
        self.keys.retain(|_, key| key.strong_count() > 0);
        let configs = &self.configs;
        self.sessions.retain(|identity, _| configs.keys().any(|config| config.sessions == *identity));
    }

    fn build(
        &mut self,
        listener: &Listener,
        tls: &ListenerTls,
        certificates: &BTreeMap<CertificateKey, Arc<Certificate>>,
        identity: &SessionIdentity,
    ) -> Result<TlsListener, TlsError> {
        let protocol = |e: rustls::Error| TlsError::new(&listener.id, TlsFault::Settings(e.to_string()));
        let provider = Arc::new(provider(&listener.id, &tls.cipher_suites)?);
        let versions: &[&rustls::SupportedProtocolVersion] = match tls.min_version {
            TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::V1_3 => &[&rustls::version::TLS13],
        };
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).map_err(protocol)?;
        let mut optional = None;
        let builder = match &tls.client_validation {
            None => builder.with_no_client_auth(),
            Some(validation) => {
                let strict = client_verifier(&listener.id, validation, &provider)?;
                if validation.optional {
                    optional = Some(strict.clone());
                    builder.with_client_cert_verifier(Arc::new(AcceptAny(strict)))
                } else {
                    builder.with_client_cert_verifier(strict)
                }
            }
        };
        let resolver = Arc::new(self.certificate_table(listener, tls, certificates, &provider)?);
        let mut server = builder.with_cert_resolver(resolver);
        let protocols: &[&[u8]] = match (listener.carries, tls.http2) {
            (Carries::Http, true) => &[b"h2", b"http/1.1"],
            (Carries::Http, false) => &[b"http/1.1"],
            // What the bytes are is between the client and the backend.
            (Carries::Bytes, _) => &[],
        };
        server.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        if tls.resumption {
            let sessions = self.sessions(identity).map_err(protocol)?;
            server.session_storage = sessions.by_id;
            server.ticketer = sessions.tickets;
        } else {
            server.session_storage = Arc::new(NoServerSessionStorage {});
            server.send_tls13_tickets = 0;
        }
        Ok(TlsListener { server: Arc::new(server), optional })
    }

    fn sessions(&mut self, identity: &SessionIdentity) -> Result<Sessions, rustls::Error> {
        if let Some(sessions) = self.sessions.get(identity) {
            return Ok(sessions.clone());
        }
        let sessions = Sessions {
            by_id: ServerSessionMemoryCache::new(SESSIONS_BY_ID),
            // AES-256-GCM under keys that rotate by themselves every 6 hours.
            tickets: rustls::crypto::ring::Ticketer::new()?,
        };
        self.sessions.insert(identity.clone(), sessions.clone());
        Ok(sessions)
    }

    fn certificate_table(
        &mut self,
        listener: &Listener,
        tls: &ListenerTls,
        certificates: &BTreeMap<CertificateKey, Arc<Certificate>>,
        provider: &CryptoProvider,
    ) -> Result<CertificateTable, TlsError> {
        let mut table = CertificateTable { names: HostTable::default(), first: Vec::new() };
        for key in &tls.certificates {
            let certificate = certificates
                .get(key)
                .ok_or_else(|| TlsError::new(&listener.id, TlsFault::CertificateMissing(key.clone())))?;
            let signer = self.certified_key(listener, certificate, provider)?;
            for name in &certificate.names {
                let mut all = table.names.remove(name).unwrap_or_default();
                all.push(signer.clone());
                table.names.insert(name, all);
            }
            table.first.push(signer);
        }
        Ok(table)
    }

    fn certified_key(
        &mut self,
        listener: &Listener,
        certificate: &Certificate,
        provider: &CryptoProvider,
    ) -> Result<Arc<CertifiedKey>, TlsError> {
        if let Some(known) = self.keys.get(&certificate.key).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let refused = |reason: String| {
            TlsError::new(&listener.id, TlsFault::Certificate { certificate: certificate.key.clone(), reason })
        };
        let der = certificate.private_key.to_vec();
        let key = match certificate.private_key_format {
            KeyFormat::Pkcs8 => PrivateKeyDer::Pkcs8(der.into()),
            KeyFormat::Pkcs1 => PrivateKeyDer::Pkcs1(der.into()),
            KeyFormat::Sec1 => PrivateKeyDer::Sec1(der.into()),
        };
        let chain = certificate.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let signer = provider.key_provider.load_private_key(key).map_err(|e| refused(e.to_string()))?;
        let key = CertifiedKey::new(chain, signer);
        if let Err(e @ rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) = key.keys_match() {
            return Err(refused(e.to_string()));
        }
        let key = Arc::new(key);
        self.keys.insert(certificate.key.clone(), Arc::downgrade(&key));
        Ok(key)
    }
}

fn fingerprint(validation: &ClientValidation) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([u8::from(validation.optional)]);
    for ca in &validation.ca {
        hash.update((ca.len() as u64).to_be_bytes());
        hash.update(ca);
    }
    hash.finalize().into()
}

/// The *ring* provider, less the suites that were not asked for.
fn provider(listener: &ListenerId, suites: &[Arc<str>]) -> Result<CryptoProvider, TlsError> {
    let mut provider = rustls::crypto::ring::default_provider();
    if suites.is_empty() {
        return Ok(provider);
    }
    let known = provider.cipher_suites.iter().map(iana_name).collect::<Vec<_>>().join(", ");
    provider.cipher_suites.retain(|suite| suites.iter().any(|wanted| **wanted == *iana_name(suite)));
    if provider.cipher_suites.is_empty() {
        return Err(TlsError::new(listener, TlsFault::CipherSuites { known }));
    }
    Ok(provider)
}

/// `TLS_AES_128_GCM_SHA256` where rustls writes `TLS13_AES_128_GCM_SHA256`.
fn iana_name(suite: &SupportedCipherSuite) -> String {
    suite.suite().as_str().unwrap_or_default().replacen("TLS13_", "TLS_", 1)
}

fn client_verifier(
    listener: &ListenerId,
    validation: &ClientValidation,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let refused = |reason: String| TlsError::new(listener, TlsFault::ClientValidation(reason));
    let mut roots = RootCertStore::empty();
    for ca in &validation.ca {
        roots.add(CertificateDer::from(ca.to_vec())).map_err(|e| refused(e.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    builder.build().map_err(|e| refused(e.to_string()))
}

/// The certificates of a listener by the names that they cover. Several of one name differ in their kind of key: the
/// first that the client can verify is sent.
#[derive(Debug)]
struct CertificateTable {
    names: HostTable<Vec<Arc<CertifiedKey>>>,
    first: Vec<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for CertificateTable {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let offered = hello.signature_schemes();
        let usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(offered).is_some();
        let named = hello.server_name().and_then(|name| self.names.find(name));
        named.and_then(|keys| keys.iter().find(usable)).or_else(|| self.first.iter().find(usable)).cloned()
    }
}

/// Asks for a certificate and goes on whatever comes (Gateway API: `AllowInsecureFallback`). That the client holds the
/// key of what it sends is verified even so.
#[derive(Debug)]
struct AcceptAny(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AcceptAny {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
