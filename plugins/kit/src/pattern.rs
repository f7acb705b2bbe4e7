//! Regular expressions of configurations: linear in what they search, bounded in size, over bytes (or a text's characters)
//! and without Unicode's classes.

use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

pub use regex::bytes;

/// Expressions over the characters of a text.
pub mod text {
    pub use regex::Regex;

    /// One expression that tells upper and lower case apart. The error names the field.
    pub fn one(field: &str, text: &str) -> Result<Regex, String> {
        super::check(field, text)?;
        regex::RegexBuilder::new(text)
            .nest_limit(super::NESTED)
            .size_limit(super::SIZE)
            .dfa_size_limit(super::CACHE)
            .build()
            .map_err(|error| format!("{field}: {}", super::reason(&error)))
    }
}

/// Bytes of one expression.
pub const LENGTH: usize = 1_000;

/// Bytes of a compiled expression, or set of them.
const SIZE: usize = 1 << 20;

/// Bytes that a search may keep of what it has seen.
const CACHE: usize = 256 << 10;

/// Depth of parentheses: a plugin has a stack of 32 KiB.
const NESTED: u32 = 24;

/// One expression. The error names the field.
pub fn one(field: &str, text: &str, case_sensitive: bool) -> Result<Regex, String> {
    check(field, text)?;
    RegexBuilder::new(text)
        .unicode(false)
        .case_insensitive(!case_sensitive)
        .nest_limit(NESTED)
        .size_limit(SIZE)
        .dfa_size_limit(CACHE)
        .build()
        .map_err(|error| format!("{field}: {}", reason(&error)))
}

/// Several that are searched in one pass, ignoring case; to say otherwise an expression begins with `(?-i)`. Each has passed
/// [`one`].
pub fn set(field: &str, texts: &[&str]) -> Result<RegexSet, String> {
    RegexSetBuilder::new(texts)
        .unicode(false)
        .case_insensitive(true)
        .nest_limit(NESTED)
        .size_limit(SIZE)
        .dfa_size_limit(CACHE)
        .build()
        .map_err(|error| format!("{field}: all of them together: {}", reason(&error)))
}

fn check(field: &str, text: &str) -> Result<(), String> {
    match text.len() {
        0 => Err(format!("{field}: it is empty, and would match everything")),
        length if length > LENGTH => Err(format!("{field}: it has {length} bytes, and may have {LENGTH}")),
        _ => Ok(()),
    }
}

/// In one line: the parser draws a picture of several.
fn reason(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(limit) => format!("compiled it is larger than {limit} bytes"),
        other => {
            let text = other.to_string();
            let last = text.lines().last().unwrap_or_default();
            format!("it is not a regular expression: {}", last.trim_start_matches("error: "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_that_can_not_be_used_is_refused_with_its_field() {
        let refused = |text: &str| one("rules[0].pattern", text, false).unwrap_err();
        assert!(refused("a(").starts_with("rules[0].pattern: it is not a regular expression: unclosed group"));
        assert!(refused("").contains("would match everything"));
        assert!(refused(&"a".repeat(1_001)).contains("1001 bytes"));
        assert!(refused("(a{1000}){1000}").contains("larger than"));
        assert!(refused(&format!("{}a{}", "(".repeat(40), ")".repeat(40))).contains("nest"));
        assert!(refused(r"\p{Greek}").contains("not a regular expression"));
    }

    #[test]
    fn of_a_text_characters_are_matched() {
        let three = text::one("f", "^.{3}$").unwrap();
        assert!(three.is_match("aé€") && !three.is_match("é") && !three.is_match("aaaa"));
        assert!(text::one("f", r"\p{Greek}").unwrap_err().starts_with("f: it is not a regular expression"));
    }

    #[test]
    fn case_counts_where_it_is_asked_for() {
        assert!(one("f", "SELECT", false).unwrap().is_match(b"select"));
        assert!(!one("f", "SELECT", true).unwrap().is_match(b"select"));
        let set = set("f", &["abc", "(?-i)DEF"]).unwrap();
        assert_eq!(set.matches(b"xABCx").into_iter().collect::<Vec<_>>(), [0]);
        assert!(!set.is_match(b"def"));
    }
}
