//! Checks of message fields that all providers share.

use std::fmt::Display;

use relevo_domain::{Location, ValidationError};

/// Checks that the coordinates are on the globe.
///
/// # Errors
///
/// Latitude or longitude is out of range or not a number.
pub fn check_location(location: &Location) -> Result<(), ValidationError> {
    for (field, degrees, limit) in
        [("latitude", location.latitude, 90.0), ("longitude", location.longitude, 180.0)]
    {
        // NaN is in no range.
        if !(-limit..=limit).contains(&degrees) {
            let reason = format!("is {degrees}; it must be from -{limit} to {limit} degrees");
            return Err(ValidationError::new(field, reason));
        }
    }
    Ok(())
}

/// Checks that a text is not blank and has at most `max` characters.
///
/// # Errors
///
/// The text is blank or too long.
pub fn check_required(field: impl Display, text: &str, max: usize) -> Result<(), ValidationError> {
    if text.trim().is_empty() {
        return Err(ValidationError::new(field.to_string(), "is required and must not be empty"));
    }
    check_max_length(field, text, max)
}

/// Checks that a text has at most `max` characters (Unicode code points).
///
/// # Errors
///
/// The text is too long.
pub fn check_max_length(field: impl Display, text: &str, max: usize) -> Result<(), ValidationError> {
    // A text never has more characters than bytes.
    if text.len() <= max {
        return Ok(());
    }
    match text.chars().count() {
        length if length > max => {
            let reason = format!("has {length} characters; WhatsApp accepts at most {max}");
            Err(ValidationError::new(field.to_string(), reason))
        }
        _ => Ok(()),
    }
}
