//! Plugins whose code is fetched: what is wished for, and what is wrong with that.

use super::support::Harness;
use sluice_model::Kind;
use sluice_model::object::NamespacedName;
use sluice_model::remote::{Credentials, RemoteLocation, RemoteSource, SignatureAlgorithm};
use std::sync::Arc;

const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn plugin(generation: u32, source: &str, more: &str) -> String {
    format!(
        "---\napiVersion: sluice.dev/v1alpha1\nkind: Plugin\nmetadata: {{name: geo, namespace: shop, uid: u, generation: {generation}}}\nspec: {{source: {source}{more}}}\n"
    )
}

fn oci(image: &str) -> String {
    format!(
        "{{oci: {{image: \"{image}\", pullSecretRef: {{name: pull}}, publicKeyRef: {{kind: ConfigMap, name: key, key: k}}}}}}"
    )
}

/// As `kubectl create secret docker-registry` makes it; `stringData` is as good.
fn pull(config: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: pull, namespace: shop}}\ntype: kubernetes.io/dockerconfigjson\nstringData: {{.dockerconfigjson: '{config}'}}\n"
    )
}

fn key(pem: &str) -> String {
    let pem = pem.replace('\n', "\\n");
    format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: key, namespace: shop}}\ndata: {{k: \"{pem}\"}}\n")
}

fn good_key() -> String {
    key(&rcgen::KeyPair::generate().unwrap().public_key_pem())
}

const ALICE: &str = r#"{"auths": {"r.example": {"username": "alice", "password": "open-sesame"}}}"#;

fn remote(h: &Harness) -> Option<Arc<RemoteSource>> {
    h.config().plugins[&NamespacedName::new("shop", "geo")].remote.clone()
}

fn who(h: &Harness) -> Option<Credentials> {
    remote(h).and_then(|remote| remote.credentials.clone())
}

#[test]
fn an_image_comes_with_its_credentials_and_key_and_shows_neither() {
    let h = Harness::new(&(plugin(1, &oci("r.example/geo:1"), "") + &pull(ALICE) + &good_key()));
    assert_eq!(h.problems(), Vec::<String>::new());
    let source = remote(&h).unwrap();
    let RemoteLocation::Oci { image, signed_by: Some(key) } = &source.location else { panic!("{source:?}") };
    assert_eq!((image.to_string().as_str(), key.algorithm), ("r.example/geo:1", SignatureAlgorithm::EcdsaP256));
    assert_eq!(who(&h).map(|who| who.password.to_string()).as_deref(), Some("open-sesame"));
    let shown = serde_json::to_string(&**h.config()).unwrap() + &format!("{:?}", h.config());
    assert!(shown.contains("r.example/geo:1") && !shown.contains("sesame"), "{shown}");
}

#[test]
fn a_secret_that_changes_is_taken_over_and_one_that_is_gone_stops_nothing() {
    let mut h = Harness::new(&(plugin(1, &oci("r.example/geo:1"), "") + &pull(ALICE) + &good_key()));
    h.apply(&pull(&ALICE.replace("open-", "other-")));
    assert_eq!(who(&h).map(|who| who.password.to_string()).as_deref(), Some("other-sesame"));
    let identity = remote(&h).unwrap().identity();
    h.delete(Kind::Secret, "shop", "pull");
    assert_eq!(h.problems(), ["P205 Plugin shop/geo spec.source.oci.pullSecretRef.name"]);
    assert_eq!((who(&h), remote(&h).unwrap().identity()), (None, identity));
    for config in ["{}", "no JSON", r#"{"auths": {"s.example": {}}}"#] {
        h.apply(&pull(config));
        assert_eq!(h.problems(), ["P401 Plugin shop/geo spec.source.oci.pullSecretRef.name"], "{config}");
    }
    // Without a key nothing is fetched that nobody has looked at.
    h.delete(Kind::ConfigMap, "shop", "key");
    assert!(h.problems().contains(&"P205 Plugin shop/geo spec.source.oci.publicKeyRef.name".to_owned()));
    assert_eq!(remote(&h), None);
    h.apply(&(key("no key") + &pull(ALICE)));
    assert_eq!(
        (h.problems(), remote(&h)),
        (vec!["P401 Plugin shop/geo spec.source.oci.publicKeyRef".to_owned()], None)
    );
    h.apply(&good_key());
    assert!(h.problems().is_empty() && remote(&h).is_some());
}

#[test]
fn a_tag_is_another_source_for_each_generation_and_a_digest_is_not() {
    let identity = |h: &Harness| remote(h).unwrap().identity();
    let source = "{oci: {image: \"r.example/geo:1\"}}";
    let mut h = Harness::new(&plugin(1, source, ""));
    let first = identity(&h);
    h.apply(&plugin(1, source, ""));
    assert_eq!(identity(&h), first);
    h.apply(&plugin(2, source, ", failMode: Open"));
    assert_ne!(identity(&h), first);
    let pinned = format!("{{oci: {{image: \"r.example/geo@sha256:{DIGEST}\"}}}}");
    h.apply(&plugin(3, &pinned, ""));
    let third = identity(&h);
    h.apply(&plugin(4, &pinned, ", failMode: Open"));
    assert_eq!(identity(&h), third);
}

#[test]
fn sources_that_cannot_be_fetched_are_problems_of_their_fields() {
    for (source, problem) in [
        ("{oci: {image: geo}}".to_owned(), "P401 Plugin shop/geo spec.source.oci.image"),
        (
            format!("{{https: {{url: ftp://x.example/geo.wasm, sha256: {DIGEST}}}}}"),
            "P401 Plugin shop/geo spec.source.https.url",
        ),
        (
            "{https: {url: https://x.example/geo.wasm, sha256: \"12\"}}".to_owned(),
            "P401 Plugin shop/geo spec.source.https.sha256",
        ),
        (
            format!(
                "{{https: {{url: https://x.example/geo.wasm, sha256: {DIGEST}}}, oci: {{image: \"r.example/geo:1\"}}}}"
            ),
            "P401 Plugin shop/geo spec.source",
        ),
    ] {
        let h = Harness::new(&plugin(1, &source, ""));
        assert_eq!(h.problems(), [problem]);
        assert_eq!(remote(&h), None);
        let status = h.translator.status();
        let status = &status.plugins[&sluice_model::ObjectRef::new(Kind::Plugin, "shop", "geo")];
        assert_eq!(status.rejected.as_ref().map(|(reason, _)| *reason), Some("InvalidSource"));
        assert!(!status.remote && status.code.is_none());
    }
    let h = Harness::new(&plugin(1, &format!("{{https: {{url: https://x.example/geo.wasm, sha256: {DIGEST}}}}}"), ""));
    assert!(h.problems().is_empty() && remote(&h).is_some());
}
