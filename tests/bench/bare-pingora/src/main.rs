//! `bare-pingora PLAIN TLS BACKEND CERT KEY`: the smallest proxy that Pingora makes.
//!
//! TLS is done in the application instead of the listener, for one reason: Pingora's TLS settings cannot switch session
//! resumption off. The stream underneath is the Service's own, with its buffers.

use async_trait::async_trait;
use pingora_core::Result;
use pingora_core::apps::ServerApp;
use pingora_core::listeners::tls::Acceptor;
use pingora_core::protocols::{Stream, l4::stream::Stream as L4Stream};
use pingora_core::server::{Server, ShutdownWatch};
use pingora_core::services::listening::Service;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{HttpProxy, ProxyHttp, Session, http_proxy, http_proxy_service};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Bare(String);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();
    fn new_ctx(&self) {}
    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(&self.0, false, String::new())))
    }
}

struct Tls(Acceptor, Arc<HttpProxy<Bare, ()>>);

#[async_trait]
impl ServerApp for Tls {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let l4 = stream.into_any().downcast::<L4Stream>().ok()?;
        let mut next: Option<Stream> = Some(Box::new(self.0.tls_handshake(*l4).await.ok()?));
        while let Some(stream) = next {
            next = self.1.process_new(stream, shutdown).await;
        }
        None
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [plain, tls, backend, certificate, key] = &arguments[..] else { panic!("see the first line of main.rs") };
    let mut server = Server::new(None).expect("default settings");
    server.bootstrap();
    let mut http = http_proxy_service(&server.configuration, Bare(backend.clone()));
    http.add_tcp(plain);

    let chain = CertificateDer::pem_file_iter(certificate).expect("a chain").map(|c| c.expect("PEM")).collect();
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of the provider")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a matching pair");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let proxy = Arc::new(http_proxy(&server.configuration, Bare(backend.clone())));
    let mut https = Service::new("tls".to_owned(), Tls(Acceptor::from_server_config(Arc::new(config)), proxy));
    https.add_tcp(tls);

    server.add_service(http);
    server.add_service(https);
    server.run_forever();
}
