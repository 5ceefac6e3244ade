//! The `/api` family: the errors, extractors and access rules that its documents promise.

pub(super) mod auth;
pub(super) mod error;
pub(super) mod extract;
pub(super) mod texts;

/// Whether the clients of this path expect [`ApplicationError`](error::ApplicationError)s.
pub(super) fn is_application_path(path: &str) -> bool {
    path.strip_prefix("/api").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn application_path_is_api_or_below_it() {
        for (path, spoken) in [("/api", true), ("/api/x", true), ("/apis", false), ("/x/api", false)] {
            assert_eq!(is_application_path(path), spoken, "{path}");
        }
    }
}
