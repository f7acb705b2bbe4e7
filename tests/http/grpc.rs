//! gRPC over HTTP/2: trailers, `TE: trailers`, and the gateway's own errors in gRPC's terms.

use crate::edge::HOST;
use sluice_tests::certificate::Authority;
use sluice_tests::{Backend, Folder, Gateway, grpc::Call, http2, http2::Connection, objects, ports, wait};

struct Grpc {
    gateway: Gateway,
    _folder: Folder,
    backend: Backend,
    authority: Authority,
    https: u16,
}

async fn start() -> Grpc {
    let (folder, authority) = (Folder::new(), Authority::default());
    let backend = Backend::echo("grpc").await;
    let (http, https) = (ports::free(), ports::free());
    folder.write(
        "grpc.yaml",
        objects::join([
            objects::class(),
            objects::gateway(http, Some((https, "leaf"))),
            objects::secret("leaf", &authority.leaf(&[HOST])),
            objects::http_route(
                "grpc",
                &[HOST],
                "  - matches: [{path: {value: /echo.Echo}}]\n    backendRefs: [{name: grpc, port: 80}]\n  - matches: [{path: {value: /nobody.Home}}]\n    backendRefs: [{name: empty, port: 80}]\n",
            ),
            objects::service_speaking("grpc", Some("kubernetes.io/h2c"), &[backend.address]),
            objects::service("empty", &[]),
        ]),
    );
    let gateway = Gateway::start(&folder).await;
    Grpc { gateway, _folder: folder, backend, authority, https }
}

impl Grpc {
    async fn connect(&self) -> Connection {
        Connection::tls(self.https, HOST, self.authority.client(&["h2"])).await.unwrap()
    }
}

#[tokio::test]
async fn a_bidirectional_stream_passes_both_ways_and_ends_with_its_trailers() {
    let edge = start().await;
    let connection = edge.connect().await;
    let mut call = Call::open(&connection, HOST, "/echo.Echo/Chat").await.unwrap();
    for n in 0..20 {
        let message = format!("message {n}");
        assert_eq!(call.exchange(message.as_bytes()).await.unwrap(), message.as_bytes());
    }
    let trailers = call.finish().await.unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["x-trailer"], "kept");
}

#[tokio::test]
async fn rfc9113_8_2_2_te_trailers_reaches_the_backend() {
    let edge = start().await;
    let connection = edge.connect().await;
    let call = Call::open(&connection, HOST, "/echo.Echo/Once").await.unwrap();
    call.finish().await.unwrap();
    let seen = edge.backend.seen();
    assert_eq!(seen[0].version, http::Version::HTTP_2);
    assert_eq!(seen[0].headers.get("te").map(|v| v.as_bytes()), Some(&b"trailers"[..]));
}

#[tokio::test]
async fn the_gateways_own_errors_are_grpc_statuses() {
    let edge = start().await;
    let connection = edge.connect().await;
    // https://grpc.github.io/grpc/core/md_doc_http-grpc-status-mapping.html: 404 is UNIMPLEMENTED, 503 UNAVAILABLE.
    for (path, status) in [("/no.Such/Method", "12"), ("/nobody.Home/Call", "14")] {
        let request = connection
            .request("POST", HOST, path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let answer = connection.exchange(request, sluice_tests::grpc::frame(b"x")).await.unwrap();
        let found = answer
            .header("grpc-status")
            .map(str::to_owned)
            .or_else(|| answer.trailers.get("grpc-status").map(|v| v.to_str().unwrap().to_owned()));
        assert_eq!((answer.status, found.as_deref()), (200, Some(status)), "{path}");
    }
}

#[tokio::test]
async fn rfc9113_8_1_requests_that_end_with_trailers_are_answered_and_keep_no_worker() {
    let edge = start().await;
    let connection = edge.connect().await;
    let path = "/echo.Echo/Trailers";
    for kind in ["text/plain", "application/grpc"] {
        for piece in ["", "a body"] {
            let request = connection.request("POST", HOST, path).header("content-type", kind);
            let (response, mut body) = connection.open(request.body(()).unwrap()).await.unwrap();
            if !piece.is_empty() {
                body.send_data(piece.into(), false).unwrap();
            }
            let trailers = [(http::HeaderName::from_static("x-sum"), http::HeaderValue::from_static("1"))];
            body.send_trailers(trailers.into_iter().collect()).unwrap();
            let answer = http2::collect(response.await.unwrap()).await.unwrap();
            assert_eq!(answer.status, 200, "{kind}, {piece:?}");
        }
    }
    // One whose end is not seen would hold its worker for good: each has its line, and none is left.
    wait::until("the access log", || async {
        let lines = edge.gateway.access_log();
        (lines.iter().filter(|line| line["path"] == path && line["reason"] == "upstream").count() == 4).then_some(())
    })
    .await;
    assert_eq!(edge.gateway.metric("sluice_requests_in_flight", &[]).await, 0.0);
}
