//! Patterns as JSON Schema writes them (ECMA-262), for an engine that is linear in what it searches. What that engine can't
//! do, or would read in another sense, is refused.

use kit::pattern::text::{self, Regex};

/// What a search begins with: the automaton learns it once, instead of in each fresh instance.
const SAMPLES: [&str; 2] = ["", "aB3_x-9.y@z:/0"];

/// The error names the field.
pub(super) fn compile(field: &str, pattern: &str) -> Result<Regex, String> {
    let translated = translate(pattern).map_err(|reason| format!("{field}: {reason}"))?;
    let regex = text::one(field, &translated)?;
    for sample in SAMPLES {
        regex.is_match(sample);
    }
    Ok(regex)
}

/// Within a class: without its brackets.
const DIGITS: &str = "0-9";
const WORD: &str = "0-9A-Za-z_";
const SPACE: &str = r"\t\n\x0B\x0C\r \u{A0}\u{1680}\u{2000}-\u{200A}\u{2028}\u{2029}\u{202F}\u{205F}\u{3000}\u{FEFF}";
const LINE_ENDS: &str = r"\n\r\u{2028}\u{2029}";

fn translate(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    let mut in_class = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                let Some(escaped) = chars.next() else { return Err("it ends in a backslash".to_owned()) };
                escape(escaped, in_class, &mut out)?;
            }
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                if chars.peek() == Some(&']') {
                    return Err("`[]` and `[^]` can't be read here".to_owned());
                }
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            // Sets within sets, and what is done with them, are not ECMA-262's.
            '[' | '&' | '~' if in_class => out.extend(['\\', c]),
            '-' if in_class && chars.peek() == Some(&'-') => {
                return Err("two `-` in a class: write one of them as `\\-`".to_owned());
            }
            '(' if !in_class && chars.peek() == Some(&'?') => {
                let group: String = chars.clone().take(3).collect();
                if ["?=", "?!", "?<=", "?<!"].iter().any(|around| group.starts_with(around)) {
                    return Err("looking around (`(?=`, `(?!`, `(?<=`, `(?<!`) can't be done in linear time".to_owned());
                }
                out.push('(');
            }
            '.' if !in_class => out.push_str(&format!("[^{LINE_ENDS}]")),
            _ => out.push(c),
        }
    }
    Ok(out)
}

fn escape(c: char, in_class: bool, out: &mut String) -> Result<(), String> {
    let class = |set: &str, negated: bool| format!("[{}{set}]", if negated { "^" } else { "" });
    match c {
        'd' | 'D' => out.push_str(&class(DIGITS, c == 'D')),
        'w' | 'W' => out.push_str(&class(WORD, c == 'W')),
        's' | 'S' => out.push_str(&class(SPACE, c == 'S')),
        'b' if in_class => out.push_str(r"\x08"),
        'b' | 'B' => out.push_str(&format!(r"(?-u:\{c})")),
        '1'..='9' | 'k' => return Err("references to groups can't be matched in linear time".to_owned()),
        '0' => out.push_str(r"\x00"),
        'c' => return Err(r"`\c` can't be read here: write `\x01` to `\x1F`".to_owned()),
        'n' | 'r' | 't' | 'v' | 'f' | 'x' | 'u' | 'p' | 'P' => out.extend(['\\', c]),
        // An engine's own: `\A`, `\z` and their like.
        _ if c.is_ascii_alphanumeric() => return Err(format!(r"`\{c}` is not an escape")),
        // With a backslash these are ends of words to the engine.
        '<' | '>' => out.push(c),
        _ if c.is_ascii_punctuation() => out.extend(['\\', c]),
        _ => out.push(c),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_ecma_262() {
        for (pattern, matched, not) in [
            (r"^\d{3}$", "123", "١٢٣"),
            (r"^\w+$", "a_1", "é"),
            (r"^[\w.]+$", "a.b", "a-b"),
            (r"^\s$", "\u{a0}", "a"),
            (r"^[^\s]$", "a", "\u{2003}"),
            (r"^.$", "é", "\u{2028}"),
            (r"^[[a]$", "[", "]"),
            (r"^[a&&b]$", "&", "c"),
            (r"^[~~]$", "~", "a"),
            (r"\bcat\b", "a cat", "concat"),
            (r"^A\/B$", "A/B", "AB"),
            (r"^\u0041\x42$", "AB", "ab"),
            (r"^\<b\>$", "<b>", "b"),
            (r"b", "abc", "ac"),
            (r"^a$", "a", "a\n"),
        ] {
            let regex = compile("f", pattern).unwrap();
            assert!(regex.is_match(matched), "{pattern} {matched}");
            assert!(!regex.is_match(not), "{pattern} {not}");
        }
    }

    #[test]
    fn what_can_not_be_matched_in_linear_time_or_means_something_else_is_refused() {
        for pattern in [
            "(?=a)", "(?!a)", "(?<=a)", "(?<!a)", r"(a)\1", r"\k<n>", "[]", "[^]", "[+--]", r"\p{L}", r"\A", r"\z",
            "\\", "(", "", "(?i)é",
        ] {
            assert!(
                compile("body.schema.pattern", pattern).unwrap_err().starts_with("body.schema.pattern: "),
                "{pattern}"
            );
        }
    }
}
