//! The `/api` family: the errors, extractors and access rules that its documents promise.

pub(super) mod auth;
pub(super) mod error;
pub(super) mod extract;
pub(super) mod texts;

/// Whether errors of this path have the form of [`ApplicationError`](error::ApplicationError).
pub(super) fn is_application_path(path: &str) -> bool {
    path.strip_prefix("/api").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn application_path_is_api_or_below_it() {
        for (path, expected) in [("/api", true), ("/api/x", true), ("/apis", false), ("/x/api", false)] {
            assert_eq!(is_application_path(path), expected, "{path}");
        }
    }
}
