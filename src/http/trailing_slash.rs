//! `/instances/` is `/instances`.

use axum::extract::Request;
use axum::http::uri::PathAndQuery;
use axum::http::{Method, Uri};

/// Removes a trailing slash of the path before it is routed.
///
/// Only from requests that read, create or send: a client that deletes or changes `/numbers/{phone}` with an empty phone
/// must not reach the whole list.
pub(super) fn remove(request: &mut Request) {
    let is_harmless =
        matches!(*request.method(), Method::GET | Method::HEAD | Method::POST | Method::OPTIONS);
    if is_harmless && let Some(uri) = without_slash(request.uri()) {
        *request.uri_mut() = uri;
    }
}

fn without_slash(uri: &Uri) -> Option<Uri> {
    let path = uri.path().strip_suffix('/').filter(|path| !path.is_empty() && !path.ends_with('/'))?;
    let path_and_query = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path_and_query).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn removed(method: Method, uri: &str) -> String {
        let mut request = Request::builder().method(method).uri(uri).body(Body::empty()).unwrap();
        remove(&mut request);
        request.uri().to_string()
    }

    #[test]
    fn one_slash_is_removed_from_requests_that_read_or_create() {
        for (uri, expected) in [
            ("/instances/", "/instances"),
            ("/instances/?limit=1", "/instances?limit=1"),
            ("/a/b/", "/a/b"),
            ("http://node/a/", "http://node/a"),
        ] {
            assert_eq!(removed(Method::GET, uri), expected);
            assert_eq!(removed(Method::POST, uri), expected);
        }
        for unchanged in ["/", "/instances", "//", "/a//", "/a?x=/"] {
            assert_eq!(removed(Method::GET, unchanged), unchanged);
        }
        assert_eq!(removed(Method::DELETE, "/numbers/"), "/numbers/");
    }
}
