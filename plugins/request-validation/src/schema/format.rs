//! The formats that are held to; others say something to readers alone.

use crate::json::{Json, whole};
use std::net::{Ipv4Addr, Ipv6Addr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Date,
    DateTime,
    Email,
    Int32,
    Int64,
    Ipv4,
    Ipv6,
    Uuid,
}

impl Format {
    pub(super) fn named(name: &str) -> Option<Format> {
        Some(match name {
            "date" => Format::Date,
            "date-time" => Format::DateTime,
            "email" => Format::Email,
            "int32" => Format::Int32,
            "int64" => Format::Int64,
            "ipv4" => Format::Ipv4,
            "ipv6" => Format::Ipv6,
            "uuid" => Format::Uuid,
            _ => return None,
        })
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Format::Date => "a date (2006-01-31)",
            Format::DateTime => "a time (2006-01-31T12:00:00Z)",
            Format::Email => "an email address",
            Format::Int32 => "an integer of 32 bits",
            Format::Int64 => "an integer of 64 bits",
            Format::Ipv4 => "an IPv4 address",
            Format::Ipv6 => "an IPv6 address",
            Format::Uuid => "a UUID",
        }
    }

    /// Values of other types fit.
    pub(super) fn fits(self, value: &Json<'_>) -> bool {
        match (self, value) {
            (Format::Int32, Json::Number(number)) => whole(number).is_some_and(|number| i32::try_from(number).is_ok()),
            (Format::Int64, Json::Number(number)) => whole(number).is_some_and(|number| i64::try_from(number).is_ok()),
            (Format::Int32 | Format::Int64, _) => true,
            (_, Json::Text(text)) => self.fits_text(text),
            _ => true,
        }
    }

    fn fits_text(self, text: &str) -> bool {
        match self {
            Format::Date => date(text).is_some_and(str::is_empty),
            Format::DateTime => date_time(text).is_some_and(str::is_empty),
            Format::Email => is_email(text),
            Format::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Format::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
            Format::Uuid => is_uuid(text),
            Format::Int32 | Format::Int64 => true,
        }
    }
}

/// A number of just so many digits, and the rest.
fn digits(text: &str, count: usize) -> Option<(u32, &str)> {
    let (number, rest) = text.split_at_checked(count)?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    Some((number.parse().ok()?, rest))
}

/// RFC 3339, `full-date`; gives the rest.
fn date(text: &str) -> Option<&str> {
    let (year, rest) = digits(text, 4)?;
    let (month, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let (day, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    (1..=days).contains(&day).then_some(rest)
}

/// RFC 3339, `date-time`; gives the rest. A leap second ends a day of UTC.
fn date_time(text: &str) -> Option<&str> {
    const DAY: i64 = 24 * 60;
    let (hour, rest) = digits(date(text)?.strip_prefix(['T', 't'])?, 2)?;
    let (minute, rest) = digits(rest.strip_prefix(':')?, 2)?;
    let (second, rest) = digits(rest.strip_prefix(':')?, 2)?;
    (hour <= 23 && minute <= 59 && second <= 60).then_some(())?;
    let rest = match rest.strip_prefix('.') {
        None => rest,
        Some(fraction) => {
            let rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            (rest.len() < fraction.len()).then_some(rest)?
        }
    };
    let local = i64::from(hour * 60 + minute);
    let (utc, rest) = match rest.strip_prefix(['Z', 'z']) {
        Some(rest) => (local, rest),
        None => {
            let is_behind = rest.starts_with('-');
            let (hour, rest) = digits(rest.strip_prefix(['+', '-'])?, 2)?;
            let (minute, rest) = digits(rest.strip_prefix(':')?, 2)?;
            (hour <= 23 && minute <= 59).then_some(())?;
            let offset = i64::from(hour * 60 + minute);
            (if is_behind { local + offset } else { local - offset }, rest)
        }
    };
    (second < 60 || utc.rem_euclid(DAY) == DAY - 1).then_some(rest)
}

/// No more than that it could be one.
fn is_email(text: &str) -> bool {
    text.rsplit_once('@').is_some_and(|(local, domain)| {
        let is_dotted = |part: &str| part.split('.').all(|label| !label.is_empty());
        is_dotted(local) && is_dotted(domain) && !text.contains(|c: char| c.is_whitespace() || c.is_control())
    })
}

fn is_uuid(text: &str) -> bool {
    let mut lengths = [8, 4, 4, 4, 12].into_iter();
    let is_part = |part: &str, length: Option<usize>| {
        length == Some(part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    text.split('-').all(|part| is_part(part, lengths.next())) && lengths.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_held_to_their_formats() {
        for (name, good, bad) in [
            (
                "date",
                &["2024-02-29", "2000-02-29"][..],
                &["2023-02-29", "1900-02-29", "2024-13-01", "2024-1-1", ""][..],
            ),
            (
                "date-time",
                &["2024-01-31T23:59:60Z", "2024-01-31T15:59:60.5-08:00", "2024-01-31t00:00:00.123-05:30"],
                &[
                    "2024-01-31T22:59:60Z",
                    "2024-01-31T24:00:00Z",
                    "2024-01-31T00:00:00",
                    "2024-01-31 00:00:00Z",
                    "2024-01-31T00:00:00.Z",
                ],
            ),
            ("email", &["a@b", "a.b+c@d.example"], &["a", "@b", "a@", "a b@c", "a@b..c", "a@.b", ".a@b", "a..b@c"]),
            ("ipv4", &["192.0.2.1"], &["192.0.2", "192.0.2.01", "::1"]),
            ("ipv6", &["::1", "2001:db8::1"], &["192.0.2.1", "[::1]", ":::"]),
            (
                "uuid",
                &["123e4567-e89b-12d3-a456-426614174000"],
                &[
                    "123e4567e89b12d3a456426614174000",
                    "123e4567-e89b-12d3-a456-42661417400g",
                    "123e4567-e89b-12d3-a456",
                    "",
                ],
            ),
        ] {
            let format = Format::named(name).unwrap();
            let fits = |text: &str| format.fits(&Json::Text(text.to_owned().into()));
            assert!(good.iter().all(|text| fits(text)), "{name}");
            assert!(!bad.iter().any(|text| fits(text)), "{name}");
            assert!(format.fits(&Json::Null), "{name} is about texts");
        }
        assert_eq!(Format::named("phone"), None);
    }

    #[test]
    fn integers_have_a_width() {
        let fits = |format: Format, number: &str| format.fits(&crate::json::parse(number.as_bytes()).unwrap());
        assert!(fits(Format::Int32, "2147483647") && !fits(Format::Int32, "2147483648"));
        assert!(fits(Format::Int64, "9223372036854775807") && !fits(Format::Int64, "9223372036854775808"));
        assert!(!fits(Format::Int64, "1e300"));
    }
}
