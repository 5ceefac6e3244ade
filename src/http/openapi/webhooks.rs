//! The `webhooks` of the OpenAPI document: what endpoints receive, one webhook per event kind.
//!
//! `tests/it/webhooks/openapi.rs` compares every webhook with a real delivery.

use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, Parameter};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::{
    ContentBuilder, HeaderBuilder, KnownFormat, ObjectBuilder, OpenApi, PathItem, Paths, PathsBuilder, Ref,
    RefOr, Required, Response, ResponseBuilder, Schema, SchemaFormat, Type,
};

use super::event_data::data_schema;
use crate::http::parameter;
use relevo_domain::{EventKind, ProviderKind};

/// Statuses that ask for another attempt, although other 4xx statuses refuse the event.
const TEMPORARY_STATUSES: [&str; 3] = ["408", "425", "429"];

/// Adds the webhooks, and the headers and answers that they share, to the document.
pub(super) fn add_webhooks(document: &mut OpenApi) {
    let components = document.components.get_or_insert_default();
    for (name, header) in headers() {
        components.parameters.insert(name.to_owned(), RefOr::T(header));
    }
    for (name, answer) in answers() {
        components.responses.insert(name.to_owned(), RefOr::T(answer));
    }
    document.webhooks = Some(webhooks());
}

fn webhooks() -> Paths {
    let add = |paths: PathsBuilder, kind: &EventKind| {
        paths.path(kind.as_str(), PathItem::new(HttpMethod::Post, delivery(kind)))
    };
    EventKind::ALL.iter().fold(PathsBuilder::new(), add).build()
}

/// The delivery of an event of this kind.
fn delivery(kind: &EventKind) -> Operation {
    let source = match kind.providers() {
        [ProviderKind::CloudApi] => "instances on the Cloud API",
        [ProviderKind::LinkedDevice] => "linked devices",
        _ => "all instances",
    };
    let body = ContentBuilder::new().schema(Some(body_schema(kind))).build();
    let mut operation = OperationBuilder::new()
        .operation_id(Some(format!("deliver_{kind}")))
        .tag("deliveries")
        .summary(Some(kind.when()))
        .description(Some(format!("What to do: {} Emitted by {source}.", kind.action())))
        .request_body(Some(
            RequestBodyBuilder::new()
                .content("application/json", body)
                .required(Some(Required::True))
                .build(),
        ));
    for (name, _) in headers() {
        operation = operation.parameter_ref(Ref::new(format!("#/components/parameters/{name}")));
    }
    let answer = |name: &str| Ref::from_response_name(name);
    operation = operation.response("2XX", answer("DeliveryTaken")).response("4XX", answer("DeliveryRefused"));
    for status in TEMPORARY_STATUSES {
        operation = operation.response(status, answer("DeliveryRetried"));
    }
    operation.response("default", answer("DeliveryRetried")).build()
}

/// The body of a delivery.
fn body_schema(kind: &EventKind) -> Schema {
    let text = |description: &str| {
        ObjectBuilder::new().schema_type(Type::String).description(Some(description.to_owned()))
    };
    let seconds = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .minimum(Some(0))
        .description(Some("Time of the event, in Unix seconds."));
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("instance_id", text("The instance whose event it is."))
        .required("instance_id")
        .property("event", text("The kind of the event.").enum_values(Some([kind.as_str()])))
        .required("event")
        .property("timestamp", seconds)
        .required("timestamp")
        .property("data", data_schema(kind))
        .required("data")
        .build()
        .into()
}

/// The headers of every delivery, with their names in the components.
fn headers() -> [(&'static str, Parameter); 4] {
    let required = |mut parameter: Parameter| {
        parameter.required = Required::True;
        parameter
    };
    [
        (
            "DeliveryId",
            required(parameter::header(
                "webhook-id",
                "Identifies the event at this endpoint: the same on every attempt, so that a repeated delivery can be \
                 recognised.",
            )),
        ),
        (
            "DeliveryTimestamp",
            required(parameter::header("webhook-timestamp", "Time of the attempt, in Unix seconds.")),
        ),
        (
            "DeliverySignature",
            parameter::header(
                "webhook-signature",
                "With a secret: `v1,` and the HMAC-SHA256 of `webhook-id`.`webhook-timestamp`.body in base64, as \
                 Standard Webhooks 1.0.0 defines it. The key is the bytes of the secret, or what the base64 after \
                 `whsec_` encodes.",
            ),
        ),
        (
            "DeliveryBodySignature",
            parameter::header(
                "X-Webhook-Signature",
                "With a secret: the HMAC-SHA256 of the body with the same key, in lowercase hexadecimal.",
            ),
        ),
    ]
}

/// The answers of a receiver, with their names in the components.
fn answers() -> [(&'static str, Response); 3] {
    let text = ObjectBuilder::new().schema_type(Type::String);
    let retry_after = HeaderBuilder::new()
        .schema(Some(text))
        .description(Some(
            "Minimum delay before the next attempt: seconds, or a date. `webhook.max_delay` limits it.",
        ))
        .build();
    [
        (
            "DeliveryTaken",
            Response::new("The receiver has taken the event; the next one follows. The body is ignored."),
        ),
        (
            "DeliveryRefused",
            Response::new(
                "The receiver refuses the event. After three such answers, 410 included, the event is parked, and the \
                 next one follows; `POST /webhooks/{endpoint_id}/parked/replay` sends parked events again.",
            ),
        ),
        (
            "DeliveryRetried",
            ResponseBuilder::new()
                .description(
                    "Any other answer, redirects included, or none within `webhook.timeout`: the event is sent again \
                     with growing delays, and later events wait. An endpoint that accepts nothing for \
                     `webhook.give_up_after` is disabled, with an event `webhook_disabled`.",
                )
                .header("Retry-After", retry_after)
                .build(),
        ),
    ]
}
