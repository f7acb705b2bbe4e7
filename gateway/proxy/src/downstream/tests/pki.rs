//! Certificates for tests, made when they are needed.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sluice_model::config::{Certificate, CertificateKey, KeyFormat};
use sluice_model::{HostPattern, Kind, ObjectRef};
use std::sync::Arc;
use std::time::SystemTime;

pub(super) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(super) der: CertificateDer<'static>,
}

impl Ca {
    pub(super) fn new(name: &str) -> Ca {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        Ca { issuer: Issuer::new(params, key), der }
    }

    pub(super) fn server(&self, names: &[&str]) -> Certificate {
        let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let sha256: String = hex(certificate.der());
        Certificate {
            key: CertificateKey { secret: Some(ObjectRef::new(Kind::Secret, "test", names[0])), sha256: sha256.into() },
            chain: vec![Arc::from(certificate.der().as_ref())],
            private_key: key.serialize_der().into(),
            private_key_format: KeyFormat::Pkcs8,
            names: names.iter().map(|name| HostPattern::parse_ingress(Some(name)).unwrap()).collect(),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::now() + std::time::Duration::from_secs(3600),
        }
    }

    pub(super) fn client(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::new(vec!["client.test".to_owned()]).unwrap();
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }
}

/// A fingerprint that is good enough to tell certificates apart.
fn hex(der: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect()
}
