//! Backends of a native unit test: closures, one thread a test.

use super::check_field;
use crate::testing::{Asked, StubAnswer};
use std::cell::RefCell;
use std::collections::BTreeMap;

type Backend = Box<dyn Fn(&Asked) -> StubAnswer>;

thread_local! {
    static BACKENDS: RefCell<BTreeMap<String, Backend>> = const { RefCell::new(BTreeMap::new()) };
}

pub(crate) fn clear() {
    BACKENDS.with_borrow_mut(BTreeMap::clear);
}

pub(crate) fn backend(name: &str, answer: Backend) {
    BACKENDS.with_borrow_mut(|backends| backends.insert(name.to_owned(), answer));
}

pub(crate) fn has(name: &str) -> bool {
    BACKENDS.with_borrow(|backends| backends.contains_key(name))
}

/// Of all that the test has given.
pub(crate) fn names() -> Vec<String> {
    BACKENDS.with_borrow(|backends| backends.keys().cloned().collect())
}

/// None: the test has given no such backend.
pub(crate) fn answer(backend: &str, asked: &Asked) -> Option<StubAnswer> {
    BACKENDS.with_borrow(|backends| backends.get(backend).map(|answer| answer(asked)))
}

pub(crate) struct OutgoingRequest(RefCell<Asked>);

impl OutgoingRequest {
    pub(crate) fn new(method: &str, target: &str) -> OutgoingRequest {
        let asked = Asked { method: method.to_owned(), target: target.to_owned(), ..Asked::default() };
        OutgoingRequest(RefCell::new(asked))
    }

    pub(crate) fn set_authority(&self, authority: &str) -> Result<(), String> {
        self.0.borrow_mut().authority = Some(authority.to_owned());
        Ok(())
    }

    pub(crate) fn append_header(&self, name: &str, value: &[u8]) -> Result<(), String> {
        check_field(name, value)?;
        self.0.borrow_mut().headers.push((name.to_ascii_lowercase(), value.to_vec()));
        Ok(())
    }

    pub(crate) fn set_body(&self, body: &[u8]) -> Result<(), String> {
        if body.len() > 1 << 20 {
            return Err("a body that a plugin sets here has at most 1048576 bytes".to_owned());
        }
        self.0.borrow_mut().body = body.to_vec();
        Ok(())
    }

    pub(crate) fn set_timeout(&self, milliseconds: u64) {
        self.0.borrow_mut().timeout_ms = Some(milliseconds);
    }

    pub(crate) fn set_body_limit(&self, bytes: u64) {
        self.0.borrow_mut().body_limit = Some(bytes);
    }
}

#[derive(Debug)]
pub(crate) struct IncomingResponse(StubAnswer);

impl IncomingResponse {
    pub(crate) fn status(&self) -> u16 {
        self.0.status
    }

    pub(crate) fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.header_values(name).into_iter().next()
    }

    pub(crate) fn header_values(&self, name: &str) -> Vec<Vec<u8>> {
        let name = name.to_ascii_lowercase();
        self.0.headers.iter().filter(|(n, _)| *n == name).map(|(_, value)| value.clone()).collect()
    }

    pub(crate) fn headers(&self) -> Vec<(String, Vec<u8>)> {
        self.0.headers.clone()
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        self.0.body.clone()
    }
}

pub(crate) struct Failure {
    kind: &'static str,
    message: String,
}

impl Failure {
    pub(crate) fn kind(&self) -> String {
        self.kind.to_owned()
    }

    pub(crate) fn message(&self) -> String {
        self.message.clone()
    }
}

/// As the gateway, in short: what no test gave is not allowed, and a body above the limit is too large.
pub(crate) fn fetch(backend: &str, request: OutgoingRequest) -> Result<IncomingResponse, Failure> {
    let asked = request.0.into_inner();
    if !asked.target.starts_with('/') {
        return Err(Failure { kind: "invalid", message: format!("`{}` is not a path", asked.target) });
    }
    let Some(answer) = answer(backend, &asked) else {
        let message = format!("the Plugin's capabilities.backends has no `{backend}`");
        return Err(Failure { kind: "not-allowed", message });
    };
    if let Some((kind, message)) = answer.failure {
        return Err(Failure { kind, message });
    }
    match asked.body_limit {
        Some(limit) if answer.body.len() as u64 > limit => {
            Err(Failure { kind: "too-large", message: format!("the answer's body has more than {limit} bytes") })
        }
        _ => Ok(IncomingResponse(answer)),
    }
}
