//! What a plugin's tests and `sluice plugin host` tell each other: lines of JSON over the host's standard input and output, a
//! message each. Both ends are built from this file, but a project's copy of it may be older than its `sluice`: whatever
//! changes here changes [`VERSION`].
//!
//! ```text
//!   tests                                  sluice plugin host
//!         ◄── Hello ───────────────────────
//!          ── Services ─► ◄── Done ────────
//!          ── Configure ─► ◄── Configured, Refused ──
//!          ── Call ─► ( ◄── Asked ── Answer ─► )* ◄── Called, Failed ──
//!          ── Store ─► ◄── Stored ─────────
//! ```
//!
//! Before an `Answer` there may be `Services` and `Store`: a backend of a test may look into a store. What the host can't do at all
//! it answers with `Error`.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// Of these messages.
pub(crate) const VERSION: u32 = 1;

/// The host's first line.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Hello {
    /// [`VERSION`] of the host.
    pub(crate) sluice_plugin_host: u32,
    /// The version of the gateway.
    pub(crate) sluice: String,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum ToHost {
    Services(Services),
    Configure {
        /// The module's file.
        module: String,
        /// JSON.
        config: String,
    },
    Call(Box<Call>),
    Answer(Answer),
    Store {
        store: String,
        call: StoreCall,
    },
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum FromHost {
    Done,
    /// The number by which calls name the plugin.
    Configured(u64),
    Refused(String),
    Called(Box<Called>),
    /// The plugin gave no decision; with what it logged.
    Failed {
        reason: String,
        log: Vec<String>,
    },
    Asked {
        backend: String,
        request: Asked,
    },
    Stored(Stored),
    Error(String),
}

/// What plugins may reach from now on.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Services {
    /// Another test begins: what stores hold is gone.
    pub(crate) anew: bool,
    /// Nanoseconds since 1970-01-01T00:00:00Z.
    pub(crate) now: u64,
    /// Nanoseconds.
    pub(crate) monotonic: u64,
    pub(crate) secrets: BTreeMap<String, Bytes>,
    /// Each with whether it takes nothing more.
    pub(crate) stores: BTreeMap<String, bool>,
}

/// A phase of an exchange.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Call {
    pub(crate) plugin: u64,
    pub(crate) phase: Phase,
    pub(crate) request: Request,
    pub(crate) response: Option<Response>,
    pub(crate) attributes: BTreeMap<String, Attribute>,
    /// Those that the plugin may call.
    pub(crate) backends: Vec<String>,
    /// It may say where the request goes.
    pub(crate) routing: bool,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Phase {
    Request,
    RequestBody(Bytes),
    RequestPiece(Piece),
    Response,
    ResponseBody(Bytes),
    ResponsePiece(Piece),
    ResponseTrailers(Fields),
    Log(Summary),
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Piece {
    /// The body that it is of, by the number of the answer to its first piece; none: it is the first.
    pub(crate) body: Option<u64>,
    pub(crate) content: Bytes,
    pub(crate) last: bool,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Summary {
    /// Nanoseconds.
    pub(crate) duration: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) scheme: String,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: Fields,
    pub(crate) properties: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Fields,
}

/// What came of a call.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Called {
    pub(crate) decision: Decision,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: Fields,
    pub(crate) response: Option<Response>,
    pub(crate) attributes: BTreeMap<String, Attribute>,
    /// A body that was replaced, or what goes on of a piece.
    pub(crate) content: Option<Bytes>,
    pub(crate) trailers: Option<Fields>,
    /// The backend that the request is to go to, and whether its rule is to be looked for anew.
    pub(crate) destination: Option<String>,
    pub(crate) finds_route: bool,
    /// The body that the next piece is of.
    pub(crate) body: Option<u64>,
    pub(crate) metrics: Vec<Metric>,
    /// `info tenant acme`.
    pub(crate) log: Vec<String>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Decision {
    Continue,
    Respond { status: u16, headers: Fields, body: Bytes },
    ReadBody { limit: u64, pass_over_limit: bool },
    Abort,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Attribute {
    String(String),
    Integer(i64),
    Boolean(bool),
}

/// What a plugin told of a metric, and was taken.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) value: MetricValue,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum MetricValue {
    Added(u64),
    /// The bits of a floating-point number, as JSON's numbers need not come back the same.
    Gauge(u64),
    Observation(u64),
}

/// A request to a backend.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) authority: Option<String>,
    pub(crate) headers: Fields,
    pub(crate) body: Bytes,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) body_limit: Option<u64>,
}

/// What a backend answers.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Answer {
    Response { status: u16, headers: Fields, body: Bytes },
    Failure { kind: String, message: String },
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum StoreCall {
    Open,
    Get { key: String },
    Set { key: String, value: Bytes, ttl_ms: Option<u64> },
    CompareAndSwap { key: String, expected: Option<Bytes>, value: Bytes, ttl_ms: Option<u64> },
    Remove { key: String },
    Increment { key: String, by: i64, ttl_ms: Option<u64> },
    Counter { key: String },
    TakeTokens { key: String, capacity: u64, refill: u64, interval_ms: u64, cost: u64 },
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Stored {
    Nothing,
    Value(Option<Bytes>),
    Flag(bool),
    Number(i64),
    Tokens(bool, u64, u64),
    Refused(String),
}

/// In the order of the message, names in lower case.
pub(crate) type Fields = Vec<(String, Bytes)>;

/// Bytes, as the text whose characters have their numbers (ISO 8859-1): most of what HTTP carries reads as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = self.0.iter().map(|byte| char::from(*byte)).collect();
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = text.chars().map(|character| u8::try_from(u32::from(character)));
        bytes.collect::<Result<_, _>>().map(Bytes).map_err(|_| D::Error::custom("a character that stands for no byte"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_come_back_and_no_other_character_is_one() {
        let bytes = Bytes((0..=255).collect());
        let text = serde_json::to_string(&bytes).unwrap();
        assert!(!text.contains('\n'), "a message is a line");
        assert_eq!(serde_json::from_str::<Bytes>(&text).unwrap(), bytes);
        assert!(serde_json::from_str::<Bytes>("\"\u{100}\"").is_err());
    }
}
