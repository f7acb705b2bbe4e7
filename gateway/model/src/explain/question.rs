//! The request that is asked about.

use crate::print::display;
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Serialize, Serializer};
use std::fmt;
use thiserror::Error;

/// A request as a client would send it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Question {
    #[serde(serialize_with = "display")]
    pub method: Method,
    /// `https`.
    pub tls: bool,
    /// Lower case, without port and final dot: the Host field's where one is given, else the URL's.
    pub host: String,
    /// The name in the TLS hello: the URL's host, where it is a name.
    pub sni: Option<String>,
    /// `None`: the scheme's own, or the first that speaks it.
    pub port: Option<u16>,
    /// As sent, not normalised.
    pub path: String,
    /// Without `?`.
    pub query: String,
    #[serde(serialize_with = "names")]
    pub headers: HeaderMap,
}

/// Values may be secrets.
fn names<S: Serializer>(headers: &HeaderMap, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(headers.keys().map(HeaderName::as_str))
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuestionError {
    #[error("URL `{0}` names no host; write it as `http://example.com/path`")]
    NoHost(String),
    #[error("scheme `{0}` is not served; use `http` or `https`")]
    Scheme(String),
    #[error("port `{0}` is not a number from 1 to 65535")]
    Port(String),
    #[error("`{0}` is not a method; methods are tokens such as `GET`")]
    Method(String),
    #[error("`{0}` is not a header field; write it as `name: value`")]
    Header(String),
}

impl Question {
    /// Reads what people type: a method, a URL (without a scheme: `http`), and fields as `name: value`. A Host field
    /// replaces the URL's host, but not the name in the TLS hello. A fragment is dropped, as clients do.
    ///
    /// # Errors
    /// [`QuestionError`], each with the way out.
    pub fn parse<'h>(
        method: &str,
        url: &str,
        headers: impl IntoIterator<Item = &'h str>,
    ) -> Result<Self, QuestionError> {
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| QuestionError::Method(method.to_owned()))?;
        let whole = url.split('#').next().unwrap_or_default();
        let (scheme, rest) = whole.split_once("://").unwrap_or(("http", whole));
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(QuestionError::Scheme(scheme.to_owned())),
        };
        let (authority, target) = rest.split_at(rest.find(['/', '?', '\\']).unwrap_or(rest.len()));
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (name, port) = split_authority(authority)?;
        if name.is_empty() {
            return Err(QuestionError::NoHost(url.to_owned()));
        }
        let is_address = name.starts_with('[') || name.parse::<std::net::Ipv4Addr>().is_ok();
        let mut question = Question {
            method,
            tls,
            sni: (tls && !is_address).then(|| name.clone()),
            host: name,
            port,
            path: if path.is_empty() { "/".to_owned() } else { path.to_owned() },
            query: query.to_owned(),
            headers: HeaderMap::new(),
        };
        for field in headers {
            question.add_header(field)?;
        }
        if !question.headers.contains_key(HOST) {
            let value = HeaderValue::from_str(authority).map_err(|_| QuestionError::NoHost(url.to_owned()))?;
            question.headers.insert(HOST, value);
        }
        Ok(question)
    }

    fn add_header(&mut self, field: &str) -> Result<(), QuestionError> {
        let wrong = || QuestionError::Header(field.to_owned());
        let (name, value) = field.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
        if name == HOST {
            let (host, _) = split_authority(value.to_str().map_err(|_| wrong())?)?;
            self.host = host;
            self.headers.insert(name, value);
        } else {
            self.headers.append(name, value);
        }
        Ok(())
    }
}

/// Host (lower case, no final dot) and port.
fn split_authority(authority: &str) -> Result<(String, Option<u16>), QuestionError> {
    let end_of_address = authority.rfind(']').map_or(0, |at| at + 1);
    let (name, port) = match authority[end_of_address..].split_once(':') {
        Some((rest, port)) => (&authority[..end_of_address + rest.len()], Some(port)),
        None => (authority, None),
    };
    let port = match port {
        None | Some("") => None,
        Some(digits) => {
            let number = digits.parse().ok().filter(|port| *port != 0);
            Some(number.ok_or_else(|| QuestionError::Port(digits.to_owned()))?)
        }
    };
    Ok((name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase(), port))
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{} {scheme}://{}", self.method, self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.path)?;
        if !self.query.is_empty() {
            write!(f, "?{}", self.query)?;
        }
        match &self.sni {
            Some(sni) if *sni != self.host => write!(f, " (TLS to {sni})"),
            _ => Ok(()),
        }
    }
}
