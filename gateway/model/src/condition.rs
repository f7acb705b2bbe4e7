//! `when`: whether a plugin takes part in an exchange, as an expression over the request (CEL, <https://cel.dev>).
//!
//! Small and safe: no comprehension and no regular expression, so that what an evaluation costs is bounded by the text, of
//! at most 1,024 bytes. Nothing of the request is copied for it.

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::common::traits::{Container, Indexer};
use cel::common::types::{CelBool, CelString, MAP_TYPE, Type};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env, ExecutionError, Program, Value};
use serde::{Serialize, Serializer};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

/// Bytes of an expression.
const MAX_LENGTH: usize = 1_024;

/// The fields of `request`.
const FIELDS: [&str; 7] = ["method", "scheme", "host", "path", "query", "headers", "protocol"];
/// The fields of `source`.
const SOURCE: [&str; 1] = ["address"];
/// What an expression may call: operators, and functions whose cost is that of a look at their arguments.
const FUNCTIONS: [&str; 11] =
    ["contains", "startsWith", "endsWith", "size", "string", "int", "uint", "double", "bool", "has", "type"];

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// What an expression may look at.
pub trait Facts: Send + Sync {
    /// `GET`
    fn method(&self) -> &str;
    /// `http` or `https`
    fn scheme(&self) -> &str;
    /// The host without its port, in lower case.
    fn host(&self) -> &str;
    /// The path in normal form, percent-encoded.
    fn path(&self) -> &str;
    /// Without its question mark; empty where there is none.
    fn query(&self) -> &str;
    /// `HTTP/1.1`
    fn protocol(&self) -> &str;
    /// The first value of a header, by its name in lower case; none too where it is not UTF-8.
    fn header(&self, name: &str) -> Option<&str>;
    fn client(&self) -> IpAddr;
}

/// A condition, ready to be asked.
#[derive(Clone)]
pub struct Condition {
    text: Arc<str>,
    program: Arc<Program>,
}

impl Condition {
    /// Reads an expression.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it: its syntax, a name that there is not, a function that may not be used, or a
    /// result that is neither true nor false.
    pub fn parse(text: &str) -> Result<Condition, String> {
        if text.len() > MAX_LENGTH {
            return Err(format!("it has {} bytes; at most {MAX_LENGTH} are allowed", text.len()));
        }
        let program = ENV.compile(text).map_err(|errors| one_line(&errors.to_string()))?;
        check(program.expression())?;
        let condition = Condition { text: text.into(), program: Arc::new(program) };
        match condition.evaluate(&Sample) {
            Ok(None) => Err("its result is neither true nor false".to_owned()),
            // What a request lacks may be an error for the sample, and for no other.
            Ok(Some(_)) | Err(_) => Ok(condition),
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the plugin takes part. What can't be evaluated for this request (a number that is none) holds: a plugin that
    /// guards something is not left out for a request that nobody thought of.
    pub fn holds(&self, facts: &dyn Facts) -> bool {
        self.evaluate(facts).ok().flatten().unwrap_or(true)
    }

    fn evaluate(&self, facts: &dyn Facts) -> Result<Option<bool>, ExecutionError> {
        let resolver = Variables { request: Request(facts), source: Source(facts) };
        let mut context = Context::with_env(ENV.clone());
        context.set_variable_resolver(&resolver);
        let value = Value::resolve_val(self.program.expression(), &context)?;
        Ok(value.downcast_ref::<CelBool>().map(|value| *value.inner()))
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Condition) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

fn one_line(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ")
}

/// Holds each name to what there is.
fn check(expression: &IdedExpr) -> Result<(), String> {
    match &expression.expr {
        Expr::Unspecified | Expr::Literal(_) => Ok(()),
        Expr::Ident(name) if matches!(name.as_str(), "request" | "source") => Ok(()),
        Expr::Ident(name) => Err(format!("there is no `{name}`: `request` and `source` are there")),
        Expr::Select(select) => {
            if let Expr::Ident(name) = &select.operand.expr {
                let fields: &[&str] = match name.as_str() {
                    "request" => &FIELDS,
                    "source" => &SOURCE,
                    _ => return check(&select.operand),
                };
                if !fields.contains(&select.field.as_str()) {
                    return Err(format!("`{name}` has no `{}`: {} are there", select.field, fields.join(", ")));
                }
            }
            check(&select.operand)
        }
        Expr::Call(call) => {
            // Operators are spelled with characters that no name has.
            let is_operator = !call.func_name.bytes().all(|b| b.is_ascii_alphanumeric()) || call.func_name == "in";
            if !is_operator && !FUNCTIONS.contains(&call.func_name.as_str()) {
                return Err(format!("`{}` may not be called: {} may", call.func_name, FUNCTIONS.join(", ")));
            }
            call.target.iter().map(|target| &**target).chain(&call.args).try_for_each(check)
        }
        Expr::List(list) => list.elements.iter().try_for_each(check),
        Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => check(&entry.key).and_then(|()| check(&entry.value)),
            EntryExpr::StructField(field) => check(&field.value),
        }),
        Expr::Comprehension(_) => Err("`all`, `exists`, `map` and `filter` may not be used".to_owned()),
        Expr::Struct(_) => Err("messages may not be made".to_owned()),
    }
}

struct Variables<'f> {
    request: Request<'f>,
    source: Source<'f>,
}

impl VariableResolver for Variables<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        match variable {
            "request" => Some(CowVal::Borrowed(&self.request)),
            "source" => Some(CowVal::Borrowed(&self.source)),
            _ => None,
        }
    }
}

/// What a value that is looked into answers to its key.
macro_rules! indexed {
    ($name:ty) => {
        impl Val for $name {
            fn get_type(&self) -> &Type {
                &MAP_TYPE
            }

            fn cel_type() -> &'static Type {
                &MAP_TYPE
            }

            fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
            where
                Self: 'v,
            {
                Some(self)
            }

            fn as_container(&self) -> Option<&dyn Container> {
                Some(self)
            }

            fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
            where
                Self: 'v,
            {
                Box::new(self.clone())
            }
        }
    };
}

#[derive(Clone)]
struct Request<'f>(&'f dyn Facts);

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("request")
    }
}

indexed!(Request<'_>);

fn key(index: &dyn Val) -> Result<&str, ExecutionError> {
    index.downcast_ref::<CelString<'_>>().map(CelString::inner).ok_or_else(|| ExecutionError::UnexpectedType {
        got: index.get_type().name().to_owned(),
        want: "string".to_owned(),
    })
}

impl<'f> Request<'f> {
    fn field(&self, name: &str) -> Option<Box<dyn Val + 'f>> {
        let text = match name {
            "method" => self.0.method(),
            "scheme" => self.0.scheme(),
            "host" => self.0.host(),
            "path" => self.0.path(),
            "query" => self.0.query(),
            "protocol" => self.0.protocol(),
            "headers" => return Some(Box::new(Headers(self.0))),
            _ => return None,
        };
        Some(Box::new(CelString::from(text)))
    }
}

impl Indexer for Request<'_> {
    fn get<'b, 'v>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let name = key(index)?;
        self.field(name).map(CowVal::Owned).ok_or_else(|| ExecutionError::no_such_key(name))
    }

    fn steal<'v>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(index).map(CowVal::into_owned)
    }
}

impl Container for Request<'_> {
    fn contains(&self, value: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(FIELDS.contains(&key(value)?))
    }
}

/// `request.headers`: of a header that is not there the value is empty; `'x-a' in request.headers` tells the two apart.
#[derive(Clone)]
struct Headers<'f>(&'f dyn Facts);

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("request.headers")
    }
}

indexed!(Headers<'_>);

impl<'f> Headers<'f> {
    fn value(&self, name: &str) -> Option<&'f str> {
        if name.bytes().any(|b| b.is_ascii_uppercase()) {
            self.0.header(&name.to_ascii_lowercase())
        } else {
            self.0.header(name)
        }
    }
}

impl Indexer for Headers<'_> {
    fn get<'b, 'v>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let value = self.value(key(index)?).unwrap_or_default();
        Ok(CowVal::owned(CelString::from(value)))
    }

    fn steal<'v>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(index).map(CowVal::into_owned)
    }
}

impl Container for Headers<'_> {
    fn contains(&self, value: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(self.value(key(value)?).is_some())
    }
}

/// `source`: the text of the address is made only where it is asked for.
#[derive(Clone)]
struct Source<'f>(&'f dyn Facts);

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("source")
    }
}

indexed!(Source<'_>);

impl Indexer for Source<'_> {
    fn get<'b, 'v>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        match key(index)? {
            "address" => Ok(CowVal::owned(CelString::from(self.0.client().to_string()))),
            name => Err(ExecutionError::no_such_key(name)),
        }
    }

    fn steal<'v>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(index).map(CowVal::into_owned)
    }
}

impl Container for Source<'_> {
    fn contains(&self, value: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(SOURCE.contains(&key(value)?))
    }
}

/// A request to try a new condition on.
struct Sample;

impl Facts for Sample {
    fn method(&self) -> &'static str {
        "GET"
    }

    fn scheme(&self) -> &'static str {
        "https"
    }

    fn host(&self) -> &'static str {
        "example.com"
    }

    fn path(&self) -> &'static str {
        "/"
    }

    fn query(&self) -> &'static str {
        ""
    }

    fn protocol(&self) -> &'static str {
        "HTTP/1.1"
    }

    fn header(&self, _: &str) -> Option<&str> {
        None
    }

    fn client(&self) -> IpAddr {
        IpAddr::from([192, 0, 2, 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Order;

    impl Facts for Order {
        fn method(&self) -> &'static str {
            "POST"
        }

        fn scheme(&self) -> &'static str {
            "https"
        }

        fn host(&self) -> &'static str {
            "shop.example"
        }

        fn path(&self) -> &'static str {
            "/order/pizza"
        }

        fn query(&self) -> &'static str {
            "size=large"
        }

        fn protocol(&self) -> &'static str {
            "HTTP/2"
        }

        fn header(&self, name: &str) -> Option<&str> {
            match name {
                "x-tenant" => Some("acme"),
                "x-count" => Some("7"),
                _ => None,
            }
        }

        fn client(&self) -> IpAddr {
            IpAddr::from([203, 0, 113, 7])
        }
    }

    fn holds(text: &str) -> bool {
        Condition::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).holds(&Order)
    }

    #[test]
    fn a_condition_looks_at_the_request_and_its_client() {
        for yes in [
            "true",
            "request.method == 'POST'",
            "request.method in ['POST', 'PUT']",
            "request.path.startsWith('/order/') && request.scheme == \"https\"",
            "request.path.endsWith('pizza') || request.path.contains('none')",
            "request.host == 'shop.example' && request.query == 'size=large' && request.protocol == 'HTTP/2'",
            "request.headers['x-tenant'] == 'acme'",
            "request.headers['X-Tenant'] == 'acme'",
            "'x-tenant' in request.headers && !('x-none' in request.headers)",
            "request.headers['x-none'] == ''",
            "int(request.headers['x-count']) > 6",
            "size(request.path) == 12",
            "source.address == '203.0.113.7'",
            "request.method == 'GET' ? false : true",
        ] {
            assert!(holds(yes), "{yes}");
        }
        for no in ["false", "request.method == 'GET'", "request.path == '/'", "source.address.startsWith('10.')"] {
            assert!(!holds(no), "{no}");
        }
    }

    #[test]
    fn what_cannot_be_evaluated_for_a_request_holds() {
        assert!(holds("int(request.headers['x-tenant']) > 6"));
        assert!(holds("!(int(request.headers['x-tenant']) > 6)"));
    }

    #[test]
    fn what_is_no_condition_is_refused_with_what_is_wrong() {
        let long = format!("request.path == '{}'", "a".repeat(MAX_LENGTH));
        for (text, wrong) in [
            ("", ""),
            ("request.method ==", ""),
            ("request.method", "neither true nor false"),
            ("'a' + 'b'", "neither true nor false"),
            ("req.method == 'GET'", "there is no `req`"),
            ("request.body == ''", "`request` has no `body`"),
            ("source.port == 1", "`source` has no `port`"),
            ("request.path.matches('a+')", "`matches` may not be called"),
            ("[1, 2].all(x, x > 0)", "may not be used"),
            ("['a'].exists(x, x in request.headers)", "may not be used"),
            (long.as_str(), "at most 1024"),
        ] {
            let error = Condition::parse(text).unwrap_err();
            assert!(error.contains(wrong) && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn conditions_are_equal_by_their_text() {
        let one = Condition::parse("request.path == '/'").unwrap();
        assert_eq!(one, Condition::parse("request.path == '/'").unwrap());
        assert_ne!(one, Condition::parse("request.path ==  '/'").unwrap());
        assert_eq!(serde_json::to_string(&one).unwrap(), "\"request.path == '/'\"");
    }
}
