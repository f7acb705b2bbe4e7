//! Plays the gateway in native unit tests: the same methods as the generated handles have, over plain data.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

type Fields = RefCell<Vec<(String, Vec<u8>)>>;

/// The methods that every set of header fields has.
macro_rules! fields {
    () => {
        pub fn header(&self, name: &str) -> Option<Vec<u8>> {
            self.header_values(name).into_iter().next()
        }

        pub fn header_values(&self, name: &str) -> Vec<Vec<u8>> {
            let name = name.to_ascii_lowercase();
            self.fields.borrow().iter().filter(|(n, _)| *n == name).map(|(_, value)| value.clone()).collect()
        }

        pub fn headers(&self) -> Vec<(String, Vec<u8>)> {
            self.fields.borrow().clone()
        }

        pub fn set_header(&self, name: &str, value: &[u8]) -> Result<(), String> {
            self.check(name, value)?;
            self.remove_header(name)?;
            self.append_header(name, value)
        }

        pub fn append_header(&self, name: &str, value: &[u8]) -> Result<(), String> {
            self.check(name, value)?;
            self.fields.borrow_mut().push((name.to_ascii_lowercase(), value.to_vec()));
            Ok(())
        }

        pub fn remove_header(&self, name: &str) -> Result<(), String> {
            self.check(name, b"")?;
            let name = name.to_ascii_lowercase();
            self.fields.borrow_mut().retain(|(n, _)| *n != name);
            Ok(())
        }

        fn check(&self, name: &str, value: &[u8]) -> Result<(), String> {
            if !self.open.get() {
                return Err("it can only be read in this phase".to_owned());
            }
            check_field(name, value)
        }
    };
}

/// As the gateway checks, in short.
fn check_field(name: &str, value: &[u8]) -> Result<(), String> {
    const FRAMING: [&str; 9] = [
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(format!("`{name}` is not a header name"));
    }
    if FRAMING.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(format!("`{name}` frames the message or belongs to the connection"));
    }
    if value.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 127) {
        return Err(format!("the value of `{name}` holds bytes that no header value may hold"));
    }
    Ok(())
}

#[derive(Debug, Default)]
pub struct Request {
    pub(crate) method: String,
    pub(crate) scheme: String,
    pub(crate) authority: String,
    pub(crate) path: RefCell<String>,
    pub(crate) query: RefCell<Option<String>>,
    pub(crate) properties: BTreeMap<String, String>,
    pub(crate) fields: Fields,
    pub(crate) open: Cell<bool>,
}

impl Request {
    pub fn method(&self) -> String {
        self.method.clone()
    }

    pub fn scheme(&self) -> String {
        self.scheme.clone()
    }

    pub fn authority(&self) -> String {
        self.authority.clone()
    }

    pub fn path(&self) -> String {
        self.path.borrow().clone()
    }

    pub fn query(&self) -> Option<String> {
        self.query.borrow().clone()
    }

    pub fn property(&self, name: &str) -> Option<String> {
        self.properties.get(name).cloned()
    }

    pub fn set_path(&self, path: &str) -> Result<(), String> {
        if !self.open.get()
            || !path.starts_with('/')
            || path.bytes().any(|b| !b.is_ascii_graphic() || b"?#".contains(&b))
        {
            return Err("a path begins with a slash and is percent-encoded".to_owned());
        }
        path.clone_into(&mut self.path.borrow_mut());
        Ok(())
    }

    pub fn set_query(&self, query: Option<&str>) -> Result<(), String> {
        if !self.open.get() || query.is_some_and(|query| query.bytes().any(|b| !b.is_ascii_graphic() || b == b'#')) {
            return Err("a query is percent-encoded".to_owned());
        }
        *self.query.borrow_mut() = query.map(str::to_owned);
        Ok(())
    }

    fields!();
}

#[derive(Debug, Default)]
pub struct Response {
    pub(crate) status: Cell<u16>,
    pub(crate) fields: Fields,
    pub(crate) open: Cell<bool>,
}

impl Response {
    pub fn status(&self) -> u16 {
        self.status.get()
    }

    pub fn set_status(&self, status: u16) -> Result<(), String> {
        if !self.open.get() || !(200..600).contains(&status) {
            return Err(format!("{status} is not a status of a response: 200 to 599"));
        }
        self.status.set(status);
        Ok(())
    }

    fields!();
}

#[derive(Debug, Default)]
pub struct Body {
    pub(crate) content: RefCell<Vec<u8>>,
}

impl Body {
    pub fn size(&self) -> u64 {
        self.content.borrow().len() as u64
    }

    pub fn read(&self, offset: u64, length: u64) -> Vec<u8> {
        let content = self.content.borrow();
        let start = (offset as usize).min(content.len());
        let end = start.saturating_add(length as usize).min(content.len());
        content[start..end].to_vec()
    }

    pub fn replace(&self, content: &[u8]) -> Result<(), String> {
        content.clone_into(&mut self.content.borrow_mut());
        Ok(())
    }
}

#[derive(Debug, Default)]
pub struct Piece {
    pub(crate) content: RefCell<Vec<u8>>,
    pub(crate) first: bool,
    pub(crate) last: bool,
}

impl Piece {
    pub fn size(&self) -> u64 {
        self.content.borrow().len() as u64
    }

    pub fn read(&self) -> Vec<u8> {
        self.content.borrow().clone()
    }

    pub fn is_first(&self) -> bool {
        self.first
    }

    pub fn is_last(&self) -> bool {
        self.last
    }

    pub fn replace(&self, content: &[u8]) -> Result<(), String> {
        content.clone_into(&mut self.content.borrow_mut());
        Ok(())
    }
}

#[derive(Debug, Default)]
pub struct Trailers {
    pub(crate) fields: Fields,
}

impl Trailers {
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.get_all(name).into_iter().next()
    }

    pub fn get_all(&self, name: &str) -> Vec<Vec<u8>> {
        let name = name.to_ascii_lowercase();
        self.fields.borrow().iter().filter(|(n, _)| *n == name).map(|(_, value)| value.clone()).collect()
    }

    pub fn entries(&self) -> Vec<(String, Vec<u8>)> {
        self.fields.borrow().clone()
    }

    pub fn set(&self, name: &str, value: &[u8]) -> Result<(), String> {
        self.remove(name)?;
        self.append(name, value)
    }

    pub fn append(&self, name: &str, value: &[u8]) -> Result<(), String> {
        check_field(name, value)?;
        self.fields.borrow_mut().push((name.to_ascii_lowercase(), value.to_vec()));
        Ok(())
    }

    pub fn remove(&self, name: &str) -> Result<(), String> {
        check_field(name, b"")?;
        let name = name.to_ascii_lowercase();
        self.fields.borrow_mut().retain(|(n, _)| *n != name);
        Ok(())
    }
}

#[derive(Debug, Default)]
pub struct Summary {
    pub(crate) duration: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) reason: Option<String>,
}

impl Summary {
    pub fn duration(&self) -> u64 {
        self.duration
    }

    pub fn bytes_received(&self) -> u64 {
        self.bytes_received
    }

    pub fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }

    pub fn reason(&self) -> Option<String> {
        self.reason.clone()
    }
}

/// The attributes of the exchange under test, one a thread as tests are.
pub(crate) mod attributes {
    use super::{BTreeMap, RefCell};
    use crate::testing::protocol::Attribute as Value;

    thread_local! {
        static ATTRIBUTES: RefCell<BTreeMap<String, Value>> = const { RefCell::new(BTreeMap::new()) };
    }

    fn get(name: &str) -> Option<Value> {
        ATTRIBUTES.with_borrow(|attributes| attributes.get(name).cloned())
    }

    fn set(name: &str, value: Value) -> Result<(), String> {
        if name.is_empty() || name.len() > 128 {
            return Err("an attribute's name has 1 to 128 bytes".to_owned());
        }
        ATTRIBUTES.with_borrow_mut(|attributes| attributes.insert(name.to_owned(), value));
        Ok(())
    }

    pub(crate) fn get_string(name: &str) -> Option<String> {
        match get(name) {
            Some(Value::String(value)) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn set_string(name: &str, value: &str) -> Result<(), String> {
        set(name, Value::String(value.to_owned()))
    }

    pub(crate) fn get_integer(name: &str) -> Option<i64> {
        match get(name) {
            Some(Value::Integer(value)) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn set_integer(name: &str, value: i64) -> Result<(), String> {
        set(name, Value::Integer(value))
    }

    pub(crate) fn get_boolean(name: &str) -> Option<bool> {
        match get(name) {
            Some(Value::Boolean(value)) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn set_boolean(name: &str, value: bool) -> Result<(), String> {
        set(name, Value::Boolean(value))
    }

    pub(crate) fn remove(name: &str) {
        ATTRIBUTES.with_borrow_mut(|attributes| attributes.remove(name));
    }

    pub(crate) fn clear() {
        ATTRIBUTES.with_borrow_mut(BTreeMap::clear);
    }

    pub(crate) fn all() -> BTreeMap<String, Value> {
        ATTRIBUTES.with_borrow(BTreeMap::clone)
    }

    pub(crate) fn replace(all: BTreeMap<String, Value>) {
        ATTRIBUTES.set(all);
    }
}

#[path = "native_outgoing.rs"]
pub(crate) mod outgoing;
#[path = "native_routing.rs"]
pub(crate) mod routing;
#[path = "native_services.rs"]
pub(crate) mod services;
pub(crate) use crate::testing::stores as store;
pub(crate) use services::{clock, metrics, random, secrets};

/// Shown where a test fails.
pub(crate) mod logging {
    pub(crate) fn error(message: &str) {
        eprintln!("error: {message}");
    }

    pub(crate) fn warn(message: &str) {
        eprintln!("warn: {message}");
    }

    pub(crate) fn info(message: &str) {
        eprintln!("info: {message}");
    }

    pub(crate) fn debug(message: &str) {
        eprintln!("debug: {message}");
    }
}
