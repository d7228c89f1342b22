//! The two shapes of time stamps in API objects. Both are UTC and cut, never rounded, to their precision.

use jiff::Timestamp;

/// `meta/v1 Time`: whole seconds, `2030-01-01T00:00:00Z`.
pub fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `meta/v1 MicroTime`: always six digits, `2030-01-01T00:00:00.000000Z`.
pub fn micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Reads either shape, with any offset.
pub fn parse(text: &str) -> Result<Timestamp, jiff::Error> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_to_its_precision() {
        let at = parse("2030-01-02T03:04:05.6789999Z").unwrap();
        assert_eq!(seconds(at), "2030-01-02T03:04:05Z");
        assert_eq!(micros(at), "2030-01-02T03:04:05.678999Z");
        assert_eq!(seconds(parse("2030-01-02T03:04:05+02:00").unwrap()), "2030-01-02T01:04:05Z");
    }
}
