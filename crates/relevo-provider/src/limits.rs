//! Checks that every road makes.

use std::fmt::Display;

use relevo_domain::{Invalid, Location};

pub fn check_location(location: &Location) -> Result<(), Invalid> {
    for (field, degrees, limit) in
        [("latitude", location.latitude, 90.0), ("longitude", location.longitude, 180.0)]
    {
        // Not a number is in no range.
        if !(-limit..=limit).contains(&degrees) {
            let reason = format!("is {degrees}; it must be from -{limit} to {limit} degrees");
            return Err(Invalid::new(field, reason));
        }
    }
    Ok(())
}

/// The media type without its parameters.
pub fn essence(mime: &str) -> String {
    mime.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// A text that says something, of at most `max` characters.
pub fn required(field: impl Display, text: &str, max: usize) -> Result<(), Invalid> {
    if text.trim().is_empty() {
        return Err(Invalid::new(field.to_string(), "is required and must not be empty"));
    }
    at_most(field, text, max)
}

/// A text of at most `max` characters, which are Unicode code points.
pub fn at_most(field: impl Display, text: &str, max: usize) -> Result<(), Invalid> {
    // No text has more characters than bytes.
    if text.len() <= max {
        return Ok(());
    }
    match text.chars().count() {
        length if length > max => {
            let reason = format!("has {length} characters; WhatsApp takes at most {max}");
            Err(Invalid::new(field.to_string(), reason))
        }
        _ => Ok(()),
    }
}
