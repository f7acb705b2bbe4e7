//! What is said about a request that does not fit: an answer (RFC 9457), attributes for the access log, and a line for the
//! gateway's own log. None of them has a value of the request; names that a client chose are cut.

use crate::schema::Found;
use serde_json::{Value, json};
use sluice_plugin::Reply;

/// Things that one answer tells.
pub(crate) const ERRORS: usize = 10;

/// Bytes of the attribute and the line.
const SUMMARY: usize = 1_000;

/// What it is that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Path,
    Method,
    Parameters,
    /// A body that is there and should not be, or the other way round.
    Body,
    MediaType,
    TooLarge,
    Syntax,
    Schema,
}

impl Kind {
    /// What can't be read is 400; what can, and is not what it should be, is 422 (RFC 9110, section 15.5.21).
    pub(crate) fn status(self) -> u16 {
        match self {
            Kind::Path => 404,
            Kind::Method => 405,
            Kind::Parameters | Kind::Body | Kind::Syntax => 400,
            Kind::MediaType => 415,
            Kind::TooLarge => 413,
            Kind::Schema => 422,
        }
    }

    /// As attribute, and as label of the metric.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Path => "path",
            Kind::Method => "method",
            Kind::Parameters => "parameters",
            Kind::Body => "body",
            Kind::MediaType => "media_type",
            Kind::TooLarge => "too_large",
            Kind::Syntax => "syntax",
            Kind::Schema => "schema",
        }
    }

    /// That of the status (RFC 9457, section 4.2.1).
    fn title(self) -> &'static str {
        match self {
            Kind::Path => "Not Found",
            Kind::Method => "Method Not Allowed",
            Kind::Parameters | Kind::Body | Kind::Syntax => "Bad Request",
            Kind::MediaType => "Unsupported Media Type",
            Kind::TooLarge => "Content Too Large",
            Kind::Schema => "Unprocessable Content",
        }
    }

    fn detail(self) -> &'static str {
        match self {
            Kind::Path => "there is nothing at this path",
            Kind::Method => "this path does not have the method",
            Kind::Parameters => "parameters are missing or not valid",
            Kind::Body => "the body is missing, or not expected",
            Kind::MediaType => "the type of the body is not one that is read here",
            Kind::TooLarge => "the body is too large",
            Kind::Syntax => "the body can't be read",
            Kind::Schema => "the body is not what it should be",
        }
    }
}

/// One thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// `path`, `query`, `header`, `cookie` or `body`.
    place: &'static str,
    /// Of a parameter; of a body, where in it.
    name: Option<String>,
    message: String,
}

impl Fault {
    pub(crate) fn of_parameter(place: &'static str, name: &str, message: impl Into<String>) -> Fault {
        Fault { place, name: Some(name.to_owned()), message: message.into() }
    }

    pub(crate) fn of_body(message: impl Into<String>) -> Fault {
        Fault { place: "body", name: None, message: message.into() }
    }

    fn json(&self) -> Value {
        let mut fault = json!({ "in": self.place, "message": self.message });
        if let Some(name) = &self.name {
            let key = if self.place == "body" { "pointer" } else { "name" };
            fault[key] = name.as_str().into();
        }
        fault
    }
}

impl From<Found> for Fault {
    fn from(found: Found) -> Fault {
        Fault { place: "body", name: Some(found.pointer), message: found.message }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    faults: Vec<Fault>,
    /// A header of the answer: what would be right.
    hint: Option<(&'static str, String)>,
}

impl Problem {
    pub(crate) fn new(kind: Kind, mut faults: Vec<Fault>) -> Problem {
        faults.truncate(ERRORS);
        Problem { kind, faults, hint: None }
    }

    pub(crate) fn hint(mut self, header: &'static str, value: String) -> Problem {
        self.hint = Some((header, value));
        self
    }

    pub(crate) fn reply(&self) -> Reply {
        let Problem { kind, faults, hint } = self;
        let mut body = json!({ "title": kind.title(), "status": kind.status(), "detail": kind.detail() });
        if !faults.is_empty() {
            body["errors"] = faults.iter().map(Fault::json).collect();
        }
        let reply = Reply::new(kind.status()).header("content-type", "application/problem+json").body(body.to_string());
        match hint {
            Some((name, value)) => reply.header(name, value),
            None => reply,
        }
    }

    /// In one line.
    pub(crate) fn summary(&self) -> String {
        let faults = self.faults.iter().map(|fault| match &fault.name {
            Some(name) if !name.is_empty() => format!("{} {name}: {}", fault.place, fault.message),
            _ => format!("{}: {}", fault.place, fault.message),
        });
        let mut text = faults.collect::<Vec<_>>().join("; ");
        if text.is_empty() {
            text.push_str(self.kind.detail());
        }
        text.truncate(crate::schema::cut(&text, SUMMARY).len());
        // Names may hold anything; a line is one.
        text.replace(char::is_control, "?")
    }
}
