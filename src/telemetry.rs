//! Logs.

/// How logs are written.
#[derive(Debug, Clone)]
pub struct Options {
    /// A filter such as `info` or `relevo=debug,warn`.
    pub level: String,
    pub format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}
