//! The description of the API. Every operation comes from its handler; what is common to many is added here.

use utoipa::OpenApi as _;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    Components, ContentBuilder, ObjectBuilder, OpenApi, PathItem, Paths, Ref, RefOr, Required, Response,
    ResponseBuilder, Type,
};
use utoipa_axum::router::UtoipaMethodRouter;

use super::api::error::ApplicationErrorBody;
use super::error::ErrorBody;
use super::routes::api::responses::BulkSendResponse;
use super::routes::jobs::dto::JobResponse;
use super::routes::messages::submit::{QueuedResponse, SentResponse};
use super::{AppState, api};

const INSTANCE_PREFIX: &str = "/instances/{id}";
const MESSAGES_TAG: &str = "messages";

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
        (name = "messages", description = "Sending, and asking what became of it. Without X-Async an answer \
            tells how the one attempt ended; with it, that the node took the message over."),
        (name = "api", description = "The surface of the documented Flask service. Its errors are one text, `error`."),
        (name = "media", description = "What users sent."),
        (name = "queue", description = "What waits."),
        (name = "dead letters", description = "What the node gave up, until somebody decides."),
        (name = "jobs", description = "One message to the many recipients of a file."),
        (name = "events", description = "What happened, in pages or as it happens. Streams also take the key as \
            `?api_key=` or `?token=`, and WebSockets as the subprotocol `relevo.key.` and the key in base64url, \
            offered beside `relevo`."),
        (name = "webhooks", description = "Where events are delivered."),
        (name = "numbers", description = "An address book that its callers fill; it goes with what is relayed. \
            Answers have the form of the documented API: an error is `{\"error\": text}`."),
        (name = "suppressions", description = "Who must not be written to unasked."),
        (name = "relay", description = "The strict-order push of inbound messages to one WebSocket."),
        (name = "webhook", description = "Where Meta reports."),
    ),
    components(schemas(ErrorBody, ApplicationErrorBody, SentResponse, QueuedResponse, JobResponse, BulkSendResponse)),
)]
struct BaseDocument;

/// What the document says before any route joins it.
pub(super) fn base_document() -> OpenApi {
    let mut document = BaseDocument::openapi();
    let components = document.components.get_or_insert_with(Components::new);
    let header = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")));
    components.add_security_scheme("api_key", header);
    components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    document
}

/// Says of every operation what its path and its tag imply, and that it needs the key.
pub(super) fn complete_operations(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        for operation in operations(item) {
            let documented = api::is_application_path(path);
            let sends = !documented
                && path.contains("/messages/")
                && !path.contains("{message_id}")
                && !path.ends_with("/mark-read");
            if path.starts_with(INSTANCE_PREFIX) {
                add_parameter(operation, build_parameter("id", ParameterIn::Path, "The instance's name."));
            } else if has_messages_tag(operation) {
                let text = "The instance, where it is not the node's default_instance.";
                add_parameter(operation, build_parameter("X-Instance-Id", ParameterIn::Header, text));
            }
            for (name, text) in PATH_PARAMETERS {
                if path.contains(&format!("{{{name}}}")) {
                    add_parameter(operation, build_parameter(name, ParameterIn::Path, text));
                }
            }
            if documented && path.contains("/send-") {
                let text =
                    "The instance, where neither `instance_id` nor the node's default_instance is meant.";
                add_parameter(operation, build_parameter("X-Instance-Id", ParameterIn::Header, text));
                let [_, (name, text)] = SEND_HEADERS;
                add_parameter(operation, build_parameter(name, ParameterIn::Header, text));
            }
            if sends {
                for (name, text) in SEND_HEADERS {
                    add_parameter(operation, build_parameter(name, ParameterIn::Header, text));
                }
            }
            let schema = if documented { "ApplicationErrorBody" } else { "ErrorBody" };
            let either = ["api_key", "bearer"].map(|scheme| SecurityRequirement::new(scheme, [""; 0]));
            operation.security = Some(either.into());
            operation.responses.responses.insert("401".to_owned(), RefOr::T(unauthorized_response(schema)));
        }
    }
}

const PATH_PARAMETERS: [(&str, &str); 8] = [
    ("job_id", "The job's id."),
    ("task_id", "The `task_id` of the answer that queued it."),
    ("message_id", "The node's id (`msg_…`), the `correlation_id`, or WhatsApp's id once it is known."),
    ("media_id", "WhatsApp's id of the file."),
    ("endpoint_id", "The endpoint's id (`ep_…`)."),
    ("instance_id", "The instance's name."),
    ("sequence", "The event's place in the log of its instance."),
    ("phone", "The phone, as it is written on the list that the route is about."),
];

const SEND_HEADERS: [(&str, &str); 2] = [
    ("X-Async", "`true`: answer 202 as soon as the message is queued, durably."),
    (
        "Idempotency-Key",
        "1 to 255 characters, chosen by the caller. A repetition with the same key and body is answered like the \
         first request and sends nothing.",
    ),
];

/// The same routes once more, for the instance that no path names.
pub(super) fn for_default_instance(
    (schemas, paths, router): UtoipaMethodRouter<AppState>,
) -> UtoipaMethodRouter<AppState> {
    let mut renamed = Paths::new();
    for (path, mut item) in paths.paths {
        for operation in operations(&mut item) {
            operation.operation_id =
                operation.operation_id.take().map(|id| format!("{id}_by_default_instance"));
        }
        let path = path.strip_prefix(INSTANCE_PREFIX).map_or(path.clone(), str::to_owned);
        renamed.paths.insert(path, item);
    }
    (schemas, renamed, router)
}

/// The same routes once more below `/api/messages`, where one of the documents has them.
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

fn has_messages_tag(operation: &Operation) -> bool {
    operation.tags.as_ref().is_some_and(|tags| tags.iter().any(|tag| tag == MESSAGES_TAG))
}

fn add_parameter(operation: &mut Operation, parameter: Parameter) {
    operation.parameters.get_or_insert_default().push(RefOr::T(parameter));
}

fn build_parameter(name: &str, place: ParameterIn, description: &str) -> Parameter {
    let required = if place == ParameterIn::Path { Required::True } else { Required::False };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .description(Some(description))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build()
}

fn unauthorized_response(schema: &str) -> Response {
    let schema = Ref::from_schema_name(schema);
    ResponseBuilder::new()
        .description("The API key is missing or wrong.")
        .content("application/json", ContentBuilder::new().schema(Some(schema)).build())
        .build()
}
