//! TLS towards clients: certificates by SNI, their change while running, versions, resumption.

use crate::shop::{HOST, Shop, backend_of};
use rustls::ClientConfig;
use sluice_tests::certificate::{self, Authority, Leaf};
use sluice_tests::objects::{class, join, route_to, secret, service};
use sluice_tests::{Backend, Folder, Gateway, ports, raw, wait};
use std::sync::Arc;

fn listeners(port: u16, list: &[(&str, &str, &str)]) -> String {
    let list: String = list
        .iter()
        .map(|(name, host, secrets)| {
            let refs: Vec<_> = secrets.split(' ').map(|s| format!("{{name: {s}}}")).collect();
            format!(
                "  - {{name: {name}, port: {port}, protocol: HTTPS, hostname: \"{host}\", tls: {{certificateRefs: [{}]}}}}\n",
                refs.join(", ")
            )
        })
        .collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: default}}\nspec:\n  gatewayClassName: sluice\n  listeners:\n{list}"
    )
}

async fn shown(port: u16, name: &str, config: Arc<ClientConfig>) -> std::io::Result<Vec<u8>> {
    Ok(certificate::shown(&certificate::connect(port, name, config).await?).to_vec())
}

#[tokio::test]
async fn each_name_gets_the_certificate_that_covers_it() {
    let (folder, authority) = (Folder::new(), Authority::default());
    let backend = Backend::echo("one").await;
    let port = ports::free();
    let leaves: Vec<(&str, Leaf)> =
        [("a", "a.example"), ("b", "b.example"), ("wild", "*.wild.example"), ("deep", "x.wild.example")]
            .into_iter()
            .map(|(name, host)| (name, authority.leaf(&[host])))
            .collect();
    folder.write(
        "tls.yaml",
        join(
            [
                class(),
                listeners(
                    port,
                    &[("a", "a.example", "a"), ("b", "b.example", "b"), ("wild", "*.wild.example", "wild deep")],
                ),
                route_to("all", &[], "one"),
                service("one", &[backend.address]),
            ]
            .into_iter()
            .chain(leaves.iter().map(|(name, leaf)| secret(name, leaf))),
        ),
    );
    let _gateway = Gateway::start(&folder).await;
    for (name, leaf) in [("a.example", 0), ("b.example", 1), ("y.wild.example", 2), ("x.wild.example", 3)] {
        let got = shown(port, name, authority.client(&["http/1.1"])).await.unwrap();
        assert_eq!(got, leaves[leaf].1.der.to_vec(), "{name}");
    }
    assert!(shown(port, "nobody.example", authority.client(&["http/1.1"])).await.is_err());
}

#[tokio::test]
async fn a_changed_secret_is_shown_to_new_connections_and_open_ones_go_on() {
    let shop = Shop::start(&["one"], &route_to("all", &[HOST], "one")).await;
    let client = shop.authority.client(&["http/1.1"]);
    let mut open = raw::Client::connect_tls(shop.https, HOST, client.clone()).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    open.send(&request).await.unwrap();
    assert_eq!(backend_of(&open.response().await.unwrap()), "one");

    let next = shop.authority.leaf(&[HOST]);
    let yaml = std::fs::read_to_string(shop.folder.path().join("shop.yaml")).unwrap();
    let documents: Vec<_> =
        yaml.split("\n---\n").filter(|d| !d.contains("kind: Secret")).map(|d| format!("{d}\n")).collect();
    shop.folder.write("shop.yaml", join(documents.into_iter().chain([secret("shop", &next)])));
    wait::until("the new certificate", || async {
        let got = shown(shop.https, HOST, client.clone()).await.ok()?;
        (got == next.der.to_vec()).then_some(())
    })
    .await;
    open.send(&request).await.unwrap();
    assert_eq!(backend_of(&open.response().await.unwrap()), "one");
}

fn configured(settings: &str) -> String {
    format!(
        "apiVersion: sluice.dev/v1alpha1\nkind: GatewayConfig\nmetadata: {{name: edge, namespace: default}}\nspec:\n  listeners: [{{name: \"*\", tls: {{{settings}}}}}]\n"
    )
}

/// A shop whose Gateway takes its TLS settings from a GatewayConfig.
async fn with_tls(settings: &str) -> Shop {
    let shop = Shop::start(&["one"], &join([route_to("all", &[HOST], "one"), configured(settings)])).await;
    let yaml = std::fs::read_to_string(shop.folder.path().join("shop.yaml")).unwrap();
    let with = "spec:\n  infrastructure: {parametersRef: {group: sluice.dev, kind: GatewayConfig, name: edge}}\n  gatewayClassName: sluice\n";
    shop.folder.write("shop.yaml", yaml.replace("spec:\n  gatewayClassName: sluice\n", with));
    shop
}

fn only(version: &'static rustls::SupportedProtocolVersion, shop: &Shop) -> Arc<ClientConfig> {
    let base = shop.authority.client(&["http/1.1"]);
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(
        rustls_pki_types::pem::PemObject::pem_slice_iter(shop.authority.pem().as_bytes()).map(|c| c.unwrap()),
    );
    let mut config =
        ClientConfig::builder_with_protocol_versions(&[version]).with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = base.alpn_protocols.clone();
    Arc::new(config)
}

#[tokio::test]
async fn a_minimum_version_refuses_older_ones() {
    let shop = with_tls("minVersion: \"1.3\"").await;
    wait::until("TLS 1.2 to be refused", || async {
        let old = certificate::connect(shop.https, HOST, only(&rustls::version::TLS12, &shop)).await;
        old.is_err().then_some(())
    })
    .await;
    certificate::connect(shop.https, HOST, only(&rustls::version::TLS13, &shop)).await.unwrap();
}

#[tokio::test]
async fn tls_1_2_is_spoken_by_default() {
    let shop = Shop::start(&["one"], &route_to("all", &[HOST], "one")).await;
    certificate::connect(shop.https, HOST, only(&rustls::version::TLS12, &shop)).await.unwrap();
}

/// Whether a second connection of one client resumes the first one's session.
async fn resumes(shop: &Shop) -> bool {
    let config = only(&rustls::version::TLS13, shop);
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let stream = certificate::connect(shop.https, HOST, config.clone()).await.unwrap();
        kinds.push(stream.get_ref().1.handshake_kind().unwrap());
        let mut client = raw::Client::over(stream);
        // Tickets come behind the handshake; an answer shows that they were read.
        client.send(&request).await.unwrap();
        assert_eq!(client.response().await.unwrap().status, 200);
    }
    kinds[1] == rustls::HandshakeKind::Resumed
}

#[tokio::test]
async fn sessions_are_resumed_unless_tickets_are_switched_off() {
    let shop = Shop::start(&["one"], &route_to("all", &[HOST], "one")).await;
    assert!(resumes(&shop).await);
    let shop = with_tls("tickets: false").await;
    wait::until("no resumption", || async { (!resumes(&shop).await).then_some(()) }).await;
}

#[tokio::test]
async fn alpn_chooses_http2_where_the_client_offers_it() {
    let shop = Shop::start(&["one"], &route_to("all", &[HOST], "one")).await;
    for (offered, chosen) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"][..], "http/1.1")] {
        let stream = certificate::connect(shop.https, HOST, shop.authority.client(offered)).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(chosen.as_bytes()));
    }
}
