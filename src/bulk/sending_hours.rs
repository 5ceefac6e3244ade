//! The hours of the day in which a job sends. Daylight saving changes and midnight are handled by the time zone.

use std::fmt;

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Span, Zoned};
use serde::{Deserialize, Serialize};

use relevo_domain::{Timestamp, ValidationError};

/// The hours of the day in which a job sends, in the time zone of its recipients.
///
/// From `from` up to but not including `to`. If `to` is before `from`, the hours span midnight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SendingHoursText", into = "SendingHoursText")]
pub struct SendingHours {
    from: Time,
    to: Time,
    zone: TimeZone,
    zone_name: String,
}

/// The stored form of [`SendingHours`].
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SendingHoursText {
    from: String,
    to: String,
    zone: String,
}

/// Whether a moment is within the sending hours, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoursState {
    /// Within the hours, which end at `closes`.
    Open { closes: Timestamp },
    /// Outside the hours; the next ones start at `opens`.
    Closed { opens: Timestamp },
}

impl SendingHours {
    /// Parses times like `09:00` and a time zone by its IANA name (`America/Bogota`).
    ///
    /// # Errors
    ///
    /// The form field of the API that is wrong (`window_from`, `window_to`, `window_timezone`), and why.
    pub fn new(from: &str, to: &str, zone: &str) -> Result<Self, ValidationError> {
        let time = |field: &str, text: &str| {
            let wrong =
                || ValidationError::new(field, format!("{text:?} is not a time of day; write it as 09:00"));
            Time::strptime("%H:%M", text).map_err(|_| wrong())
        };
        let (from, to) = (time("window_from", from)?, time("window_to", to)?);
        if from == to {
            return Err(ValidationError::new("window_to", "must differ from window_from"));
        }
        let unknown = || {
            ValidationError::new(
                "window_timezone",
                format!("{zone:?} is not an IANA time zone; write it as America/Bogota"),
            )
        };
        let found = TimeZone::get(zone).map_err(|_| unknown())?;
        Ok(Self { from, to, zone: found, zone_name: zone.to_owned() })
    }

    /// The first minute, like `09:00`.
    pub fn from(&self) -> String {
        self.from.strftime("%H:%M").to_string()
    }

    /// The end, like `20:00`.
    pub fn to(&self) -> String {
        self.to.strftime("%H:%M").to_string()
    }

    /// The IANA name of the time zone.
    pub fn zone(&self) -> &str {
        &self.zone_name
    }

    /// Whether `now` is within the hours. Times that cannot be computed (out of range) count as within.
    pub(super) fn state_at(&self, now: Timestamp) -> HoursState {
        self.compute_state(now).unwrap_or(HoursState::Open { closes: Timestamp(u64::MAX) })
    }

    fn compute_state(&self, now: Timestamp) -> Option<HoursState> {
        let utc = jiff::Timestamp::from_millisecond(i64::try_from(now.millis()).ok()?).ok()?;
        let local = utc.to_zoned(self.zone.clone());
        // The hours that began yesterday may span midnight.
        for day in -1..=2 {
            let date = local.date().checked_add(Span::new().days(day)).ok()?;
            let begins = date.to_datetime(self.from).to_zoned(self.zone.clone()).ok()?;
            let last = if self.from < self.to { date } else { date.tomorrow().ok()? };
            let ends = last.to_datetime(self.to).to_zoned(self.zone.clone()).ok()?;
            if local < begins {
                return Some(HoursState::Closed { opens: timestamp(&begins)? });
            }
            if local < ends {
                return Some(HoursState::Open { closes: timestamp(&ends)? });
            }
        }
        None
    }
}

fn timestamp(time: &Zoned) -> Option<Timestamp> {
    u64::try_from(time.timestamp().as_millisecond()).ok().map(Timestamp)
}

impl fmt::Display for SendingHours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{} {}", self.from(), self.to(), self.zone_name)
    }
}

impl TryFrom<SendingHoursText> for SendingHours {
    type Error = ValidationError;
    fn try_from(text: SendingHoursText) -> Result<Self, ValidationError> {
        Self::new(&text.from, &text.to, &text.zone)
    }
}

impl From<SendingHours> for SendingHoursText {
    fn from(hours: SendingHours) -> Self {
        Self { from: hours.from(), to: hours.to(), zone: hours.zone_name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp(u64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_millisecond()).unwrap())
    }

    #[test]
    fn sending_hours_open_and_close_in_their_time_zone() {
        let window = SendingHours::new("09:00", "20:00", "America/Bogota").unwrap();
        let (opens, closes) = (at("2026-01-15T14:00:00Z"), at("2026-01-16T01:00:00Z"));
        assert_eq!(window.state_at(at("2026-01-15T13:59:59Z")), HoursState::Closed { opens });
        assert_eq!(window.state_at(opens), HoursState::Open { closes });
        assert_eq!(window.state_at(at("2026-01-16T00:59:59Z")), HoursState::Open { closes });
        assert_eq!(window.state_at(closes), HoursState::Closed { opens: at("2026-01-16T14:00:00Z") });
    }

    #[test]
    fn sending_hours_may_span_midnight() {
        let window = SendingHours::new("22:00", "02:00", "UTC").unwrap();
        let closes = at("2026-01-16T02:00:00Z");
        assert_eq!(window.state_at(at("2026-01-16T01:00:00Z")), HoursState::Open { closes });
        assert_eq!(window.state_at(at("2026-01-15T23:00:00Z")), HoursState::Open { closes });
        assert_eq!(window.state_at(closes), HoursState::Closed { opens: at("2026-01-16T22:00:00Z") });
    }

    #[test]
    fn sending_hours_follow_daylight_saving_changes() {
        let window = SendingHours::new("00:30", "09:00", "Europe/Madrid").unwrap();
        assert_eq!(
            window.state_at(at("2026-03-29T00:00:00Z")),
            HoursState::Open { closes: at("2026-03-29T07:00:00Z") }
        );
    }

    #[test]
    fn invalid_sending_hours_name_the_field() {
        for (from, to, zone, field) in [
            ("9", "20:00", "UTC", "window_from"),
            ("09:00", "25:00", "UTC", "window_to"),
            ("09:00", "09:00", "UTC", "window_to"),
            ("09:00", "20:00", "Bogota", "window_timezone"),
        ] {
            assert_eq!(SendingHours::new(from, to, zone).unwrap_err().field, field);
        }
    }

    #[test]
    fn sending_hours_round_trip_as_text() {
        let window = SendingHours::new("09:00", "20:00", "America/Bogota").unwrap();
        let bytes = relevo_store::encode(&window).unwrap();
        assert_eq!(relevo_store::decode::<SendingHours>(&bytes).unwrap(), window);
        assert_eq!(window.to_string(), "09:00-20:00 America/Bogota");
    }
}
