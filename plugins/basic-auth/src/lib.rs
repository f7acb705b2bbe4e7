//! Lets requests pass that carry a known name and password (RFC 7617), and tells who they come from.
//!
//! Passwords are known by slow hashes only. A name that nobody has costs as much time as a wrong password.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hash::Hash;
use kit::{Duration, HeaderName, hex};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use sluice_plugin::store::Store;
use sluice_plugin::{Decision, OnRequest, Plugin, Reply, Request, attributes, log, secrets};
use std::collections::BTreeMap;

mod hash;

/// The attribute that holds the user's name, for later plugins and the access log.
pub const USER: &str = "basic-auth.user";

/// The store of what was verified, in the Plugin's `capabilities.stores`.
const VERIFIED: &str = "verified";

/// Who may come in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Those who may come in.
    #[serde(default)]
    pub users: Vec<User>,
    /// More of them, as a secret by its name in the Plugin's `capabilities.secrets`: lines `name:hash`, as
    /// `htpasswd -B` writes them. It is read anew for each request.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub users_secret: Option<String>,
    /// In `WWW-Authenticate`.
    #[serde(default = "default_realm")]
    #[schemars(regex(pattern = r#"^[^"\\\x00-\x1f\x7f]*$"#))]
    pub realm: String,
    /// Whether `Authorization` is removed before the request goes to the backend.
    #[serde(default = "default_true")]
    pub hide_credentials: bool,
    /// The request header that tells the backend the user's name; `null`: none. What a client sends under it is replaced.
    #[serde(default = "default_user_header")]
    #[schemars(extend("x-sluice-owned-header" = true))]
    pub user_header: Option<HeaderName>,
    /// How long a password that was right once needs no hashing again, in the store `verified` of the Plugin's
    /// `capabilities.stores`. `null`: each request is hashed.
    #[serde(default)]
    pub cache_for: Option<Duration>,
}

/// One who may come in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct User {
    /// Told to the backend and the access log. Without a colon.
    #[schemars(regex(pattern = r"^[^:\x00-\x1f\x7f]+$"))]
    pub name: String,
    /// Of the password: Argon2 (`$argon2id$v=19$m=19456,t=2,p=1$…`, at most 48 MiB) or bcrypt (`$2y$10$…`, a cost of at
    /// most 14).
    pub hash: String,
}

fn default_realm() -> String {
    "sluice".to_owned()
}

fn default_true() -> bool {
    true
}

fn default_user_header() -> Option<HeaderName> {
    HeaderName::new("x-user")
}

pub struct BasicAuth {
    users: BTreeMap<String, Hash>,
    users_secret: Option<String>,
    challenge: String,
    hide_credentials: bool,
    user_header: Option<HeaderName>,
    cache_for: Option<Duration>,
}

impl Plugin for BasicAuth {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        if config.users.is_empty() && config.users_secret.is_none() {
            return Err("neither users nor usersSecret is set: nobody could come in".to_owned());
        }
        if config.cache_for.is_some_and(|time| time.0.is_zero()) {
            return Err("cacheFor: it is zero; null means that nothing is kept".to_owned());
        }
        let mut users = BTreeMap::new();
        for (index, user) in config.users.into_iter().enumerate() {
            let hash =
                Hash::parse(&user.hash).map_err(|why| format!("users[{index}].hash (`{}`): {why}", user.name))?;
            if users.contains_key(&user.name) {
                return Err(format!("users[{index}].name: there are two users `{}`", user.name));
            }
            users.insert(user.name, hash);
        }
        Ok(BasicAuth {
            users,
            users_secret: config.users_secret,
            challenge: format!("Basic realm=\"{}\", charset=\"UTF-8\"", config.realm),
            hide_credentials: config.hide_credentials,
            user_header: config.user_header,
            cache_for: config.cache_for,
        })
    }
}

impl BasicAuth {
    /// The hash of a user's password; of somebody else's, to spend the same time on, where there is no such user.
    fn hash_of(&self, name: &str) -> (Option<Hash>, bool) {
        if let Some(hash) = self.users.get(name) {
            return (Some(hash.clone()), true);
        }
        let mut decoy = self.users.values().next().cloned();
        let text = self.users_secret.as_deref().and_then(secrets::get_str).unwrap_or_default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let known = line.split_once(':').is_some_and(|(user, _)| user == name);
            if !known && decoy.is_some() {
                continue;
            }
            match line.split_once(':').map(|(_, hash)| Hash::parse(hash)) {
                Some(Ok(hash)) if known => return (Some(hash), true),
                Some(Ok(hash)) => decoy = Some(hash),
                Some(Err(why)) => log::error(&format!("line {} of the secret of users: {why}", index + 1)),
                None => log::error(&format!("line {} of the secret of users is not `name:hash`", index + 1)),
            }
        }
        (decoy, false)
    }

    fn is_right(&self, name: &str, password: &[u8]) -> bool {
        let (hash, known) = self.hash_of(name);
        let Some(hash) = hash else { return false };
        let kept = self.cache_for.filter(|_| known).and_then(|time| {
            let opened = Store::open(VERIFIED);
            let store = opened.map_err(|reason| log::error(&format!("each request is hashed: {reason}"))).ok()?;
            Some((store, key(name, password, &hash), time))
        });
        if let Some((store, key, _)) = &kept
            && matches!(store.get(key), Ok(Some(_)))
        {
            return true;
        }
        let right = hash.is_of(password) && known;
        if let Some((store, key, time)) = &kept
            && right
            && let Err(reason) = store.set(key, b"", Some(time.0))
        {
            log::warn(&format!("what was verified is not kept: {reason}"));
        }
        right
    }

    /// Tells the backend and later plugins who it is.
    fn admit(&self, request: &mut Request<'_>, user: &str) -> Result<(), String> {
        if self.hide_credentials {
            request.remove_header("authorization")?;
        }
        if let Some(header) = &self.user_header {
            request.set_header(header, user)?;
        }
        attributes::set_str(USER, user)?;
        Ok(())
    }

    fn refuse(&self, message: &str) -> Decision {
        Reply::new(401).header("www-authenticate", &self.challenge).text(message).into()
    }
}

/// Another hash (a password that was changed) is another key.
fn key(name: &str, password: &[u8], hash: &Hash) -> String {
    let mut digest = Sha256::new();
    for part in [name.as_bytes(), password, hash.as_bytes()] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    hex(&digest.finalize())
}

/// Name and password of the one `Authorization` that there may be.
fn credentials(request: &Request<'_>) -> Option<(String, Vec<u8>)> {
    let mut values = request.header_values("authorization");
    let value = String::from_utf8(values.pop()?).ok().filter(|_| values.is_empty())?;
    let (scheme, token) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(token.trim()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let (name, password) = decoded.split_at_checked(colon)?;
    let name = String::from_utf8(name.to_vec()).ok()?;
    Some((name, password.get(1..)?.to_vec()))
}

impl OnRequest for BasicAuth {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        let Some((name, password)) = credentials(request) else {
            return self.refuse("a name and a password are required\n");
        };
        if !self.is_right(&name, &password) {
            return self.refuse("name or password are not right\n");
        }
        match self.admit(request, &name) {
            Ok(()) => Decision::Continue,
            Err(reason) => {
                // Letting it pass could show the password, or hide who it is.
                log::error(&format!("a request of `{name}` was refused: {reason}"));
                Reply::new(500).text("the request could not be prepared\n").into()
            }
        }
    }
}

sluice_plugin::export!(BasicAuth: request);

#[cfg(test)]
mod tests;
