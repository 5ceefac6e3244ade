//! Timestamps in requests.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use relevo_domain::Timestamp;

const EXPECTED: &str = "a moment: RFC 3339 such as 2026-01-31T15:00:00Z, or Unix seconds";

/// RFC 3339 with an offset, or Unix seconds as a number or a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestTimestamp(pub Timestamp);

impl<'de> Deserialize<'de> for RequestTimestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TimestampVisitor)
    }
}

struct TimestampVisitor;

impl Visitor<'_> for TimestampVisitor {
    type Value = RequestTimestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_u64<E: Error>(self, seconds: u64) -> Result<RequestTimestamp, E> {
        let millis = seconds.checked_mul(1000).ok_or_else(|| E::custom(EXPECTED))?;
        Ok(RequestTimestamp(Timestamp(millis)))
    }

    fn visit_i64<E: Error>(self, seconds: i64) -> Result<RequestTimestamp, E> {
        self.visit_u64(u64::try_from(seconds).map_err(|_| E::custom(EXPECTED))?)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<RequestTimestamp, E> {
        let text = text.trim();
        if let Ok(seconds) = text.parse() {
            return self.visit_u64(seconds);
        }
        let moment: Option<jiff::Timestamp> = text.parse().ok();
        let millis = moment.and_then(|moment| u64::try_from(moment.as_millisecond()).ok());
        millis
            .map(|millis| RequestTimestamp(Timestamp(millis)))
            .ok_or_else(|| E::custom(format!("expected {EXPECTED}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_unix_seconds_and_rfc_3339_are_parsed() {
        let read =
            |value| serde_json::from_value::<RequestTimestamp>(value).ok().map(|moment| moment.0.millis());
        assert_eq!(read(json!(1_700_000_000)), Some(1_700_000_000_000));
        assert_eq!(read(json!("1700000000")), Some(1_700_000_000_000));
        assert_eq!(read(json!("2023-11-14T22:13:20Z")), Some(1_700_000_000_000));
        assert_eq!(read(json!("2023-11-14T17:13:20.250-05:00")), Some(1_700_000_000_250));
        for bad in
            [json!("tomorrow"), json!(""), json!(-1), json!(true), json!("2023-11-14"), json!(u64::MAX)]
        {
            assert_eq!(read(bad.clone()), None, "{bad}");
        }
    }
}
