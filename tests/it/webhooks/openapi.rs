//! The `webhooks` of the OpenAPI document, compared with real deliveries.

use std::collections::BTreeSet;
use std::fs;

use relevo::events::{self, Event};
use relevo_clock::Clock;
use relevo_domain::{EventKind, InstanceNumber};
use serde_json::{Value, json};

use super::{SECRET, text, world_with_short_retries};
use crate::support::World;
use crate::support::receiver::{Delivery, Receiver};

/// Headers of every HTTP request, which the document does not list.
const HTTP_HEADERS: [&str; 5] = ["accept", "content-length", "content-type", "host", "user-agent"];

/// The data of a kind for which the test has none that a node wrote.
fn placeholder(kind: &EventKind) -> Value {
    json!({ "field": kind.as_str() })
}

/// The events in the listing of the old data folder, and one of each kind that it lacks.
fn events_of_every_kind() -> Vec<(EventKind, Value)> {
    let listing = fs::read("tests/fixtures/data-folder-1.json").unwrap();
    let listing: Value = serde_json::from_slice(&listing).unwrap();
    let logs = listing["events"].as_object().unwrap().values();
    let logged = logs.flat_map(|log| log.as_array().unwrap());
    let mut found: Vec<_> = logged
        .map(|event| (event["type"].as_str().unwrap().parse::<EventKind>().unwrap(), event["data"].clone()))
        .collect();
    found.push((EventKind::Gap, json!({ "from": 1, "to": 2, "missing": 2 })));
    found.push((EventKind::OptIn, json!({ "why": "keyword", "phone": "573001234567" })));
    for kind in EventKind::ALL {
        if found.iter().all(|(present, _)| present != kind) {
            found.push((kind.clone(), placeholder(kind)));
        }
    }
    found
}

/// The part of the document that `value` refers to, or `value` itself.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => value,
    }
}

/// Lists how `value` differs from `schema`. Knows the keywords that the schemas of deliveries use, and rejects others. An
/// object whose schema lists properties has no others.
fn mismatches(document: &Value, schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let schema = resolved(document, schema);
    let mut found = Vec::new();
    for (keyword, rule) in schema.as_object().unwrap() {
        let fits = match keyword.as_str() {
            "type" => match rule {
                Value::Array(types) => types.iter().any(|name| has_type(name, value)),
                name => has_type(name, value),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_i64() >= rule.as_i64(),
            "oneOf" => {
                let alternatives = rule.as_array().unwrap().iter();
                let fitting = alternatives.filter(|it| mismatches(document, it, value, path).is_empty());
                fitting.count() == 1
            }
            "required" => {
                let names = rule.as_array().unwrap().iter();
                let missing = names.filter(|name| value.get(name.as_str().unwrap()).is_none());
                found.extend(missing.map(|name| format!("{path}: {name} is missing")));
                true
            }
            "properties" => {
                for (name, part) in value.as_object().into_iter().flatten() {
                    let path = format!("{path}.{name}");
                    match rule.get(name) {
                        Some(schema) => found.extend(mismatches(document, schema, part, &path)),
                        None => found.push(format!("{path} is not documented")),
                    }
                }
                true
            }
            "items" => {
                let items = value.as_array().into_iter().flatten();
                found.extend(items.flat_map(|item| mismatches(document, rule, item, path)));
                true
            }
            "description" | "example" | "format" => true,
            _ => panic!("{path}: the test does not know the keyword {keyword}"),
        };
        if !fits {
            found.push(format!("{path}: {value} does not fit {keyword}: {rule}"));
        }
    }
    found
}

fn has_type(name: &Value, value: &Value) -> bool {
    match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        name => panic!("the test does not know the type {name}"),
    }
}

/// Compares a delivery with the webhook of its kind: the headers and the body.
#[track_caller]
fn assert_documented(document: &Value, delivery: &Delivery) {
    let kind = delivery.body["event"].as_str().unwrap();
    let webhook = &document["webhooks"][kind]["post"];
    let parameters = webhook["parameters"].as_array().unwrap().iter();
    let parameters = parameters.map(|parameter| resolved(document, parameter));
    let documented: BTreeSet<_> =
        parameters.map(|parameter| parameter["name"].as_str().unwrap().to_lowercase()).collect();
    let sent = delivery.headers.keys().map(|name| name.as_str().to_owned());
    let sent: BTreeSet<_> = sent.filter(|name| !HTTP_HEADERS.contains(&name.as_str())).collect();
    assert_eq!(documented, sent, "{kind}");
    let page = include_str!("../../../docs/events.md").to_lowercase();
    for header in &sent {
        assert!(
            page.contains(&format!("`{header}`")),
            "docs/events.md does not describe the header {header}"
        );
    }
    let schema = &webhook["requestBody"]["content"]["application/json"]["schema"];
    let mismatches = mismatches(document, schema, &delivery.body, kind);
    assert!(mismatches.is_empty(), "{mismatches:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn delivery_of_every_event_kind_is_as_documented() {
    let (mut world, receiver) = (world_with_short_retries().await, Receiver::start().await);
    let document = world.get("/openapi.json").await.body;
    let documented: BTreeSet<_> =
        document["webhooks"].as_object().unwrap().keys().map(String::as_str).collect();
    let kinds: BTreeSet<_> = EventKind::ALL.iter().map(EventKind::as_str).collect();
    assert_eq!(documented, kinds);

    world.post("/instances/shop/webhook", json!({ "url": receiver.url(), "secret": SECRET })).await;
    let sent = world.queue("/messages/text", text("573001234567", "Hola")).await;
    world.until_status(&sent.id(), &["read"]).await;
    let logged = events_of_every_kind();
    let (stored, at) = (logged.clone(), Clock::system().now());
    world
        .change_store(move |tx| {
            for (kind, data) in stored {
                let event = Event { kind, at, data };
                events::append(tx, InstanceNumber::FIRST, &event)?;
            }
            Ok(())
        })
        .await;
    for kind in EventKind::ALL {
        let count = logged.iter().filter(|(logged, _)| logged == kind).count();
        for delivery in receiver.until_taken(kind.as_str(), count).await {
            let has_schema =
                document["webhooks"][kind.as_str()].to_string().contains("#/components/schemas/");
            let is_placeholder = delivery.body["data"] == placeholder(kind);
            assert!(!(has_schema && is_placeholder), "the test has no data of {kind}");
            assert_documented(&document, &delivery);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn answers_of_receivers_are_documented_for_every_kind() {
    let world = World::empty(|_| {}).await;
    let document = world.get("/openapi.json").await.body;
    let mut ids = BTreeSet::new();
    for (kind, item) in document["webhooks"].as_object().unwrap() {
        let webhook = &item["post"];
        assert!(ids.insert(webhook["operationId"].as_str().unwrap()), "{kind}");
        let answers = webhook["responses"].as_object().unwrap();
        let statuses: BTreeSet<_> = answers.keys().map(String::as_str).collect();
        assert_eq!(statuses, BTreeSet::from(["2XX", "408", "425", "429", "4XX", "default"]), "{kind}");
        assert!(answers.values().all(|answer| resolved(&document, answer)["description"].is_string()));
    }
}
