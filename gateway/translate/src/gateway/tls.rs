//! Certificates of listeners: what the Gateway shows to clients, asks of them, and shows to backends.

use super::listener::ends_tls;
use super::{Around, Builder};
use crate::certificate::{self, Missing};
use crate::edge::TlsSettings;
use crate::grant::{Reference, permits};
use crate::report::{Report, why};
use crate::status::{GatewayStatus, ListenerStatus};
use sluice_model::config::{Certificate, ClientValidation, ListenerTls};
use sluice_model::object::NamespacedName;
use sluice_model::{Code, Kind, ObjectRef, Problem};
use sluice_resources::api::Gateway;
use sluice_resources::api::gateway::{
    GatewayListeners, GatewayListenersTlsMode, GatewayTlsFrontendDefaultValidationMode as Mode,
    GatewayTlsFrontendPerPortTlsValidationMode as PortMode,
};
use std::sync::Arc;

/// A reference to a Secret or ConfigMap, whoever's type it was.
struct Target<'t> {
    group: &'t str,
    kind: &'t str,
    namespace: Option<&'t str>,
    name: &'t str,
}

/// Whether clients without a valid certificate are served on some port that asks for one (`AllowInsecureFallback`).
pub(super) fn lets_anybody_in(gateway: &Gateway) -> bool {
    let Some(frontend) = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref()) else { return false };
    let default = frontend.default.validation.as_ref().and_then(|validation| validation.mode.as_ref());
    let ports = frontend.per_port.iter().flatten();
    let mut of_ports = ports.filter_map(|port| port.tls.validation.as_ref()?.mode.as_ref());
    default == Some(&Mode::AllowInsecureFallback) || of_ports.any(|mode| *mode == PortMode::AllowInsecureFallback)
}

impl Builder<'_> {
    /// TLS of a listener where it ends; `object` is the one that the listener is written in. Where no certificate can be
    /// used, handshakes are refused.
    #[allow(clippy::too_many_arguments)] // each is another part of the one listener
    pub(super) fn listener_tls(
        &mut self,
        around: &Around<'_>,
        object: &ObjectRef,
        spec: &GatewayListeners,
        field: &str,
        port: u16,
        settings: TlsSettings,
        status: &mut ListenerStatus,
    ) -> Option<(ListenerTls, Vec<Arc<Certificate>>)> {
        let mut problem = |field: String, message: &str| {
            self.problems.push(Problem::error(Code::InvalidTls, object, field, message));
            status.reject("UnsupportedValue", message);
        };
        let Some(tls) = &spec.tls else {
            let message = format!("protocol {} needs a tls block with certificateRefs", spec.protocol);
            problem(format!("{field}.tls"), &message);
            return None;
        };
        if tls.mode == Some(GatewayListenersTlsMode::Passthrough) {
            problem(format!("{field}.tls.mode"), "protocol HTTPS terminates TLS; Passthrough belongs to protocol TLS");
            return None;
        }
        for option in tls.options.iter().flatten().map(|(key, _)| key) {
            let message = format!("TLS option `{option}` is not known; settings of TLS stand in a GatewayConfig");
            self.problems.push(Problem::warning(
                Code::UnsupportedValue,
                object,
                format!("{field}.tls.options"),
                message,
            ));
        }
        let mut certificates: Vec<Arc<Certificate>> = Vec::new();
        let references = tls.certificate_refs.as_deref().unwrap_or_default();
        if references.is_empty() {
            let field = format!("{field}.tls.certificateRefs");
            let message = "a listener where TLS ends needs a certificate";
            self.problems.push(Problem::error(Code::InvalidTls, object, field, message));
            status.unresolve("InvalidCertificateRef", message);
        }
        for (i, reference) in references.iter().enumerate() {
            let target = Target {
                group: reference.group.as_deref().unwrap_or_default(),
                kind: reference.kind.as_deref().unwrap_or("Secret"),
                namespace: reference.namespace.as_deref(),
                name: &reference.name,
            };
            let field = format!("{field}.tls.certificateRefs[{i}]");
            match self.certificate(object, &field, &target) {
                Ok(certificate) if certificates.iter().all(|c| c.key != certificate.key) => {
                    certificates.push(certificate);
                }
                Ok(_) => {}
                Err(reason) => status.unresolve(reason, why(&self.problems, object, &field)),
            }
        }
        if let Ok(hostname) = sluice_model::HostPattern::parse_gateway(spec.hostname.as_deref())
            && !certificates.is_empty()
            && !certificates.iter().flat_map(|c| &c.names).any(|name| name.intersect(&hostname).is_some())
        {
            let message = format!("no certificate of listener `{}` covers its hostname `{hostname}`", spec.name);
            self.problems.push(Problem::warning(Code::CertificateHost, object, format!("{field}.tls"), message));
        }
        let client_validation = match self.client_validation(around, object, port, status) {
            Ok(validation) => validation,
            Err(()) => {
                // Who can't be checked is not let in.
                certificates.clear();
                None
            }
        };
        let tls = ListenerTls {
            certificates: certificates.iter().map(|certificate| certificate.key.clone()).collect(),
            min_version: settings.min_version,
            cipher_suites: settings.cipher_suites,
            http2: settings.http2,
            resumption: settings.resumption,
            client_validation,
        };
        Some((tls, certificates))
    }

    /// The certificate in a Secret, or the API's reason for there being none.
    fn certificate(
        &mut self,
        object: &ObjectRef,
        field: &str,
        target: &Target<'_>,
    ) -> Result<Arc<Certificate>, &'static str> {
        if !target.group.is_empty() || target.kind != Kind::Secret.name() {
            let message = format!("a certificate in a {} is not supported; a Secret is", target.kind);
            self.problems.push(Problem::error(Code::KindNotSupported, object, field, message));
            return Err("InvalidCertificateRef");
        }
        let secret = self.target(object, field, Kind::Secret, target)?;
        match self.certificates.get(self.store, &secret.key(), &mut self.problems) {
            Ok(certificate) => Ok(certificate),
            Err(Missing::NotFound) => {
                let message = format!("there is no {secret}");
                self.problems.push(Problem::error(Code::SecretNotFound, object, field, message));
                Err("InvalidCertificateRef")
            }
            Err(Missing::Invalid) => {
                let message = format!("{secret} holds no certificate that can be used");
                self.problems.push(Problem::error(Code::InvalidCertificate, object, field, message));
                Err("InvalidCertificateRef")
            }
        }
    }

    /// The object that is meant, where the reference is permitted.
    fn target(
        &mut self,
        object: &ObjectRef,
        field: &str,
        kind: Kind,
        target: &Target<'_>,
    ) -> Result<ObjectRef, &'static str> {
        let namespace = target.namespace.filter(|n| !n.is_empty()).unwrap_or(&object.namespace);
        let reference = Reference {
            from: object.kind,
            from_namespace: &object.namespace,
            to: kind,
            to_namespace: namespace,
            to_name: target.name,
        };
        if !permits(self.store, reference) {
            let message = format!(
                "no ReferenceGrant in `{namespace}` permits the reference to {kind} {namespace}/{}",
                target.name
            );
            self.problems.push(Problem::error(Code::RefNotPermitted, object, field, message));
            return Err("RefNotPermitted");
        }
        let found = ObjectRef::new(kind, namespace, target.name);
        self.uses.insert(found.clone());
        Ok(found)
    }

    /// A certificate for the Ingress Gateway, by name.
    pub(super) fn secret(
        &mut self,
        object: &ObjectRef,
        field: &str,
        name: &NamespacedName,
    ) -> Option<Arc<Certificate>> {
        let target = Target { group: "", kind: "Secret", namespace: Some(&name.namespace), name: &name.name };
        self.certificate(object, field, &target).ok()
    }

    /// `Gateway.spec.tls.backend.clientCertificateRef`.
    pub(super) fn client_certificate(
        &mut self,
        object: &ObjectRef,
        gateway: &Gateway,
        status: &mut GatewayStatus,
    ) -> Option<Arc<Certificate>> {
        let reference = gateway.spec.tls.as_ref()?.backend.as_ref()?.client_certificate_ref.as_ref()?;
        let target = Target {
            group: reference.group.as_deref().unwrap_or_default(),
            kind: reference.kind.as_deref().unwrap_or("Secret"),
            namespace: reference.namespace.as_deref(),
            name: &reference.name,
        };
        match self.certificate(object, "spec.tls.backend.clientCertificateRef", &target) {
            Ok(certificate) => Some(certificate),
            Err(reason) => {
                let reason = if reason == "RefNotPermitted" { reason } else { "InvalidClientCertificateRef" };
                status.unresolved =
                    Some((reason, why(&self.problems, object, "spec.tls.backend.clientCertificateRef")));
                None
            }
        }
    }

    /// Ports of `spec.tls.frontend` where the Gateway has no listener that ends TLS.
    pub(super) fn frontend_ports<'l>(
        &mut self,
        object: &ObjectRef,
        gateway: &Gateway,
        listeners: impl Iterator<Item = &'l GatewayListeners> + Clone,
    ) {
        let Some(frontend) = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref()) else { return };
        for (i, entry) in frontend.per_port.iter().flatten().enumerate() {
            if !listeners.clone().any(|listener| listener.port == entry.port && ends_tls(listener)) {
                let message = format!("nobody is asked for a certificate: no listener of port {} ends TLS", entry.port);
                let field = format!("spec.tls.frontend.perPort[{i}].port");
                self.problems.push(Problem::warning(Code::UnsupportedValue, object, field, message));
            }
        }
    }

    /// What `Gateway.spec.tls.frontend` asks of clients on a port. An error: it asks for something, but nothing that it
    /// names can be used.
    fn client_validation(
        &mut self,
        around: &Around<'_>,
        owner: &ObjectRef,
        port: u16,
        status: &mut ListenerStatus,
    ) -> Result<Option<ClientValidation>, ()> {
        let (object, gateway) = (around.object, around.gateway);
        let Some(frontend) = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref()) else { return Ok(None) };
        let per_port = frontend.per_port.iter().flatten().enumerate().find(|(_, p)| p.port == i32::from(port));
        let (field, references, optional) = match per_port {
            Some((i, entry)) => {
                let Some(validation) = &entry.tls.validation else { return Ok(None) };
                let references: Vec<_> = validation
                    .ca_certificate_refs
                    .iter()
                    .map(|r| Target {
                        group: &r.group,
                        kind: &r.kind,
                        namespace: r.namespace.as_deref(),
                        name: &r.name,
                    })
                    .collect();
                let optional = validation.mode == Some(PortMode::AllowInsecureFallback);
                (format!("spec.tls.frontend.perPort[{i}].tls.validation"), references, optional)
            }
            None => {
                let Some(validation) = &frontend.default.validation else { return Ok(None) };
                let references: Vec<_> = validation
                    .ca_certificate_refs
                    .iter()
                    .map(|r| Target {
                        group: &r.group,
                        kind: &r.kind,
                        namespace: r.namespace.as_deref(),
                        name: &r.name,
                    })
                    .collect();
                let optional = validation.mode == Some(Mode::AllowInsecureFallback);
                ("spec.tls.frontend.default.validation".to_owned(), references, optional)
            }
        };
        let mut ca = Vec::new();
        for (i, target) in references.iter().enumerate() {
            let field = format!("{field}.caCertificateRefs[{i}]");
            match self.ca_bundle(object, &field, target) {
                Ok(bundle) => ca.extend(bundle),
                Err(reason) => {
                    let why = why(&self.problems, object, &field);
                    // It is not the listener's own object that says so.
                    status.unresolve(reason, if owner == object { why } else { format!("{object}: {why}") });
                }
            }
        }
        if ca.is_empty() {
            let why = status.unresolved.as_ref().map(|(_, why)| format!(": {why}")).unwrap_or_default();
            status.reject("NoValidCACertificate", format!("clients can be checked by no CA certificate{why}"));
            return Err(());
        }
        Ok(Some(ClientValidation { ca, optional }))
    }

    fn ca_bundle(
        &mut self,
        object: &ObjectRef,
        field: &str,
        target: &Target<'_>,
    ) -> Result<Vec<Arc<[u8]>>, &'static str> {
        let kind = match (target.group, target.kind) {
            ("", "ConfigMap") => Kind::ConfigMap,
            ("", "Secret") => Kind::Secret,
            (_, other) => {
                let message = format!("a CA bundle in a {other} is not supported; a ConfigMap or Secret is");
                self.problems.push(Problem::error(Code::KindNotSupported, object, field, message));
                return Err("InvalidCACertificateKind");
            }
        };
        let found = self.target(object, field, kind, target)?;
        let mut report = Report::new(&found, &mut self.problems);
        let bundle = match kind {
            Kind::Secret => {
                self.store.secrets.get(&found.key()).map(|secret| certificate::ca_of_secret(secret, &mut report))
            }
            _ => self.store.config_maps.get(&found.key()).map(|map| certificate::ca_of_config_map(map, &mut report)),
        };
        match bundle {
            Some(Some(bundle)) => Ok(bundle),
            Some(None) => {
                let message = format!("{found} holds no CA bundle that can be used");
                self.problems.push(Problem::error(Code::InvalidCa, object, field, message));
                Err("InvalidCACertificateRef")
            }
            None => {
                let message = format!("there is no {found}");
                self.problems.push(Problem::error(Code::SecretNotFound, object, field, message));
                Err("InvalidCACertificateRef")
            }
        }
    }
}
