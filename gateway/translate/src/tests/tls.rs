use super::support::{Harness, gateway, secret, secret_of};
use sluice_model::Kind;
use sluice_model::config::{Certificate, ListenerTls};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

fn https(more: &str) -> String {
    gateway(
        "infra",
        "gw",
        &format!(
            "[{{name: tls, port: 443, protocol: HTTPS, hostname: a.example.com, tls: {{certificateRefs: [{{name: c{more}}}]}}}}]"
        ),
    )
}

fn tls(h: &Harness) -> Arc<ListenerTls> {
    let port = h.config().ports.values().next().expect("the port is there");
    port.listeners[0].tls.clone().expect("HTTPS has TLS")
}

fn served(h: &Harness) -> Option<Arc<Certificate>> {
    tls(h).certificates.first().map(|key| h.config().certificates[key].clone())
}

fn unresolved(h: &Harness) -> &'static str {
    h.translator.status().gateways.values().next().unwrap().listeners[0]
        .unresolved
        .as_ref()
        .map_or("ok", |(reason, _)| reason)
}

#[test]
fn a_listener_serves_the_certificate_of_its_secret() {
    let h = Harness::new(&(https("") + &secret("infra", "c", &["*.example.com"])));
    assert_eq!(h.problems(), [] as [&str; 0]);
    let certificate = served(&h).unwrap();
    assert_eq!(certificate.names[0].to_string(), "*.example.com");
    assert_eq!(certificate.key.secret.as_ref().unwrap().to_string(), "Secret infra/c");
    assert!(certificate.not_before < certificate.not_after);
}

#[test]
fn gw_invalid_tls_configuration_refuses_handshakes_and_says_why() {
    let good = secret("infra", "c", &["a.example.com"]);
    for (yaml, problem) in [
        (https(""), "P205 Gateway infra/gw spec.listeners[0].tls.certificateRefs[0]"),
        (https(", kind: ConfigMap") + &good, "P204 Gateway infra/gw spec.listeners[0].tls.certificateRefs[0]"),
        (https("") + &secret_of("infra", "c", "nonsense", "nonsense"), "P304 Secret infra/c data.tls.crt"),
        (https(", namespace: other") + &good, "P203 Gateway infra/gw spec.listeners[0].tls.certificateRefs[0]"),
    ] {
        let h = Harness::new(&yaml);
        assert!(h.problems().contains(&problem.to_owned()), "{:?}", h.problems());
        assert_eq!(served(&h), None, "{problem}");
        assert!(unresolved(&h) == "InvalidCertificateRef" || unresolved(&h) == "RefNotPermitted");
    }
}

#[test]
fn gw_secret_reference_grant_all_or_specific() {
    let grant = |to: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: other}}\nspec: {{from: [{{group: gateway.networking.k8s.io, kind: Gateway, namespace: infra}}], to: [{{group: '', kind: Secret{to}}}]}}\n"
        )
    };
    let base = https(", namespace: other") + &secret("other", "c", &["a.example.com"]);
    for (to, allowed) in [("", true), (", name: c", true), (", name: d", false)] {
        let h = Harness::new(&(base.clone() + &grant(to)));
        assert_eq!(served(&h).is_some(), allowed, "{to}");
        assert_eq!(unresolved(&h), if allowed { "ok" } else { "RefNotPermitted" });
    }
}

#[test]
fn a_key_of_another_certificate_is_told_and_the_last_good_certificate_goes_on() {
    let make = || rcgen::generate_simple_self_signed(vec!["a.example.com".to_owned()]).unwrap();
    let (first, second) = (make(), make());
    let mismatch = secret_of("infra", "c", &second.cert.pem(), &first.signing_key.serialize_pem());
    let mut h =
        Harness::new(&(https("") + &secret_of("infra", "c", &first.cert.pem(), &first.signing_key.serialize_pem())));
    let before = served(&h).unwrap();
    h.apply(&mismatch);
    assert_eq!(h.problems(), ["P305 Secret infra/c data.tls.key"]);
    assert!(h.output.problems[0].message.contains("goes on serving"), "{}", h.output.problems[0].message);
    assert_eq!(served(&h).as_ref(), Some(&before));
    h.apply(&secret_of("infra", "c", &second.cert.pem(), &second.signing_key.serialize_pem()));
    assert_eq!(h.problems(), [] as [&str; 0]);
    assert_ne!(served(&h), Some(before));
    // Gone is gone: a Secret that comes back broken does not serve what it once held.
    h.delete(Kind::Secret, "infra", "c");
    h.apply(&mismatch);
    assert_eq!(served(&h), None);
}

#[test]
fn a_changed_certificate_is_another_key_and_the_edge_stays_the_same_pointer() {
    let mut h = Harness::new(&(https("") + &secret("infra", "c", &["a.example.com"])));
    let (edge, key) =
        (h.config().ports.values().next().unwrap().listeners[0].edge.clone(), tls(&h).certificates[0].clone());
    h.apply(&secret("infra", "c", &["a.example.com"]));
    assert_ne!(tls(&h).certificates[0], key);
    assert!(Arc::ptr_eq(&edge, &h.config().ports.values().next().unwrap().listeners[0].edge));
    assert_eq!(h.config().certificates.len(), 1, "the former certificate is gone");
    assert_eq!(h.output.summary, "1 port changed, 2 certificates");
}

#[test]
fn names_and_validity_are_warned_of() {
    let yaml = https("") + &secret("infra", "c", &["other.example.com"]);
    let mut h = Harness::new(&yaml);
    assert_eq!(h.problems(), ["P307 Gateway infra/gw spec.listeners[0].tls"]);
    let year = Duration::from_secs(365 * 86_400);
    for (now, message) in
        [(SystemTime::UNIX_EPOCH, "not valid yet"), (SystemTime::UNIX_EPOCH + 3000 * year, "has expired")]
    {
        h.translator.set_now(now);
        let output = h.changes(Vec::new()).clone();
        assert!(!output.changed && output.problems[0].message.contains(message), "{:?}", output.problems);
        assert_eq!(h.problems()[0], "P306 Secret infra/c data.tls.crt");
    }
    h.translator.set_now(SystemTime::UNIX_EPOCH + 50 * year);
    h.changes(Vec::new());
    assert_eq!(h.problems().len(), 1);
}

fn frontend(validation: &str) -> String {
    let ca = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap();
    let pem: String = ca.cert.pem().lines().map(|line| format!("    {line}\n")).collect();
    let listeners = format!(
        "[{{name: tls, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: c}}]}}}}, {{name: plain, port: 80, protocol: HTTP}}], tls: {{frontend: {validation}}}"
    );
    gateway("infra", "gw", &listeners)
        + &secret("infra", "c", &["a.example.com"])
        + &format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca, namespace: infra}}\ndata:\n  ca.crt: |\n{pem}"
        )
}

#[test]
fn gw_frontend_client_certificate_validation_by_default_and_by_port() {
    let ca = |name: &str, mode: &str| {
        format!("{{validation: {{caCertificateRefs: [{{group: '', kind: ConfigMap, name: {name}}}]{mode}}}}}")
    };
    let of = |h: &Harness| {
        let port = h.config().ports.values().find(|p| p.listeners[0].tls.is_some()).unwrap();
        port.listeners[0].tls.clone().unwrap()
    };
    let h = Harness::new(&frontend(&format!("{{default: {}}}", ca("ca", ""))));
    assert_eq!(h.problems(), [] as [&str; 0]);
    assert!(of(&h).client_validation.as_ref().is_some_and(|v| v.ca.len() == 1 && !v.optional));
    let h = Harness::new(&frontend(&format!(
        "{{default: {{}}, perPort: [{{port: 443, tls: {}}}]}}",
        ca("ca", ", mode: AllowInsecureFallback")
    )));
    assert!(of(&h).client_validation.as_ref().unwrap().optional);
    let h = Harness::new(&frontend(&format!("{{default: {}, perPort: [{{port: 443, tls: {{}}}}]}}", ca("ca", ""))));
    assert_eq!(of(&h).client_validation, None, "the port's own setting wins, and asks for nothing");
}

#[test]
fn gw_invalid_frontend_validation_lets_nobody_in_over_https_and_leaves_http_alone() {
    let h = Harness::new(&frontend(
        "{default: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: none}]}}}",
    ));
    assert_eq!(h.problems(), ["P205 Gateway infra/gw spec.tls.frontend.default.validation.caCertificateRefs[0]"]);
    assert_eq!(h.config().ports.keys().map(|a| a.port()).collect::<Vec<_>>(), [80]);
    let status = h.translator.status();
    let listener = &status.gateways.values().next().unwrap().listeners[0];
    assert_eq!(listener.rejected.as_ref().unwrap().0, "NoValidCACertificate");
    assert_eq!(listener.unresolved.as_ref().unwrap().0, "InvalidCACertificateRef");
}
