//! The OpenAPI document. Each handler describes its operation; what many operations share, and the webhooks, are added
//! here.

mod event_data;
mod webhooks;

use utoipa::OpenApi as _;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    Components, ContentBuilder, OpenApi, PathItem, Paths, Ref, RefOr, Response, ResponseBuilder,
};
use utoipa_axum::router::UtoipaMethodRouter;

use super::api::error::ApplicationErrorBody;
use super::error::ErrorBody;
use super::extract::instance_id_parameter;
use super::routes::api::responses::{BulkSendResponse, SendMessageResponse};
use super::routes::jobs::dto::JobResponse;
use super::routes::messages::submit::{QueuedResponse, SentResponse};
use super::{AppState, api};
use event_data::{
    ConsentData, GapData, JobData, MessageAckData, MessageData, PairedData, QrData, ReceiptData, StatusData,
    WebhookDisabledData,
};

const INSTANCE_PREFIX: &str = "/instances/{id}";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "relevo",
        description = "A WhatsApp messaging node: REST in, WhatsApp out, events back.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "node", description = "The node itself."),
        (name = "instances", description = "The WhatsApp accounts that the node runs."),
        (name = "messages", description = "Sending, and the status of messages. Without X-Async the response \
            has the outcome of the one attempt; with it, the message is queued and the node delivers it."),
        (name = "api", description = "The routes of the documented Flask service. Its errors are one text, `error`."),
        (name = "media", description = "Files that users sent."),
        (name = "queue", description = "The queues of waiting messages."),
        (name = "dead letters", description = "Messages that the node stopped sending, until an operator decides."),
        (name = "jobs", description = "One message to the many recipients of a file."),
        (name = "events", description = "Events, in pages or as streams. Streams also take the key as \
            `?api_key=` or `?token=`, and WebSockets as the subprotocol `relevo.key.` and the key in base64url, \
            offered beside `relevo`."),
        (name = "webhooks", description = "The endpoints that receive events."),
        (name = "deliveries", description = "The requests that an endpoint receives, one for each event, in the order \
            of the instance's log. The same event can arrive more than once."),
        (name = "numbers", description = "An address book that its callers fill; relayed messages carry its data. \
            Answers have the form of the documented API: an error is `{\"error\": text}`."),
        (name = "suppressions", description = "Recipients that must not be written to unasked."),
        (name = "relay", description = "The strict-order push of inbound messages to one WebSocket."),
        (name = "webhook", description = "The webhook of the Cloud API."),
    ),
    components(schemas(
        ErrorBody, ApplicationErrorBody, SentResponse, QueuedResponse, JobResponse, BulkSendResponse, SendMessageResponse,
        ConsentData, GapData, JobData, MessageAckData, MessageData, PairedData, QrData, ReceiptData, StatusData,
        WebhookDisabledData,
    )),
)]
struct BaseDocument;

/// The document without routes.
pub(super) fn base_document() -> OpenApi {
    let mut document = BaseDocument::openapi();
    let components = document.components.get_or_insert_with(Components::new);
    let header = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")));
    components.add_security_scheme("api_key", header);
    components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    webhooks::add_webhooks(&mut document);
    document
}

/// Adds the security requirement and the 401 response to every operation.
pub(super) fn add_security(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        for operation in operations(item) {
            let schema = if api::is_application_path(path) { "ApplicationErrorBody" } else { "ErrorBody" };
            let either = ["api_key", "bearer"].map(|scheme| SecurityRequirement::new(scheme, [""; 0]));
            operation.security = Some(either.into());
            operation.responses.responses.insert("401".to_owned(), RefOr::T(unauthorized_response(schema)));
        }
    }
}

/// The same routes without `/instances/{id}`, for the default instance or the one in `X-Instance-Id`.
pub(super) fn for_default_instance(
    (schemas, paths, router): UtoipaMethodRouter<AppState>,
) -> UtoipaMethodRouter<AppState> {
    let mut renamed = Paths::new();
    for (path, mut item) in paths.paths {
        for operation in operations(&mut item) {
            operation.operation_id =
                operation.operation_id.take().map(|id| format!("{id}_by_default_instance"));
            for parameter in operation.parameters.iter_mut().flatten() {
                if matches!(parameter, RefOr::T(found) if found.name == "id") {
                    *parameter = RefOr::T(instance_id_parameter());
                }
            }
        }
        let path = path.strip_prefix(INSTANCE_PREFIX).map_or(path.clone(), str::to_owned);
        renamed.paths.insert(path, item);
    }
    (schemas, renamed, router)
}

/// The same routes below `/api/messages`, where one of the documents has them.
pub(super) fn under_messages(
    (schemas, paths, router): UtoipaMethodRouter<AppState>,
) -> UtoipaMethodRouter<AppState> {
    let mut renamed = Paths::new();
    for (path, mut item) in paths.paths {
        for operation in operations(&mut item) {
            operation.operation_id = operation.operation_id.take().map(|id| format!("{id}_under_messages"));
        }
        let path = path.strip_prefix("/api/").map_or(path.clone(), |rest| format!("/api/messages/{rest}"));
        renamed.paths.insert(path, item);
    }
    (schemas, renamed, router)
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}

fn unauthorized_response(schema: &str) -> Response {
    let schema = Ref::from_schema_name(schema);
    ResponseBuilder::new()
        .description("The API key is missing or wrong.")
        .content("application/json", ContentBuilder::new().schema(Some(schema)).build())
        .build()
}
