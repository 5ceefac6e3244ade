//! Logs: one line per event on standard error, as text for people or JSON for machines.
//!
//! Level and format come only from the configuration, not from the process environment, so that `check-config` shows the
//! effective values.

use std::io::{self, IsTerminal as _};

use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The filter of a library that logs every repeated message as an error. Its caller logs messages that cannot be
/// decrypted.
const SILENCED_TARGET: &str = "wacore_libsignal=off";

/// The common prefix of relevo's log targets.
const OWN_TARGET: &str = "relevo";

/// How logs are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// A filter such as `info` or `relevo=debug,warn`.
    pub level: String,
    /// The format of the lines.
    pub format: LogFormat,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{filter:?} is not a log filter: {cause}")]
    Filter { filter: String, cause: String },
    #[error("this process already has a log subscriber")]
    AlreadyInstalled,
}

/// Installs the process-wide subscriber. Must be called once, before the first log line.
///
/// Colours are used when standard error is a terminal and the format is text.
///
/// # Errors
/// [`Error::Filter`] when the level is invalid, [`Error::AlreadyInstalled`] on a second call.
pub fn init(options: &Options) -> Result<(), Error> {
    build_subscriber(options)?.try_init().map_err(|_| Error::AlreadyInstalled)
}

/// Builds the subscriber on a bare registry. The subscriber of `fmt` would set the maximum level to trace, and crates that
/// log much, such as sled, check the maximum level first.
fn build_subscriber(options: &Options) -> Result<Box<dyn Subscriber + Send + Sync>, Error> {
    let filter = parse_filter(&options.level)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let registry = tracing_subscriber::registry();
    Ok(match options.format {
        LogFormat::Text => Box::new(registry.with(lines.with_ansi(io::stderr().is_terminal())).with(filter)),
        LogFormat::Json => {
            Box::new(registry.with(lines.json().flatten_event(true).with_span_list(false)).with(filter))
        }
    })
}

/// Checks a level as [`init`] does.
///
/// # Errors
/// [`Error::Filter`] when the level is invalid.
pub fn check_level(level: &str) -> Result<(), Error> {
    parse_filter(level).map(drop)
}

/// Parses a filter. A single word must be a level, because `tracing` would take `inof` for a target and log nothing. The
/// level applies to relevo; libraries log much that does not concern the operator, so they log warnings and errors unless
/// the filter names them.
fn parse_filter(level: &str) -> Result<Targets, Error> {
    let invalid = |cause: String| Error::Filter { filter: level.to_owned(), cause };
    let mut directives = vec![SILENCED_TARGET.to_owned()];
    for directive in level.split(',').map(str::trim) {
        let has_target = directive.contains(['=', ':', '[']);
        match directive.parse::<LevelFilter>().ok().filter(|_| !directive.is_empty()) {
            _ if has_target => directives.push(directive.to_owned()),
            Some(level) => {
                directives.push(level.min(LevelFilter::WARN).to_string());
                directives.push(format!("{OWN_TARGET}={level}"));
            }
            None => {
                return Err(invalid(format!(
                    "{directive:?} is neither a level (off, error, warn, info, debug, trace) nor target=level"
                )));
            }
        }
    }
    directives.join(",").parse().map_err(|cause: ParseError| invalid(cause.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_levels_and_targets_with_levels() {
        for good in
            ["info", "INFO", "off", "relevo=debug,warn", "warn,relevo::http=trace", "debug, relevo=info"]
        {
            assert!(check_level(good).is_ok(), "{good}");
        }
        for bad in ["", "inof", "relevo=loud", "info,", "warning", "relevo"] {
            assert!(check_level(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn subscriber_max_level_matches_the_filter() {
        for format in [LogFormat::Text, LogFormat::Json] {
            for (level, max) in [
                ("warn", LevelFilter::WARN),
                ("info", LevelFilter::INFO),
                ("error,sled=trace", LevelFilter::TRACE),
            ] {
                let subscriber = build_subscriber(&Options { level: level.to_owned(), format }).unwrap();
                assert_eq!(subscriber.max_level_hint(), Some(max), "{level} {format:?}");
            }
        }
    }

    #[test]
    fn bare_level_applies_to_relevo_and_libraries_only_warn() {
        for (level, expected) in [
            ("info", "relevo=info,wacore_libsignal=off,warn"),
            ("error", "error,relevo=error,wacore_libsignal=off"),
            ("off", "off,relevo=off,wacore_libsignal=off"),
            ("debug,wacore_libsignal=info", "relevo=debug,wacore_libsignal=info,warn"),
        ] {
            let mut directives: Vec<_> =
                parse_filter(level).unwrap().to_string().split(',').map(str::to_owned).collect();
            directives.sort();
            assert_eq!(directives.join(","), expected);
        }
    }
}
