//! Secrets become certificates: PEM is read, the key must belong to the leaf, and a Secret that breaks keeps the last
//! good certificate serving.

use crate::report::Report;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use sluice_model::config::{Certificate, CertificateKey, KeyFormat};
use sluice_model::object::NamespacedName;
use sluice_model::{Code, HostPattern, Kind, ObjectRef, Problem};
use sluice_resources::Store;
use sluice_resources::api::{ByteString, ConfigMap, Secret};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What is known of the Secrets that have been asked for.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    secrets: BTreeMap<NamespacedName, Entry>,
}

#[derive(Debug)]
struct Entry {
    secret: Arc<Secret>,
    /// What serves: of this Secret's content, or of the last content that could be used.
    good: Option<Arc<Certificate>>,
    problems: Vec<Problem>,
}

/// Why there is no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// There is no such Secret.
    NotFound,
    /// It never held a usable certificate; its problems say why.
    Invalid,
}

impl Certificates {
    /// The certificate of a Secret, read once for each content. Problems of its content are pushed each time.
    pub(crate) fn get(
        &mut self,
        store: &Store,
        name: &NamespacedName,
        problems: &mut Vec<Problem>,
    ) -> Result<Arc<Certificate>, Missing> {
        let Some(secret) = store.secrets.get(name) else {
            self.secrets.remove(name);
            return Err(Missing::NotFound);
        };
        let known = self.secrets.get(name).filter(|entry| Arc::ptr_eq(&entry.secret, secret));
        if known.is_none() {
            let former = self.secrets.remove(name).and_then(|entry| entry.good);
            let entry = Entry::read(secret, former);
            self.secrets.insert(name.clone(), entry);
        }
        let entry = self.secrets.get(name).ok_or(Missing::NotFound)?;
        problems.extend(entry.problems.iter().cloned());
        entry.good.clone().ok_or(Missing::Invalid)
    }

    /// Forgets Secrets that are gone, so that one that comes back broken does not serve what it once held.
    pub(crate) fn forget_missing(&mut self, store: &Store) {
        self.secrets.retain(|name, _| store.secrets.contains_key(name));
    }
}

impl Entry {
    fn read(secret: &Arc<Secret>, former: Option<Arc<Certificate>>) -> Self {
        let name = crate::rank::name_of(&secret.metadata);
        let object = ObjectRef::new(Kind::Secret, name.namespace, name.name);
        let mut problems = Vec::new();
        let mut report = Report::new(&object, &mut problems);
        let good = read(secret, &mut report).map(Arc::new);
        if good.is_none() && former.is_some() {
            for problem in &mut problems {
                problem.message.push_str("; the certificate that the Secret held before goes on serving");
            }
        }
        Entry { secret: secret.clone(), good: good.or(former), problems }
    }
}

/// The names of the fields in a Secret of type kubernetes.io/tls.
const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";

fn read(secret: &Secret, report: &mut Report<'_>) -> Option<Certificate> {
    let part = |field: &str| secret.data.as_ref().and_then(|data| data.get(field)).map(|bytes| bytes.0.as_slice());
    let (Some(chain_pem), Some(key_pem)) = (part(CHAIN), part(KEY)) else {
        let missing = if part(CHAIN).is_none() { CHAIN } else { KEY };
        report.error(Code::InvalidCertificate, format!("data.{missing}"), format!("the Secret has no {missing}"));
        return None;
    };
    let chain = pem_certificates(chain_pem, &format!("data.{CHAIN}"), Code::InvalidCertificate, report)?;
    let key = match PrivateKeyDer::from_pem_slice(key_pem) {
        Ok(key) => key,
        Err(_) => {
            let message = "no private key in PEM form (PKCS#8, PKCS#1 or SEC1) can be read";
            report.error(Code::InvalidCertificate, format!("data.{KEY}"), message);
            return None;
        }
    };
    let leaf = chain.first()?;
    let parsed = match X509Certificate::from_der(leaf) {
        Ok((_, parsed)) => parsed,
        Err(error) => {
            report.error(
                Code::InvalidCertificate,
                format!("data.{CHAIN}"),
                format!("not an X.509 certificate: {error}"),
            );
            return None;
        }
    };
    let signing = match rustls::crypto::ring::sign::any_supported_type(&key) {
        Ok(signing) => signing,
        Err(_) => {
            let message =
                "the key is of a kind that is not supported: use RSA (2048 to 8192 bits), P-256, P-384 or Ed25519";
            report.error(Code::InvalidCertificate, format!("data.{KEY}"), message);
            return None;
        }
    };
    if CertifiedKey::new(chain.clone(), signing).keys_match().is_err() {
        report.error(Code::KeyMismatch, format!("data.{KEY}"), "the key does not belong to the certificate in tls.crt");
        return None;
    }
    let names = names(&parsed);
    if names.is_empty() {
        let message = "the certificate has no DNS name in its subjectAltName: clients that check will not trust it";
        report.warn(Code::CertificateHost, format!("data.{CHAIN}"), message);
    }
    let time = |seconds: i64| match u64::try_from(seconds) {
        Ok(after) => UNIX_EPOCH + Duration::from_secs(after),
        Err(_) => UNIX_EPOCH,
    };
    let mut hash = Sha256::new();
    for der in &chain {
        hash.update((der.len() as u64).to_be_bytes());
        hash.update(der);
    }
    hash.update(key.secret_der());
    Some(Certificate {
        key: CertificateKey { secret: Some(report.object().clone()), sha256: hex::encode(hash.finalize()).into() },
        not_before: time(parsed.validity().not_before.timestamp()),
        not_after: time(parsed.validity().not_after.timestamp()),
        names,
        private_key_format: match &key {
            PrivateKeyDer::Pkcs1(_) => KeyFormat::Pkcs1,
            PrivateKeyDer::Sec1(_) => KeyFormat::Sec1,
            _ => KeyFormat::Pkcs8,
        },
        private_key: key.secret_der().into(),
        chain: chain.iter().map(|der| Arc::from(der.as_ref())).collect(),
    })
}

fn names(certificate: &X509Certificate<'_>) -> Vec<HostPattern> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = extension.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => HostPattern::parse_ingress(Some(name)).ok(),
        _ => None,
    });
    names.filter(|name| *name != HostPattern::Any).collect()
}

/// All certificates of a PEM text; at least one.
fn pem_certificates(
    pem: &[u8],
    field: &str,
    code: Code,
    report: &mut Report<'_>,
) -> Option<Vec<CertificateDer<'static>>> {
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(chain) if !chain.is_empty() => Some(chain),
        Ok(_) => {
            report.error(code, field, "no PEM block of type CERTIFICATE");
            None
        }
        Err(error) => {
            report.error(code, field, format!("unreadable PEM: {error}"));
            None
        }
    }
}

/// Reads a PEM chain and its key that come from no Secret: the certificate that the gateway made for itself, or was
/// given on its command line.
///
/// # Errors
/// The first problem, in words.
pub fn certificate_from_pem(chain: &[u8], key: &[u8]) -> Result<Certificate, String> {
    let data = [(CHAIN, chain), (KEY, key)].map(|(field, pem)| (field.to_owned(), ByteString(pem.to_vec())));
    let secret = Secret { data: Some(data.into()), ..Secret::default() };
    let object = ObjectRef::new(Kind::Secret, "", "");
    let mut problems = Vec::new();
    let certificate = read(&secret, &mut Report::new(&object, &mut problems));
    match certificate {
        Some(mut certificate) => {
            certificate.key.secret = None;
            Ok(certificate)
        }
        None => Err(problems.into_iter().next().map_or_else(String::new, |problem| problem.message)),
    }
}

/// A warning where a certificate's time has not come, or has passed.
pub(crate) fn check_validity(certificate: &Certificate, now: SystemTime) -> Option<Problem> {
    let object = certificate.key.secret.as_ref()?;
    let message = if now > certificate.not_after {
        "the certificate has expired"
    } else if now < certificate.not_before {
        "the certificate is not valid yet"
    } else {
        return None;
    };
    Some(Problem::warning(Code::CertificateExpired, object, "data.tls.crt", message))
}

/// Where a CA bundle lies.
const CA: &str = "ca.crt";

/// The certificates under `ca.crt` of a ConfigMap. Each must be a certificate that can be an anchor of trust.
pub(crate) fn ca_of_config_map(map: &ConfigMap, report: &mut Report<'_>) -> Option<Vec<Arc<[u8]>>> {
    let text = map.data.as_ref().and_then(|data| data.get(CA)).map(String::as_bytes);
    let binary = map.binary_data.as_ref().and_then(|data| data.get(CA)).map(|bytes| bytes.0.as_slice());
    ca(text.or(binary), "data", report)
}

pub(crate) fn ca_of_secret(secret: &Secret, report: &mut Report<'_>) -> Option<Vec<Arc<[u8]>>> {
    ca(secret.data.as_ref().and_then(|data| data.get(CA)).map(|bytes| bytes.0.as_slice()), "data", report)
}

fn ca(pem: Option<&[u8]>, place: &str, report: &mut Report<'_>) -> Option<Vec<Arc<[u8]>>> {
    let field = format!("{place}.{CA}");
    let Some(pem) = pem else {
        report.error(Code::InvalidCa, field, "there is no ca.crt");
        return None;
    };
    let certificates = pem_certificates(pem, &field, Code::InvalidCa, report)?;
    let mut roots = rustls::RootCertStore::empty();
    for der in &certificates {
        if let Err(error) = roots.add(der.clone()) {
            report.error(Code::InvalidCa, field, format!("not a CA certificate: {error}"));
            return None;
        }
    }
    Some(certificates.iter().map(|der| Arc::from(der.as_ref())).collect())
}
