//! Calls to the backends that the Plugin names in `capabilities.backends`, from the request's head or body phase and the
//! response's head phase.
//!
//! A call looks as if it blocked; in the gateway it blocks nobody: while the plugin waits, its thread serves others.
//! Nothing is retried and no redirect is followed. The call counts against `limits.deadline`.
//!
//! ```
//! use sluice_plugin::fetch::Fetch;
//! use sluice_plugin::testing::{Exchange, StubAnswer};
//!
//! let _exchange = Exchange::get("/").backend("auth", |asked| match asked.header("authorization") {
//!     Some(b"secret") => StubAnswer::new(200).header("x-user", "chef"),
//!     _ => StubAnswer::new(401),
//! });
//! let answer = Fetch::get("/check").header("authorization", "secret").send("auth").unwrap();
//! assert_eq!((answer.status(), answer.header_str("x-user").as_deref()), (200, Some("chef")));
//! assert_eq!(Fetch::get("/").send("other").unwrap_err().kind, "not-allowed");
//! ```

use crate::backend::outgoing::{IncomingResponse, OutgoingRequest, fetch};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::time::Duration;

/// A request to a backend.
#[derive(Clone, Debug)]
#[must_use]
pub struct Fetch {
    method: String,
    target: String,
    authority: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    timeout: Option<Duration>,
    body_limit: Option<u64>,
}

impl Fetch {
    /// `target` is a path with an optional query, percent-encoded.
    pub fn new(method: &str, target: &str) -> Fetch {
        Fetch {
            method: method.to_owned(),
            target: target.to_owned(),
            authority: None,
            headers: Vec::new(),
            body: Vec::new(),
            timeout: None,
            body_limit: None,
        }
    }

    pub fn get(target: &str) -> Fetch {
        Fetch::new("GET", target)
    }

    pub fn post(target: &str) -> Fetch {
        Fetch::new("POST", target)
    }

    /// The host that the backend is told; by default its own name.
    pub fn authority(mut self, authority: &str) -> Fetch {
        self.authority = Some(authority.to_owned());
        self
    }

    /// Adds a field. One that the gateway refuses is an error of [`Fetch::send`].
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Fetch {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// At most 1 MiB. The gateway sets `content-length`.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Fetch {
        self.body = body.into();
        self
    }

    /// A body of `application/json`. What can't be JSON (a map whose keys are no strings) becomes an empty body.
    pub fn json(self, value: &impl Serialize) -> Fetch {
        self.header("content-type", "application/json").body(serde_json::to_vec(value).unwrap_or_default())
    }

    /// For the whole answer. By default, and at most, what is left of the Plugin's `limits.deadline`.
    pub fn timeout(mut self, timeout: Duration) -> Fetch {
        self.timeout = Some(timeout);
        self
    }

    /// Bytes of the answer's body. By default, and at most, the Plugin's `limits.bodyBuffer`.
    pub fn body_limit(mut self, bytes: u64) -> Fetch {
        self.body_limit = Some(bytes);
        self
    }

    /// Sends it to a backend, by the name that the Plugin gives it, and waits for the whole answer.
    pub fn send(self, backend: &str) -> Result<Answer, FetchError> {
        let request = OutgoingRequest::new(&self.method, &self.target);
        let invalid = |message: String| FetchError { kind: "invalid".to_owned(), message };
        if let Some(authority) = &self.authority {
            request.set_authority(authority).map_err(invalid)?;
        }
        for (name, value) in &self.headers {
            request.append_header(name, value).map_err(invalid)?;
        }
        if !self.body.is_empty() {
            request.set_body(&self.body).map_err(invalid)?;
        }
        if let Some(timeout) = self.timeout {
            request.set_timeout(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        }
        if let Some(limit) = self.body_limit {
            request.set_body_limit(limit);
        }
        match fetch(backend, request) {
            Ok(response) => Ok(Answer { response }),
            Err(failure) => Err(FetchError { kind: failure.kind(), message: failure.message() }),
        }
    }
}

/// What a backend answered, whatever its status. At most a dozen at a time.
#[derive(Debug)]
pub struct Answer {
    response: IncomingResponse,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.response.status()
    }

    /// Whether the status is 200 to 299.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status())
    }

    /// The first value. Names are compared without case.
    pub fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.response.header(name)
    }

    /// The first value, where it is UTF-8.
    pub fn header_str(&self, name: &str) -> Option<String> {
        String::from_utf8(self.response.header(name)?).ok()
    }

    /// Every value, in the order in which they came.
    pub fn header_values(&self, name: &str) -> Vec<Vec<u8>> {
        self.response.header_values(name)
    }

    /// Every field, names in lower case.
    pub fn headers(&self) -> Vec<(String, Vec<u8>)> {
        self.response.headers()
    }

    /// The whole body.
    pub fn body(&self) -> Vec<u8> {
        self.response.body()
    }

    /// The body as JSON; the error says what does not fit.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_slice(&self.response.body()).map_err(|error| format!("the answer does not fit: {error}"))
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchError {
    /// `not-allowed`, `invalid`, `no-endpoint`, `connect`, `timeout`, `protocol`, `too-large` or `overloaded`; others may
    /// come.
    pub kind: String,
    pub message: String,
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

impl std::error::Error for FetchError {}
