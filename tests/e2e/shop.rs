//! A gateway with an HTTP and an HTTPS listener and a few named echo backends, for tests that add their own objects.

use sluice_tests::certificate::Authority;
use sluice_tests::raw::{self, Response};
use sluice_tests::{Backend, Folder, Gateway, gateway, objects, ports, wait};
use std::collections::BTreeMap;

pub(crate) const HOST: &str = "shop.example";

pub(crate) struct Shop {
    pub(crate) gateway: Gateway,
    pub(crate) folder: Folder,
    pub(crate) authority: Authority,
    pub(crate) backends: BTreeMap<&'static str, Backend>,
    pub(crate) http: u16,
    pub(crate) https: u16,
}

impl Shop {
    /// One echo backend and one Service a name; `objects` is further YAML.
    pub(crate) async fn start(names: &[&'static str], more: &str) -> Shop {
        Shop::start_as(names, more, |options| options).await
    }

    /// The same, with a gateway that is started otherwise.
    pub(crate) async fn start_as(
        names: &[&'static str],
        more: &str,
        options: impl FnOnce(gateway::Options) -> gateway::Options,
    ) -> Shop {
        let (folder, authority) = (Folder::new(), Authority::default());
        let (http, https) = (ports::free(), ports::free());
        let mut backends = BTreeMap::new();
        let mut documents = vec![
            objects::class(),
            objects::gateway(http, Some((https, "shop"))),
            objects::secret("shop", &authority.leaf(&[HOST])),
        ];
        for name in names {
            let backend = Backend::echo(name).await;
            documents.push(objects::service(name, &[backend.address]));
            backends.insert(*name, backend);
        }
        folder.write("shop.yaml", objects::join(documents));
        folder.write("more.yaml", more);
        let gateway = options(gateway::Options::new(&folder)).start().await;
        Shop { gateway, folder, authority, backends, http, https }
    }

    /// An HTTPRoute's rules on the shop's host; see [`objects::http_route`].
    pub(crate) async fn with_rules(names: &[&'static str], rules: &str) -> Shop {
        Shop::start(names, &objects::http_route("shop", &[HOST], rules)).await
    }

    pub(crate) fn backend(&self, name: &str) -> &Backend {
        &self.backends[name]
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.get_with(path, "").await
    }

    /// A GET with further lines, each ending in CRLF.
    pub(crate) async fn get_with(&self, path: &str, lines: &str) -> Response {
        self.send("GET", path, HOST, lines).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, host: &str, lines: &str) -> Response {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{lines}\r\n");
        raw::exchange(self.http, request).await.unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    /// Waits until `path` is answered as `wanted` says.
    pub(crate) async fn until(&self, what: &str, path: &str, wanted: impl Fn(&Response) -> bool) -> Response {
        wait::until(what, || async {
            let answer = raw::get(self.http, HOST, path).await.ok()?;
            wanted(&answer).then_some(answer)
        })
        .await
    }
}

/// Which backend answered.
pub(crate) fn backend_of(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["backend"].as_str().unwrap().to_owned()
}

/// A request field as the backend saw it; joined with `, ` where it stood more than once.
pub(crate) fn seen_field(answer: &Response, name: &str) -> Option<String> {
    let json = answer.json();
    let values: Vec<_> = json["headers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|pair| pair[0] == name)
        .map(|pair| pair[1].as_str().unwrap().to_owned())
        .collect();
    (!values.is_empty()).then(|| values.join(", "))
}
