//! Checks that every road makes.

use std::fmt::Display;

use relevo_domain::{Location, ValidationError};

pub fn check_location(location: &Location) -> Result<(), ValidationError> {
    for (field, degrees, limit) in
        [("latitude", location.latitude, 90.0), ("longitude", location.longitude, 180.0)]
    {
        // Not a number is in no range.
        if !(-limit..=limit).contains(&degrees) {
            let reason = format!("is {degrees}; it must be from -{limit} to {limit} degrees");
            return Err(ValidationError::new(field, reason));
        }
    }
    Ok(())
}

/// The media type without its parameters.
pub fn essence(mime: &str) -> String {
    mime.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// A text that says something, of at most `max` characters.
pub fn check_required(field: impl Display, text: &str, max: usize) -> Result<(), ValidationError> {
    if text.trim().is_empty() {
        return Err(ValidationError::new(field.to_string(), "is required and must not be empty"));
    }
    check_max_length(field, text, max)
}

/// A text of at most `max` characters, which are Unicode code points.
pub fn check_max_length(field: impl Display, text: &str, max: usize) -> Result<(), ValidationError> {
    // No text has more characters than bytes.
    if text.len() <= max {
        return Ok(());
    }
    match text.chars().count() {
        length if length > max => {
            let reason = format!("has {length} characters; WhatsApp takes at most {max}");
            Err(ValidationError::new(field.to_string(), reason))
        }
        _ => Ok(()),
    }
}
