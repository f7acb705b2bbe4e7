//! The routes and the keys of the bench: made by chance, the same in every run.

use http::{HeaderMap, HeaderName, HeaderValue};
use sluice_model::HostPattern;
use sluice_model::config::{HeaderMatch, PathMatch, Pattern, RouteMatch, ValueMatch, VirtualHost};
use sluice_model::matcher::precedence;
use std::collections::HashSet;
use std::sync::OnceLock;

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) hosts: Vec<VirtualHost>,
    /// Whether matchit can express its routes.
    pub(crate) peer: bool,
}

/// Requests, in one text, so that reading them costs the same in every scenario.
pub(crate) struct Keys {
    text: String,
    /// Ends of host and target.
    ends: Vec<(u32, u32)>,
}

impl Keys {
    pub(crate) fn each(&self, mut visit: impl FnMut(&str, &str)) {
        let mut start = 0;
        for (host, target) in &self.ends {
            visit(&self.text[start..*host as usize], &self.text[*host as usize..*target as usize]);
            start = *target as usize;
        }
    }
}

const WORDS: [&str; 48] = [
    "api", "v1", "v2", "users", "orders", "cart", "items", "catalog", "search", "images", "static", "assets", "login",
    "account", "billing", "invoices", "payments", "reports", "admin", "settings", "profile", "teams", "projects",
    "jobs", "events", "metrics", "health", "status", "docs", "help", "blog", "news", "shop", "products", "reviews",
    "stock", "shipping", "returns", "coupons", "sessions", "tokens", "keys", "webhooks", "exports", "imports",
    "queues", "files", "archive",
];

pub(crate) const SCENARIOS: [&str; 8] = [
    "1,000 routes, 100 hosts",
    "10,000 routes, 1,000 hosts",
    "100,000 routes, 10,000 hosts",
    "100,000 routes, 200 hosts",
    "500 routes, 1 host",
    "500 routes, 1 path, by an exact header",
    "500 routes, 1 path, by a header's expression",
    "500 routes, 1 host, by a path's expression",
];

impl Scenario {
    /// One of [`SCENARIOS`].
    pub(crate) fn new(name: &'static str) -> Scenario {
        let sizes = [(100, 10), (1_000, 10), (10_000, 10), (200, 500), (1, 500)];
        let position = SCENARIOS.iter().position(|s| *s == name).unwrap();
        match sizes.get(position) {
            Some((hosts, routes)) => Scenario::paths(name, *hosts, *routes),
            None if position == 5 => Scenario::one_path(name, |n| ValueMatch::Exact(format!("t{n}").into())),
            None if position == 6 => {
                Scenario::one_path(name, |n| ValueMatch::Regex(Pattern::anchored(&format!("t{n}(-[a-z]+)?")).unwrap()))
            }
            None => Scenario::expressions(name),
        }
    }

    pub(crate) fn routes(&self) -> usize {
        self.hosts.iter().map(|h| h.matches.len()).sum()
    }

    /// One exact path in five, else prefixes, of one to four elements.
    fn paths(name: &'static str, hosts: usize, routes: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(7);
        let host = |n: usize, random: &mut fastrand::Rng| {
            let mut paths = HashSet::new();
            while paths.len() < routes {
                paths.insert(path(random));
            }
            let mut paths: Vec<_> = paths.into_iter().collect();
            paths.sort();
            let matches = paths.into_iter().map(|path| {
                plain(if random.u8(..5) == 0 { PathMatch::Exact(path.into()) } else { PathMatch::Prefix(path.into()) })
            });
            virtual_host(n, matches.collect())
        };
        Scenario { name, hosts: (0..hosts).map(|n| host(n, &mut random)).collect(), peer: true }
    }

    fn one_path(name: &'static str, value: impl Fn(usize) -> ValueMatch) -> Self {
        let route = |n| RouteMatch {
            headers: vec![HeaderMatch { name: HeaderName::from_static("x-tenant"), value: value(n) }],
            ..plain(PathMatch::Prefix("/api".into()))
        };
        Scenario { name, hosts: vec![virtual_host(0, (0..500).map(route).collect())], peer: false }
    }

    fn expressions(name: &'static str) -> Self {
        let route = |n| plain(PathMatch::Regex(Pattern::anchored(&format!("/r{n}/v[0-9]+/.*")).unwrap()));
        Scenario { name, hosts: vec![virtual_host(0, (0..500).map(route).collect())], peer: false }
    }

    /// Uniformly over all routes, and one in five that none matches: half by its host, half by its path.
    pub(crate) fn keys(&self, count: usize) -> Keys {
        let mut random = fastrand::Rng::with_seed(11);
        let mut keys = Keys { text: String::new(), ends: Vec::with_capacity(count) };
        let all: Vec<(&VirtualHost, &RouteMatch)> =
            self.hosts.iter().flat_map(|h| h.matches.iter().map(move |m| (h, m))).collect();
        for _ in 0..count {
            let (host, route) = all[random.usize(..all.len())];
            let miss = random.u8(..5) == 0;
            let foreign = miss && (self.hosts.len() > 1 && random.bool());
            keys.text.push_str(&host.hostname.to_string());
            if foreign {
                keys.text.push('x');
            }
            let host_end = keys.text.len() as u32;
            match &route.path {
                // Found by its header: every request has `x-tenant: t250`.
                _ if !route.headers.is_empty() => keys.text.push_str(if miss { "/apis/users" } else { "/api/users" }),
                PathMatch::Regex(pattern) => {
                    let head = pattern.source.split('[').next().unwrap();
                    keys.text.push_str(head);
                    keys.text.push_str(if miss { "x/users" } else { "12/users/4711" });
                }
                PathMatch::Exact(path) | PathMatch::Prefix(path) => {
                    if miss && !foreign {
                        keys.text.push_str("/unknown");
                    }
                    keys.text.push_str(path);
                    if matches!(route.path, PathMatch::Prefix(_)) && random.bool() {
                        keys.text.push_str(&format!("/{}", random.u32(..100_000)));
                    }
                }
            }
            keys.ends.push((host_end, keys.text.len() as u32));
        }
        keys
    }
}

/// The fields of every request.
pub(crate) fn fields() -> &'static HeaderMap {
    static FIELDS: OnceLock<HeaderMap> = OnceLock::new();
    FIELDS.get_or_init(|| {
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("host", "h1.example.com"),
            ("user-agent", "bench"),
            ("accept", "*/*"),
            ("x-tenant", "t250"),
            ("x-request-id", "5a8d"),
        ] {
            fields.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        fields
    })
}

fn plain(path: PathMatch) -> RouteMatch {
    RouteMatch::of_path(path, 0)
}

fn virtual_host(n: usize, mut matches: Vec<RouteMatch>) -> VirtualHost {
    matches.sort_by(precedence);
    let hostname = HostPattern::parse_gateway(Some(&format!("h{n}.example.com"))).unwrap();
    VirtualHost { hostname, matches: matches.into(), rules: [].into() }
}

/// The last element's number keeps apart what 48 words cannot.
fn path(random: &mut fastrand::Rng) -> String {
    let elements = random.usize(1..=4);
    let mut path = String::new();
    for n in 0..elements {
        path.push('/');
        path.push_str(WORDS[random.usize(..WORDS.len())]);
        if n + 1 == elements && random.bool() {
            path.push_str(&random.u8(..100).to_string());
        }
    }
    path
}
