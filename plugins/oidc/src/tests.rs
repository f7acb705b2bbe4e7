//! A browser, a site behind the plugin, and a provider, played through whole sign-ins.

use super::*;
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use kit::query;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sluice_plugin::testing::{Asked, Exchange, Services, StubAnswer};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

mod configuration;
mod hostile;
mod refresh;
mod sessions;
mod signing_in;

const SECRET: &str = "a secret of sessions, of 32 bytes or more";

/// 2026-01-01T00:00:00Z, where a test's clock stands.
const NOW: u64 = 1_767_225_600;

/// An OpenID provider, which tests tell to misbehave.
struct Idp {
    key: SigningKey,
    /// Nonce and challenge by code.
    codes: RefCell<BTreeMap<String, (String, String)>>,
    /// In place of, or beside, the claims that it would put into an ID token; null takes one away.
    claims: RefCell<Value>,
    /// Beside what it would answer with tokens; null takes a field away.
    answer: RefCell<Value>,
    /// The header of its ID tokens.
    header: RefCell<Value>,
    /// Beside its metadata.
    metadata: RefCell<Value>,
    /// Instead of tokens.
    fails: Cell<Option<u16>>,
    /// How often it will still tell its keys.
    tells_keys: Cell<u32>,
    /// Refresh tokens: each is good once.
    refresh: Cell<u32>,
    asked: RefCell<Vec<Asked>>,
}

fn merge(into: &mut Value, more: &Value) {
    for (name, value) in more.as_object().unwrap() {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(name).map_or((), drop)
        } else {
            into[name] = value.clone()
        }
    }
}

fn encode(text: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(text)
}

fn field(form: &str, name: &str) -> Option<String> {
    query::values(form, name).next().map(|value| String::from_utf8(value).unwrap())
}

impl Idp {
    fn new() -> Rc<Idp> {
        Rc::new(Idp {
            key: SigningKey::from_bytes(&[7; 32]),
            codes: RefCell::default(),
            claims: RefCell::new(json!({})),
            answer: RefCell::new(json!({})),
            header: RefCell::new(json!({ "alg": "EdDSA", "kid": "one" })),
            metadata: RefCell::new(json!({})),
            fails: Cell::new(None),
            tells_keys: Cell::new(u32::MAX),
            refresh: Cell::new(1),
            asked: RefCell::default(),
        })
    }

    fn sign(&self, claims: &Value) -> String {
        let signed = format!("{}.{}", encode(self.header.borrow().to_string()), encode(claims.to_string()));
        format!("{signed}.{}", encode(self.key.sign(signed.as_bytes()).to_bytes()))
    }

    /// Signs ann in, as a browser asks for at `location`; gives where the browser goes then.
    fn authorize(&self, location: &str) -> String {
        let (endpoint, asked) = location.split_once('?').unwrap();
        assert_eq!(endpoint, "https://idp.example/authorize");
        let code = format!("code-{}", self.codes.borrow().len());
        let [nonce, challenge, state] = ["nonce", "code_challenge", "state"].map(|name| field(asked, name).unwrap());
        self.codes.borrow_mut().insert(code.clone(), (nonce, challenge));
        let back = field(asked, "redirect_uri").unwrap();
        let path = back.strip_prefix("https://example.com").expect("the site's own");
        format!("{path}?code={code}&state={state}")
    }

    fn tokens(&self, nonce: Option<&str>) -> StubAnswer {
        let now = sluice_plugin::clock::now().as_secs();
        let mut claims = json!({
            "iss": "https://idp.example/", "sub": "ann", "aud": "shop", "iat": now, "exp": now + 300,
            "email": "ann@shop.example", "realm_access": { "roles": ["cook", "chef"] },
        });
        if let Some(nonce) = nonce {
            claims["nonce"] = json!(nonce);
        }
        merge(&mut claims, &self.claims.borrow());
        let number = self.refresh.get();
        let mut answer = json!({
            "id_token": self.sign(&claims), "access_token": format!("access-{number}"), "token_type": "Bearer",
            "expires_in": 300, "refresh_token": format!("refresh-{number}"),
        });
        merge(&mut answer, &self.answer.borrow());
        StubAnswer::new(200).body(answer.to_string())
    }

    fn answers(&self, asked: &Asked) -> StubAnswer {
        self.asked.borrow_mut().push(asked.clone());
        assert_eq!(asked.authority.as_deref(), Some("idp.example"));
        match asked.target.as_str() {
            "/.well-known/openid-configuration" => {
                let mut metadata = json!({
                    "issuer": "https://idp.example/", "authorization_endpoint": "https://idp.example/authorize",
                    "token_endpoint": "https://idp.example/token", "jwks_uri": "https://idp.example/keys",
                    "end_session_endpoint": "https://idp.example/logout",
                });
                merge(&mut metadata, &self.metadata.borrow());
                StubAnswer::new(200).body(metadata.to_string())
            }
            "/keys" if self.tells_keys.get() == 0 => StubAnswer::new(503),
            "/keys" => {
                self.tells_keys.set(self.tells_keys.get() - 1);
                let key = encode(self.key.verifying_key().to_bytes());
                let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "one", "x": key });
                StubAnswer::new(200).body(json!({ "keys": [jwk] }).to_string())
            }
            "/token" => self.exchanges(std::str::from_utf8(&asked.body).unwrap()),
            other => panic!("nobody asks for {other}"),
        }
    }

    fn exchanges(&self, form: &str) -> StubAnswer {
        let invalid = || StubAnswer::new(400).body(json!({ "error": "invalid_grant" }).to_string());
        match self.fails.get() {
            Some(0) => return StubAnswer::failure("connect"),
            Some(400) => return invalid(),
            Some(401) => return StubAnswer::new(401).body(json!({ "error": "invalid_client" }).to_string()),
            Some(status) => return StubAnswer::new(status),
            None => {}
        }
        match field(form, "grant_type").as_deref() {
            Some("authorization_code") => {
                let Some((nonce, challenge)) = self.codes.borrow_mut().remove(&field(form, "code").unwrap()) else {
                    return invalid();
                };
                let verifier = field(form, "code_verifier").unwrap();
                assert_eq!(encode(Sha256::digest(&verifier)), challenge, "PKCE");
                assert!(verifier.len() >= 43);
                assert_eq!(field(form, "redirect_uri").as_deref(), Some("https://example.com/oauth2/callback"));
                self.tokens(Some(&nonce))
            }
            Some("refresh_token") => {
                let number = self.refresh.get();
                if field(form, "refresh_token") != Some(format!("refresh-{number}")) {
                    return invalid();
                }
                self.refresh.set(number + 1);
                self.tokens(None)
            }
            other => panic!("{other:?}"),
        }
    }

    fn asked_for(&self, target: &str) -> usize {
        self.asked.borrow().iter().filter(|asked| asked.target == target).count()
    }
}

/// What a client of the plugin gets.
#[derive(Debug)]
struct Got {
    /// None: the request passed.
    status: Option<u16>,
    headers: Vec<(String, String)>,
    body: String,
    /// Of the request, as the backend gets it.
    passed: Vec<(String, String)>,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn location(&self) -> &str {
        self.header("location").unwrap_or_else(|| panic!("no redirect: {self:?}"))
    }

    fn passed(&self, name: &str) -> Option<&str> {
        assert_eq!(self.status, None, "{self:?}");
        self.passed.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn told(&self) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(|(key, _)| key == "set-cookie").map(|(_, value)| value.as_str())
    }
}

/// Keeps cookies as a browser does.
#[derive(Clone, Default)]
struct Browser {
    cookies: BTreeMap<String, String>,
    site: Option<Rc<Site>>,
}

struct Site {
    plugin: Oidc,
    idp: Rc<Idp>,
}

fn plugin(config: Value) -> Result<Oidc, String> {
    Oidc::configure(serde_json::from_value(config).map_err(|error| error.to_string())?)
}

fn config(more: Value) -> Value {
    let mut config = json!({
        "issuer": "https://idp.example/", "clientId": "shop", "clientSecret": "client", "sessionSecrets": ["session"],
    });
    merge(&mut config, &more);
    config
}

fn services() -> Services {
    Services::new().store("oidc").secret("session", SECRET).secret("client", "hunter2 & more\n")
}

fn text(fields: Vec<(String, Vec<u8>)>) -> Vec<(String, String)> {
    fields.into_iter().map(|(name, value)| (name, String::from_utf8(value).unwrap())).collect()
}

impl Browser {
    fn at(more: Value) -> Browser {
        let site = Site { plugin: plugin(config(more)).unwrap(), idp: Idp::new() };
        Browser { cookies: BTreeMap::new(), site: Some(Rc::new(site)) }
    }

    fn site(&self) -> &Site {
        self.site.as_deref().unwrap()
    }

    fn idp(&self) -> &Idp {
        &self.site().idp
    }

    /// The same provider and accounts, by another configuration.
    fn with(&self, more: Value) -> Browser {
        let site = Site { plugin: plugin(config(more)).unwrap(), idp: self.site().idp.clone() };
        Browser { cookies: self.cookies.clone(), site: Some(Rc::new(site)) }
    }

    fn cookie(&self) -> String {
        self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    /// Asks as a browser that loads a page.
    fn get(&mut self, path: &str) -> Got {
        self.send(Exchange::get(path).header("sec-fetch-mode", "navigate"))
    }

    /// Asks as a script.
    fn fetch(&mut self, path: &str) -> Got {
        self.send(Exchange::get(path).header("sec-fetch-mode", "cors"))
    }

    fn send(&mut self, exchange: Exchange) -> Got {
        let site = self.site.clone().unwrap();
        let idp = site.idp.clone();
        let mut exchange = exchange.backend("idp", move |asked| idp.answers(asked));
        if !self.cookies.is_empty() {
            exchange = exchange.header("cookie", self.cookie());
        }
        let decision = exchange.on_request(&site.plugin);
        let got = match decision {
            Decision::Respond(reply) => Got {
                status: Some(reply.status),
                headers: text(reply.headers),
                body: String::from_utf8(reply.body).unwrap(),
                passed: Vec::new(),
            },
            _ => {
                let passed = text(exchange.request().headers());
                let _ = exchange.on_response(&site.plugin);
                Got { status: None, headers: text(exchange.response().headers()), body: String::new(), passed }
            }
        };
        for told in got.told() {
            let (pair, attributes) = told.split_once("; ").unwrap();
            assert!(pair.starts_with("__Host-") && attributes.ends_with("HttpOnly; SameSite=Lax; Secure"), "{told}");
            assert!(told.len() < 4_096);
            let (name, value) = pair.split_once('=').unwrap();
            if attributes.contains("Max-Age=0;") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        got
    }

    /// From a page to the provider; gives where that sends the browser back to.
    fn leave(&mut self, path: &str) -> String {
        let got = self.get(path);
        assert_eq!(got.status, Some(302), "{got:?}");
        self.idp().authorize(got.location())
    }

    /// From a page to the provider, back, and to the page.
    fn sign_in(&mut self, path: &str) {
        let back = self.leave(path);
        let got = self.get(&back);
        assert_eq!((got.status, got.location()), (Some(302), path), "{got:?}");
    }

    /// Name and value of the session's first cookie.
    fn session(&self) -> (String, String) {
        let (name, value) = self.cookies.iter().find(|(name, _)| !name.contains('.')).expect("a session");
        (name.clone(), value.clone())
    }

    fn passes(&mut self) -> bool {
        self.fetch("/").status.is_none()
    }
}
