//! One gateway before one echo backend: every path of every host goes there.

use sluice_tests::backend::Handler;
use sluice_tests::certificate::Authority;
use sluice_tests::{Backend, Folder, Gateway, objects, ports, raw};

pub(crate) const HOST: &str = "edge.example";

pub(crate) struct Edge {
    pub(crate) gateway: Gateway,
    pub(crate) backend: Backend,
    pub(crate) folder: Folder,
    pub(crate) authority: Authority,
    pub(crate) http: u16,
    pub(crate) https: u16,
}

impl Edge {
    /// With the defaults that a user gets.
    pub(crate) async fn start() -> Edge {
        Edge::configured("").await
    }

    /// With settings of its listeners: the inside of a flow mapping (`limits: {headerCount: 5}`).
    pub(crate) async fn configured(settings: &str) -> Edge {
        Edge::before(settings, None, Backend::echo("echo").await).await
    }

    /// Before a backend of HTTP/2.
    pub(crate) async fn before_http2(settings: &str, handler: Handler) -> Edge {
        Edge::before(settings, Some("kubernetes.io/h2c"), Backend::with(handler).await).await
    }

    pub(crate) async fn with_backend(handler: Handler) -> Edge {
        Edge::before("", None, Backend::with(handler).await).await
    }

    async fn before(settings: &str, protocol: Option<&str>, backend: Backend) -> Edge {
        let (folder, authority) = (Folder::new(), Authority::default());
        let (http, https) = (ports::free(), ports::free());
        let leaf = authority.leaf(&[HOST, "*.edge.example"]);
        let gateway = match settings {
            "" => objects::gateway(http, Some((https, "leaf"))),
            _ => objects::configured_gateway(http, Some((https, "leaf")), settings),
        };
        folder.write(
            "edge.yaml",
            objects::join([
                objects::class(),
                gateway,
                objects::secret("leaf", &leaf),
                objects::route_to("all", &[], "echo"),
                objects::service_speaking("echo", protocol, &[backend.address]),
            ]),
        );
        let gateway = Gateway::start(&folder).await;
        Edge { gateway, backend, folder, authority, http, https }
    }

    /// Each case, on a connection of its own, is answered with one of `statuses`, and nothing of it reaches the backend.
    pub(crate) async fn refuses(&self, statuses: &[u16], cases: &[(&str, &str)]) {
        for (what, bytes) in cases {
            self.refused(statuses, what, bytes).await;
        }
        self.untouched().await;
    }

    /// Likewise, and as it is not sure where the next request would begin, the connection is closed.
    pub(crate) async fn refuses_and_closes(&self, statuses: &[u16], cases: &[(&str, &str)]) {
        for (what, bytes) in cases {
            let (mut client, _) = self.refused(statuses, what, bytes).await;
            assert!(client.ends().await, "{what}: the connection went on after a refusal");
        }
        self.untouched().await;
    }

    async fn refused(&self, statuses: &[u16], what: &str, bytes: &str) -> (raw::Client, raw::Response) {
        let mut client = raw::Client::connect(self.http).await.unwrap();
        client.send(bytes).await.unwrap();
        let answer = client.response().await.unwrap_or_else(|e| panic!("{what}: no answer: {e}"));
        assert!(statuses.contains(&answer.status), "{what}: answered {}, not {statuses:?}", answer.status);
        (client, answer)
    }

    /// Nothing has reached the backend. A good request is sent after, so that what was under way has arrived.
    pub(crate) async fn untouched(&self) {
        let before = self.backend.count();
        let answer = raw::get(self.http, HOST, "/sentinel").await.unwrap();
        assert_eq!(answer.status, 200, "a good request after the bad ones: {}", answer.text());
        let seen: Vec<_> =
            self.backend.seen().into_iter().map(|s| s.target).filter(|t| !t.ends_with("/sentinel")).collect();
        assert!(seen.is_empty(), "refused requests reached the backend: {seen:?} ({before} before)");
    }

    /// What the backend saw of a request that is sent on a connection of its own and answered 200.
    pub(crate) async fn passes(&self, bytes: &str) -> Passed {
        let answer = raw::exchange(self.http, bytes).await.unwrap();
        assert_eq!(answer.status, 200, "{bytes:?}: {}", answer.text());
        Passed(answer.json())
    }
}

/// A request as the echo backend saw it.
pub(crate) struct Passed(pub(crate) serde_json::Value);

impl Passed {
    pub(crate) fn target(&self) -> &str {
        self.0["target"].as_str().unwrap()
    }

    /// Every value of a field.
    pub(crate) fn fields(&self, name: &str) -> Vec<String> {
        let pairs = self.0["headers"].as_array().unwrap();
        pairs.iter().filter(|p| p[0] == name).map(|p| p[1].as_str().unwrap().to_owned()).collect()
    }

    /// The one value of a field; `None` where there is none.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let mut values = self.fields(name);
        assert!(values.len() < 2, "{name} stands {} times", values.len());
        values.pop()
    }
}

/// A GET with further lines, each ending in CRLF.
pub(crate) fn get(path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n")
}

/// A POST with further lines and a body as it is.
pub(crate) fn post(lines: &str, body: &str) -> String {
    format!("POST /post HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n{body}")
}
