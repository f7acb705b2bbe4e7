//! Times as Kubernetes writes them.

use jiff::Timestamp;

/// `metav1.Time`: whole seconds.
pub(crate) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metav1.MicroTime`.
pub(crate) fn micros(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_api_wants_them() {
        let time: Timestamp = "2026-11-25T12:00:01.5Z".parse().unwrap();
        assert_eq!(seconds(time), "2026-11-25T12:00:01Z");
        assert_eq!(micros(time), "2026-11-25T12:00:01.500000Z");
    }
}
