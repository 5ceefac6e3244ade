use std::fmt;

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Span, Zoned};
use serde::{Deserialize, Serialize};

use relevo_domain::{Timestamp, ValidationError};

/// The hours of the day in which a job may be sent, where its recipients live.
///
/// From `from` up to but not including `to`; a window that ends before it begins lasts over midnight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SendingHoursText", into = "SendingHoursText")]
pub struct SendingHours {
    from: Time,
    to: Time,
    zone: TimeZone,
    zone_name: String,
}

/// As a window is written down.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SendingHoursText {
    from: String,
    to: String,
    zone: String,
}

/// Whether a window is open at a moment, and until when that is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoursState {
    Open { closes: Timestamp },
    Closed { opens: Timestamp },
}

impl SendingHours {
    /// Times as `09:00`, the zone by its IANA name (`America/Bogota`).
    ///
    /// # Errors
    ///
    /// What cannot be read, by the field that the caller knows it by.
    pub fn new(from: &str, to: &str, zone: &str) -> Result<Self, ValidationError> {
        let time = |field: &str, text: &str| {
            let wrong =
                || ValidationError::new(field, format!("{text:?} is no time of day; write it as 09:00"));
            Time::strptime("%H:%M", text).map_err(|_| wrong())
        };
        let (from, to) = (time("window_from", from)?, time("window_to", to)?);
        if from == to {
            return Err(ValidationError::new("window_to", "must not be the time at which the window opens"));
        }
        let unknown = || {
            ValidationError::new(
                "window_timezone",
                format!("{zone:?} is no time zone; write it as America/Bogota"),
            )
        };
        let found = TimeZone::get(zone).map_err(|_| unknown())?;
        Ok(Self { from, to, zone: found, zone_name: zone.to_owned() })
    }

    /// `09:00`.
    pub fn from(&self) -> String {
        self.from.strftime("%H:%M").to_string()
    }

    /// `20:00`.
    pub fn to(&self) -> String {
        self.to.strftime("%H:%M").to_string()
    }

    /// The IANA name of the time zone.
    pub fn zone(&self) -> &str {
        &self.zone_name
    }

    /// Whether it is open at `now`. What cannot be computed, at the ends of time, is open.
    pub(super) fn state_at(&self, now: Timestamp) -> HoursState {
        self.compute_state(now).unwrap_or(HoursState::Open { closes: Timestamp(u64::MAX) })
    }

    fn compute_state(&self, now: Timestamp) -> Option<HoursState> {
        let moment = jiff::Timestamp::from_millisecond(i64::try_from(now.millis()).ok()?).ok()?;
        let here = moment.to_zoned(self.zone.clone());
        // The window that began yesterday may still be open.
        for day in -1..=2 {
            let date = here.date().checked_add(Span::new().days(day)).ok()?;
            let begins = date.to_datetime(self.from).to_zoned(self.zone.clone()).ok()?;
            let last = if self.from < self.to { date } else { date.tomorrow().ok()? };
            let ends = last.to_datetime(self.to).to_zoned(self.zone.clone()).ok()?;
            if here < begins {
                return Some(HoursState::Closed { opens: timestamp(&begins)? });
            }
            if here < ends {
                return Some(HoursState::Open { closes: timestamp(&ends)? });
            }
        }
        None
    }
}

fn timestamp(moment: &Zoned) -> Option<Timestamp> {
    u64::try_from(moment.timestamp().as_millisecond()).ok().map(Timestamp)
}

impl fmt::Display for SendingHours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{} {}", self.from(), self.to(), self.zone_name)
    }
}

impl TryFrom<SendingHoursText> for SendingHours {
    type Error = ValidationError;
    fn try_from(spelled: SendingHoursText) -> Result<Self, ValidationError> {
        Self::new(&spelled.from, &spelled.to, &spelled.zone)
    }
}

impl From<SendingHours> for SendingHoursText {
    fn from(window: SendingHours) -> Self {
        Self { from: window.from(), to: window.to(), zone: window.zone_name }
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
