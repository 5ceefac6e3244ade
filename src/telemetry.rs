//! Logs: one line per event on standard error, as text for people or JSON for machines.
//!
//! Nothing is taken from the process environment: level and format come from the configuration, so that what
//! `check-config` shows is what happens.

use std::io::{self, IsTerminal as _};

use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// What says at length, as errors, that a message was delivered again. What cannot be opened, its caller warns of.
const SILENCED_TARGET: &str = "wacore_libsignal=off";

/// What all our own targets begin with.
const OWN_TARGET: &str = "relevo";

/// How logs are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// A filter such as `info` or `relevo=debug,warn`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{filter:?} is not a log filter: {cause}")]
    Filter { filter: String, cause: String },
    #[error("this process already has a log subscriber")]
    AlreadyInstalled,
}

/// Installs the process-wide subscriber. Called once, before anything worth logging happens.
///
/// Colours are used when standard error is a terminal and the format is text.
pub fn init(options: &Options) -> Result<(), Error> {
    build_subscriber(options)?.try_init().map_err(|_| Error::AlreadyInstalled)
}

/// Its layers stand on a bare registry and not on `fmt`'s own subscriber, which would claim an interest in everything:
/// whoever logs much, as sled does, looks first at how much is wanted at all.
fn build_subscriber(options: &Options) -> Result<Box<dyn Subscriber + Send + Sync>, Error> {
    let shown = parse_filter(&options.level)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let registry = tracing_subscriber::registry();
    Ok(match options.format {
        LogFormat::Text => Box::new(registry.with(lines.with_ansi(io::stderr().is_terminal())).with(shown)),
        LogFormat::Json => {
            Box::new(registry.with(lines.json().flatten_event(true).with_span_list(false)).with(shown))
        }
    })
}

/// Tells whether `init` would accept this level.
pub fn check_level(level: &str) -> Result<(), Error> {
    parse_filter(level).map(drop)
}

/// A single word must be a level: tracing alone would take `inof` for the name of a module and fall silent. It is the
/// level of what relevo itself says; of libraries, which say much that concerns nobody, warnings are shown unless they
/// are named.
fn parse_filter(level: &str) -> Result<Targets, Error> {
    let refused = |cause: String| Error::Filter { filter: level.to_owned(), cause };
    let mut directives = vec![SILENCED_TARGET.to_owned()];
    for directive in level.split(',').map(str::trim) {
        let named = directive.contains(['=', ':', '[']);
        match directive.parse::<LevelFilter>().ok().filter(|_| !directive.is_empty()) {
            _ if named => directives.push(directive.to_owned()),
            Some(level) => {
                directives.push(level.min(LevelFilter::WARN).to_string());
                directives.push(format!("{OWN_TARGET}={level}"));
            }
            None => {
                return Err(refused(format!(
                    "{directive:?} is none of off, error, warn, info, debug and trace, and names no target=level"
                )));
            }
        }
    }
    directives.join(",").parse().map_err(|cause: ParseError| refused(cause.to_string()))
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
            for (level, most) in [
                ("warn", LevelFilter::WARN),
                ("info", LevelFilter::INFO),
                ("error,sled=trace", LevelFilter::TRACE),
            ] {
                let subscriber = build_subscriber(&Options { level: level.to_owned(), format }).unwrap();
                assert_eq!(subscriber.max_level_hint(), Some(most), "{level} {format:?}");
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
            let mut shown: Vec<_> =
                parse_filter(level).unwrap().to_string().split(',').map(str::to_owned).collect();
            shown.sort();
            assert_eq!(shown.join(","), expected);
        }
    }
}
