//! Texts with a grammar: durations, sizes, networks, header fields. Each is read once, into a type that can't be wrong;
//! what can't be read is a problem of its field; what follows from that its reader decides.

use crate::report::Report;
use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use sluice_model::Code;
use sluice_model::config::{MAX_REGEX_BYTES, Pattern};
use sluice_resources::{DurationText, Quantity};
use std::net::IpAddr;
use std::time::Duration;

/// A Gateway API duration (GEP-2257).
pub(crate) fn duration(text: &str, field: &str, report: &mut Report<'_>) -> Option<Duration> {
    match text.parse::<gateway_api::Duration>() {
        Ok(duration) => Some(Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))),
        Err(_) => {
            report.error(Code::InvalidDuration, field, format!("`{text}` is not a duration"));
            None
        }
    }
}

pub(crate) fn duration_of(text: Option<&DurationText>, field: &str, report: &mut Report<'_>) -> Option<Duration> {
    duration(&text?.0, field, report)
}

/// A duration where zero means nothing sensible.
pub(crate) fn positive_duration(text: Option<&DurationText>, field: &str, report: &mut Report<'_>) -> Option<Duration> {
    let duration = duration_of(text, field, report)?;
    if duration.is_zero() {
        report.error(Code::OutOfRange, field, "must be more than 0s");
        return None;
    }
    Some(duration)
}

/// A number of bytes within `range`.
pub(crate) fn bytes(
    quantity: Option<&Quantity>,
    range: std::ops::RangeInclusive<u64>,
    field: &str,
    report: &mut Report<'_>,
) -> Option<u64> {
    let text = quantity?.0.as_str();
    match parse_quantity(text) {
        Some(bytes) if range.contains(&bytes) => Some(bytes),
        Some(bytes) => {
            let message = format!("{bytes} is out of range: {} to {}", range.start(), range.end());
            report.error(Code::OutOfRange, field, message);
            None
        }
        None => {
            report.error(Code::InvalidQuantity, field, format!("`{text}` is not a size"));
            None
        }
    }
}

/// Whole numbers with a suffix, as Kubernetes writes them. Fractions of bytes make no sense here.
fn parse_quantity(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, suffix) = text.split_at(digits);
    let factor: u64 = match suffix {
        "" => 1,
        "k" => 1000,
        "M" => 1000_u64.pow(2),
        "G" => 1000_u64.pow(3),
        "T" => 1000_u64.pow(4),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A number within `range`.
pub(crate) fn number<T: PartialOrd + Copy + std::fmt::Display>(
    value: Option<T>,
    range: std::ops::RangeInclusive<T>,
    field: &str,
    report: &mut Report<'_>,
) -> Option<T> {
    let value = value?;
    if range.contains(&value) {
        return Some(value);
    }
    report.error(Code::OutOfRange, field, format!("{value} is out of range: {} to {}", range.start(), range.end()));
    None
}

/// Networks; a plain address is the network of itself.
pub(crate) fn networks(texts: &[String], field: &str, report: &mut Report<'_>) -> Vec<IpNet> {
    let mut networks = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
            Ok(network) => networks.push(network),
            Err(_) => report.error(
                Code::InvalidAddress,
                format!("{field}[{i}]"),
                format!("`{text}` is neither an IP address nor a CIDR"),
            ),
        }
    }
    networks
}

pub(crate) fn header_name(text: &str, field: &str, report: &mut Report<'_>) -> Option<HeaderName> {
    match HeaderName::try_from(text) {
        Ok(name) => Some(name),
        Err(_) => {
            report.error(Code::InvalidHeader, field, format!("`{text}` is not a header name"));
            None
        }
    }
}

pub(crate) fn header_value(text: &str, field: &str, report: &mut Report<'_>) -> Option<HeaderValue> {
    match HeaderValue::try_from(text) {
        Ok(value) => Some(value),
        Err(_) => {
            report.error(Code::InvalidHeader, field, "the header value holds characters that HTTP does not allow");
            None
        }
    }
}

/// A regular expression that must match as a whole.
pub(crate) fn pattern(text: &str, field: &str, report: &mut Report<'_>) -> Option<Pattern> {
    match Pattern::anchored(text) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let message = match error {
                regex::Error::CompiledTooBig(_) => {
                    format!("the expression needs more than {} KiB when compiled", MAX_REGEX_BYTES / 1024)
                }
                // The library draws a picture over several lines; its last one says what is wrong.
                other => format!("`{text}`: {}", other.to_string().lines().last().unwrap_or_default().trim()),
            };
            report.error(Code::InvalidRegex, field, message);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_model::{Kind, ObjectRef, Problem};

    fn read<T>(read: impl FnOnce(&mut Report<'_>) -> T) -> (T, Vec<Problem>) {
        let object = ObjectRef::new(Kind::HTTPRoute, "n", "r");
        let mut problems = Vec::new();
        let value = read(&mut Report::new(&object, &mut problems));
        (value, problems)
    }

    #[test]
    fn durations_are_those_of_gep_2257() {
        for (text, millis) in [("10s", 10_000), ("1m30s", 90_000), ("500ms", 500), ("0s", 0), ("1h", 3_600_000)] {
            assert_eq!(read(|r| duration(text, "f", r)), (Some(Duration::from_millis(millis)), vec![]), "{text}");
        }
        for bad in ["", "10", "1.5s", "-1s", "1d", "100000s", "1us"] {
            let (value, problems) = read(|r| duration(bad, "f", r));
            assert_eq!((value, problems.len()), (None, 1), "{bad}");
            assert_eq!(problems[0].code, Code::InvalidDuration);
        }
    }

    #[test]
    fn sizes_are_whole_kubernetes_quantities() {
        for (text, bytes) in [("0", 0), ("1500", 1500), ("64Ki", 65_536), ("1Mi", 1 << 20), ("2k", 2000)] {
            assert_eq!(parse_quantity(text), Some(bytes), "{text}");
        }
        for bad in ["", "Ki", "1.5Mi", "-1", "1KiB", "99999999999Ti"] {
            assert_eq!(parse_quantity(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_size_out_of_its_range_is_told_with_the_range() {
        let (value, problems) = read(|r| bytes(Some(&Quantity("1Gi".into())), 1..=100, "f", r));
        assert_eq!(value, None);
        assert_eq!((problems[0].code, problems[0].message.contains("1 to 100")), (Code::OutOfRange, true));
    }

    #[test]
    fn an_address_is_a_network_of_one() {
        let (networks, problems) = read(|r| networks(&["10.0.0.1".into(), "2001:db8::/32".into(), "x".into()], "f", r));
        assert_eq!(networks.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.1/32", "2001:db8::/32"]);
        assert_eq!((problems.len(), problems[0].field.as_str()), (1, "f[2]"));
    }

    #[test]
    fn an_expression_that_is_too_large_or_unreadable_is_refused() {
        for bad in ["(", "a{1000}{1000}", "(?=x)"] {
            let (value, problems) = read(|r| pattern(bad, "f", r));
            assert!(value.is_none() && problems[0].code == Code::InvalidRegex, "{bad}");
        }
    }
}
