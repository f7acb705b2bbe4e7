//! Lets requests pass that carry a known key, and tells who they come from.
//!
//! Keys are kept and compared as SHA-256 digests, so how long a comparison takes says nothing about a key.

use kit::query;
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use sluice_plugin::{Decision, OnRequest, Plugin, Reply, Request, attributes, log};
use std::collections::HashMap;

/// The attribute that holds the consumer's name, for later plugins and the access log.
pub const CONSUMER: &str = "key-auth.consumer";

/// Who may come in, and how they show it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Those who may come in.
    #[schemars(length(min = 1))]
    pub consumers: Vec<Consumer>,
    /// The request header that carries the key; null for none. Default `x-api-key`.
    #[serde(default = "default_header")]
    pub header: Option<String>,
    /// The query parameter that carries the key, where the header is not there. Default: none. Keys in URLs end up in
    /// logs and histories; prefer the header.
    #[serde(default)]
    pub query: Option<String>,
    /// Whether the key is removed before the request goes to the backend. Default true.
    #[serde(default = "default_true")]
    pub hide_credentials: bool,
    /// The request header that tells the backend the consumer's name; null for none. What a client sends under it is
    /// replaced. Default `x-consumer`.
    #[serde(default = "default_consumer_header")]
    #[schemars(extend("x-sluice-owned-header" = true))]
    pub consumer_header: Option<String>,
    /// The realm in `WWW-Authenticate`. Default `sluice`.
    #[serde(default = "default_realm")]
    #[schemars(regex(pattern = r#"^[^"\\\x00-\x1f\x7f]*$"#))]
    pub realm: String,
}

/// One who may come in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Consumer {
    /// Told to the backend and the access log.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Keys as they are sent.
    #[serde(default)]
    #[schemars(inner(length(min = 1)))]
    pub keys: Vec<String>,
    /// SHA-256 of keys, in hex: so that the configuration holds none (`printf %s "$KEY" | sha256sum`).
    #[serde(default)]
    #[schemars(inner(regex(pattern = "^[0-9a-fA-F]{64}$")))]
    pub key_hashes: Vec<String>,
}

fn default_header() -> Option<String> {
    Some("x-api-key".to_owned())
}

fn default_consumer_header() -> Option<String> {
    Some("x-consumer".to_owned())
}

fn default_realm() -> String {
    "sluice".to_owned()
}

fn default_true() -> bool {
    true
}

type KeyDigest = [u8; 32];

pub struct KeyAuth {
    consumers: HashMap<KeyDigest, String>,
    header: Option<String>,
    query: Option<String>,
    hide_credentials: bool,
    consumer_header: Option<String>,
    challenge: String,
}

impl Plugin for KeyAuth {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        if config.header.is_none() && config.query.is_none() {
            return Err("neither header nor query is set: no request could carry a key".to_owned());
        }
        let mut consumers = HashMap::new();
        for (index, consumer) in config.consumers.into_iter().enumerate() {
            let field = format!("consumers[{index}]");
            if consumer.name.bytes().any(|b| b < b' ' || b == 127) {
                return Err(format!("{field}.name holds control characters: it could not be sent as a header"));
            }
            if consumer.keys.is_empty() && consumer.key_hashes.is_empty() {
                return Err(format!("{field} (`{}`) has neither keys nor keyHashes", consumer.name));
            }
            let plain = consumer.keys.iter().map(|key| Ok(digest(key.as_bytes())));
            let hashed = consumer.key_hashes.iter().map(|hash| from_hex(hash));
            for key in plain.chain(hashed) {
                let key = key.map_err(|()| format!("{field}.keyHashes holds what is no SHA-256 in hex"))?;
                if let Some(other) = consumers.insert(key, consumer.name.clone())
                    && other != consumer.name
                {
                    return Err(format!("{field} (`{}`) has a key that `{other}` has too", consumer.name));
                }
            }
        }
        Ok(KeyAuth {
            consumers,
            header: config.header,
            query: config.query,
            hide_credentials: config.hide_credentials,
            consumer_header: config.consumer_header,
            challenge: format!("Key realm=\"{}\"", config.realm),
        })
    }
}

/// What a request carries.
enum Credentials {
    Missing,
    /// More than one: whichever was meant, another reader of the request may take the other.
    Ambiguous,
    Key(Vec<u8>),
}

impl KeyAuth {
    fn credentials(&self, request: &Request<'_>) -> Credentials {
        let mut found = match &self.header {
            Some(header) => request.header_values(header),
            None => Vec::new(),
        };
        if let Some(name) = &self.query
            && let Some(query) = request.query()
        {
            found.extend(query::values(&query, name));
        }
        match found.pop() {
            None => Credentials::Missing,
            Some(_) if !found.is_empty() => Credentials::Ambiguous,
            Some(key) => Credentials::Key(key),
        }
    }

    fn hide(&self, request: &mut Request<'_>) -> Result<(), String> {
        if let Some(header) = &self.header {
            request.remove_header(header)?;
        }
        if let Some(name) = &self.query
            && let Some(query) = request.query()
            && let Some(rest) = query::without(&query, name)
        {
            request.set_query(Some(rest.as_str()).filter(|rest| !rest.is_empty()))?;
        }
        Ok(())
    }

    /// Tells the backend and later plugins who it is.
    fn admit(&self, request: &mut Request<'_>, consumer: &str) -> Result<(), String> {
        if self.hide_credentials {
            self.hide(request)?;
        }
        if let Some(header) = &self.consumer_header {
            request.set_header(header, consumer)?;
        }
        attributes::set_str(CONSUMER, consumer)?;
        Ok(())
    }

    fn refuse(&self, message: &str) -> Decision {
        Reply::new(401).header("www-authenticate", &self.challenge).text(message).into()
    }
}

impl OnRequest for KeyAuth {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        let key = match self.credentials(request) {
            Credentials::Missing => return self.refuse("a key is required\n"),
            Credentials::Ambiguous => return self.refuse("more than one key was sent\n"),
            Credentials::Key(key) => key,
        };
        let Some(consumer) = self.consumers.get(&digest(&key)) else {
            return self.refuse("the key is not valid\n");
        };
        match self.admit(request, consumer) {
            Ok(()) => Decision::Continue,
            Err(reason) => {
                // Letting it pass could show the key, or hide who it is.
                log::error(&format!("a request of `{consumer}` was refused: {reason}"));
                Reply::new(500).text("the request could not be prepared\n").into()
            }
        }
    }
}

fn digest(key: &[u8]) -> KeyDigest {
    Sha256::digest(key).into()
}

fn from_hex(text: &str) -> Result<KeyDigest, ()> {
    let digits = text.as_bytes();
    let mut key = KeyDigest::default();
    if digits.len() != 2 * key.len() {
        return Err(());
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16).ok_or(());
        *byte = match pair {
            [high, low] => (digit(*high)? << 4 | digit(*low)?) as u8,
            _ => return Err(()),
        };
    }
    Ok(key)
}

sluice_plugin::export!(KeyAuth: request);

#[cfg(test)]
mod tests;
