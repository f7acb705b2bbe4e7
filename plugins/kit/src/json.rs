//! JSON of strangers.

use serde_json::Value;
use std::fmt;

/// How deeply objects and lists may lie within each other: who reads them goes as deep, and a plugin has a stack of 32 KiB.
pub const DEPTH: usize = 32;

/// Why a text can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    TooDeep,
    /// Where it stops being JSON.
    Syntax {
        line: usize,
        column: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::TooDeep => write!(f, "it is nested more than {DEPTH} deep"),
            Error::Syntax { line, column } => write!(f, "it is no JSON: line {line}, column {column}"),
        }
    }
}

/// A value that is nested at most [`DEPTH`] deep.
pub fn parse(text: &[u8]) -> Result<Value, Error> {
    if nested(text) > DEPTH {
        return Err(Error::TooDeep);
    }
    serde_json::from_slice(text).map_err(|error| Error::Syntax { line: error.line(), column: error.column() })
}

/// How deep a text goes, without going there.
pub fn nested(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for byte in text {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nested_too_deeply_is_not_read() {
        let lists = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(lists(DEPTH).as_bytes()).is_ok());
        assert_eq!(parse(lists(DEPTH + 1).as_bytes()), Err(Error::TooDeep));
        assert_eq!(parse("{\"a\":".repeat(40).as_bytes()), Err(Error::TooDeep));
    }

    #[test]
    fn brackets_within_texts_are_none() {
        let text = format!("[\"{}\\\"{}\"]", "[".repeat(100), "{".repeat(100));
        assert!(parse(text.as_bytes()).is_ok());
        assert_eq!(nested(br#"{"a\\":[1]}"#), 2);
    }

    #[test]
    fn what_is_no_json_is_told_with_its_place() {
        assert_eq!(parse(b"{\n 1}").unwrap_err().to_string(), "it is no JSON: line 2, column 2");
    }
}
