//! What the signature of every HTTP handler must name: its parameters for the OpenAPI document, and its scope.

use std::fs;

use crate::source::rust_files;

/// A handler lists in `params(…)` what it takes from the path, the headers and the query, so that the OpenAPI document has it.
#[test]
fn handlers_document_their_extractors() {
    let documented = documented_extractors();
    assert!(documented.iter().any(|name| name == "TargetInstance"), "{documented:?}");
    for Handler { place, attribute, signature } in handlers() {
        let words: Vec<_> = signature.split(|c: char| !c.is_alphanumeric()).collect();
        let taken = documented.iter().filter(|name| words.contains(&name.as_str())).cloned();
        let queries = ["QueryParams<", "ApplicationQuery<", "Query<"].into_iter().filter_map(|kind| {
            let (_, rest) = signature.split_once(kind)?;
            rest.split_once('>').map(|(name, _)| name.to_owned())
        });
        for name in taken.chain(queries) {
            let params = attribute.split_once("params(").map_or("", |(_, params)| params);
            assert!(params.contains(&name), "{place}: add {name} to params(…) of #[utoipa::path]");
        }
    }
}

/// A handler names the permission that it requires, or that it is public. A route that was added without a check of the key
/// would accept every caller.
#[test]
fn handlers_name_the_access_they_require() {
    for Handler { place, signature, .. } in handlers() {
        let checks = signature.matches("Access<scope::").count() + signature.matches(": Open").count();
        assert_eq!(checks, 1, "{place}: take one `Access<scope::…>` or `Open` from crate::http::access");
    }
}

/// A handler that changes an instance or its webhook makes one call: `accounts` decides, so a crash cannot separate two
/// halves of a change.
#[test]
fn handlers_of_accounts_make_one_call() {
    let instances = ["create", "update", "delete", "webhook"].map(|verb| format!("instances/{verb}"));
    for route in instances.into_iter().chain(["webhooks/create".to_owned()]) {
        let path = format!("src/http/routes/{route}.rs");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("services.accounts."), "{path}: call accounts");
        for function in text.split("async fn ").skip(1) {
            let (name, _) = function.split_once('(').unwrap();
            let calls = function.matches(".services.").count();
            assert!(calls <= 1, "{path}: {name} makes {calls} calls; make one use case of accounts");
        }
    }
}

/// A handler of a route: its `#[utoipa::path(…)]` and its signature.
struct Handler {
    place: String,
    attribute: String,
    signature: String,
}

fn handlers() -> Vec<Handler> {
    let mut found = Vec::new();
    for path in rust_files(&["src/http/routes"]) {
        let text = fs::read_to_string(&path).unwrap();
        for part in text.split("#[utoipa::path(").skip(1) {
            let (attribute, rest) = part.split_once("pub async fn ").unwrap();
            let (signature, _) = rest.split_once("{\n").unwrap();
            let (name, _) = signature.split_once('(').unwrap();
            found.push(Handler {
                place: format!("{path}: {name}"),
                attribute: attribute.to_owned(),
                signature: signature.to_owned(),
            });
        }
    }
    assert!(found.len() > 100, "{} handlers", found.len());
    found
}

/// The extractors that describe themselves for the OpenAPI document.
fn documented_extractors() -> Vec<String> {
    let mut names = Vec::new();
    for path in rust_files(&["src/http"]) {
        let text = fs::read_to_string(&path).unwrap();
        let found = text.split("impl IntoParams for ").skip(1);
        names.extend(found.map(|rest| rest.split(' ').next().unwrap().to_owned()));
    }
    names
}
