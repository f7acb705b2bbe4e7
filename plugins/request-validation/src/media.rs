//! Media types (RFC 9110, section 8.3.1).

use sluice_plugin::Request;

/// The type of a request's content.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ContentType {
    /// `application/json`, in lower case.
    pub(crate) essence: String,
    charset: Option<String>,
}

impl ContentType {
    /// None where the request names none; an error where it names what can't be one.
    pub(crate) fn of(request: &Request<'_>) -> Result<Option<ContentType>, &'static str> {
        let mut values = request.header_values("content-type");
        let Some(value) = values.pop() else { return Ok(None) };
        if !values.is_empty() {
            return Err("there is more than one");
        }
        let text = String::from_utf8(value).map_err(|_| "it is not a media type")?;
        ContentType::parse(&text).map(Some).ok_or("it is not a media type")
    }

    pub(crate) fn parse(text: &str) -> Option<ContentType> {
        let mut parts = text.split(';').map(str::trim);
        let essence = essence(parts.next()?)?;
        let mut charset = None;
        for part in parts {
            // A parameter of two values is read in two ways.
            if let Some((name, value)) = part.split_once('=')
                && name.trim().eq_ignore_ascii_case("charset")
                && charset.replace(value.trim().trim_matches('"').to_ascii_lowercase()).is_some()
            {
                return None;
            }
        }
        Some(ContentType { essence, charset })
    }

    pub(crate) fn is_utf8(&self) -> bool {
        self.charset.as_deref().is_none_or(|charset| charset == "utf-8")
    }

    pub(crate) fn is_json(&self) -> bool {
        is_json(&self.essence)
    }
}

/// As the WHATWG counts them (MIME Sniffing, "JSON MIME type"): generated descriptions have `text/json` as well.
pub(crate) fn is_json(essence: &str) -> bool {
    matches!(essence, "application/json" | "text/json") || essence.ends_with("+json")
}

/// `type/subtype` in lower case.
fn essence(text: &str) -> Option<String> {
    let (kind, subtype) = text.split_once('/')?;
    (kit::cookie::is_name(kind) && kit::cookie::is_name(subtype)).then(|| text.to_ascii_lowercase())
}

/// One type, or several: `image/*`, `*/*`, `application/*+json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range(String);

impl Range {
    /// Its parameters are not looked at.
    pub(crate) fn parse(text: &str) -> Option<Range> {
        let range = essence(text.split(';').next()?.trim())?;
        let (kind, subtype) = range.split_once('/')?;
        let is_range = match (kind.contains('*'), subtype.strip_prefix('*')) {
            (true, _) => range == "*/*",
            (false, None) => !subtype.contains('*'),
            (false, Some(suffix)) => suffix.is_empty() || (suffix.starts_with('+') && !suffix.contains('*')),
        };
        is_range.then_some(Range(range))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn has(&self, essence: &str) -> bool {
        match self.0.split_once('*') {
            None => self.0 == essence,
            Some(_) if self.0 == "*/*" => true,
            Some((before, after)) => essence
                .strip_prefix(before)
                .and_then(|rest| rest.strip_suffix(after))
                .is_some_and(|rest| !rest.is_empty()),
        }
    }

    /// How much it leaves open: the least is asked first.
    pub(crate) fn width(&self) -> usize {
        match self.0.as_str() {
            "*/*" => 3,
            range if range.ends_with("/*") => 2,
            range if range.contains('*') => 1,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_the_types_that_it_says() {
        for (range, has, has_not) in [
            ("application/json", "application/json", "application/json5"),
            ("Application/JSON; charset=utf-8", "application/json", "text/json"),
            ("image/*", "image/png", "imagery/png"),
            ("application/*+json", "application/ld+json", "application/json"),
        ] {
            let range = Range::parse(range).unwrap();
            assert!(range.has(has) && !range.has(has_not), "{range:?}");
        }
        assert!(Range::parse("*/*").unwrap().has("a/b"));
        for wrong in ["", "json", "*/json", "a/b*", "a/*b", "a b/c", "application/**"] {
            assert_eq!(Range::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_charset_is_read_in_one_way_only() {
        let utf8 = |text: &str| ContentType::parse(text).map(|found| found.is_utf8());
        assert_eq!(utf8("application/json"), Some(true));
        assert_eq!(utf8("application/json; Charset=\"UTF-8\""), Some(true));
        assert_eq!(utf8("application/json;charset=utf-16"), Some(false));
        assert_eq!(utf8("application/json;charset=utf-8;charset=utf-7"), None);
        assert_eq!(utf8("application"), None);
    }
}
