//! Every route. A route is registered with its description in the OpenAPI document.

use std::time::Duration;

use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Router, body::Bytes};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

use relevo_domain::ErrorKind;

use super::api::error::{ApplicationError, rewrite_errors};
use super::api::is_application_path;
use super::api::texts::UNKNOWN_ENDPOINT;
use super::error::ApiError;
use super::routes::{
    api, cloud_webhook, dead_letters, events, instances, jobs, media, messages, node, numbers, queues, relay,
    suppressions, webhooks,
};
use super::{AppState, auth, body, openapi, rate_limit, request_checks};

/// The API as a service, with its fallbacks and layers.
pub fn router(state: AppState) -> Router {
    let (routes, document) = build_routes(&state);
    let document = serde_json::to_vec(&document).unwrap_or_default();
    // Fails only for a second router of the same state, which has the same routes.
    let _ = state.openapi_document.set(Bytes::from(document));
    let origins = &state.options.cors_origins;
    let cors = (!origins.is_empty()).then(|| cors_layer(origins));
    let checks = from_fn_with_state(state.clone(), request_checks::check_request);
    let routes = routes
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(handle_panic))
        .layer(checks)
        .layer(from_fn(rewrite_errors))
        .with_state(state);
    match cors {
        Some(cors) => routes.layer(cors),
        None => routes,
    }
}

/// The routes and their OpenAPI document.
fn build_routes(state: &AppState) -> (Router<AppState>, OpenApi) {
    let open = OpenApiRouter::with_openapi(openapi::base_document())
        .routes(routes!(node::info::service_info))
        .routes(routes!(node::health::health))
        .routes(routes!(node::health::live))
        .routes(routes!(node::health::ready))
        .routes(routes!(node::openapi::openapi_document))
        .routes(routes!(cloud_webhook::verify::verify, cloud_webhook::receive::receive))
        .routes(routes!(
            cloud_webhook::verify::verify_for_instance,
            cloud_webhook::receive::receive_for_instance
        ))
        .routes(routes!(api::status::health));

    let mut guarded = OpenApiRouter::new()
        .routes(routes!(instances::create::create, instances::list::list))
        .routes(routes!(instances::get::get, instances::update::update, instances::delete::delete))
        .routes(routes!(instances::connect::connect, instances::connect::progress))
        .routes(routes!(instances::qr::qr))
        .routes(routes!(instances::pair_code::pair_code))
        .routes(routes!(instances::logout::logout))
        .routes(routes!(instances::disconnect::disconnect))
        .routes(routes!(instances::restart::restart))
        .routes(routes!(instances::resume::resume))
        .routes(routes!(instances::status::status))
        .routes(routes!(instances::webhook::set, instances::webhook::get, instances::webhook::delete))
        .routes(routes!(webhooks::create::create_for_instance, webhooks::list::list_for_instance))
        .routes(routes!(webhooks::create::create, webhooks::list::list))
        .routes(routes!(webhooks::get::get, webhooks::update::update, webhooks::delete::delete))
        .routes(routes!(webhooks::enable::enable))
        .routes(routes!(webhooks::parked::list_parked))
        .routes(routes!(webhooks::parked::replay_parked))
        .routes(routes!(webhooks::parked::replay_parked_event))
        .routes(routes!(webhooks::parked::discard))
        .routes(routes!(webhooks::replay::replay_from))
        .routes(routes!(webhooks::deliveries::list))
        .routes(routes!(webhooks::deliveries::get))
        .routes(routes!(queues::get::get_for_instance))
        .routes(routes!(queues::list::list_all))
        .routes(routes!(dead_letters::list::list_for_instance, dead_letters::discard::discard_all))
        .routes(routes!(dead_letters::list::list_all))
        .routes(routes!(dead_letters::redrive::redrive_all))
        .routes(routes!(dead_letters::redrive::redrive))
        .routes(routes!(dead_letters::discard::discard))
        .routes(routes!(messages::scheduled::list))
        .routes(routes!(media::url::media_url))
        .routes(routes!(media::download::download_media))
        .routes(routes!(cloud_webhook::quarantine::list_quarantined))
        .routes(routes!(api::status::status))
        .routes(routes!(numbers::list::list, numbers::save::save))
        .routes(routes!(numbers::clear::clear))
        .routes(routes!(numbers::update::update))
        .routes(routes!(numbers::update::bulk_update))
        .routes(routes!(numbers::get::get, numbers::delete::delete, numbers::update::change))
        .routes(routes!(numbers::exists::exists))
        .routes(routes!(suppressions::list::list, suppressions::add::add))
        .routes(with_own_body_limit(routes!(suppressions::import::import)))
        .routes(routes!(suppressions::get::get, suppressions::delete::delete))
        .routes(routes!(relay::status::status))
        .routes(routes!(relay::status::lengths))
        .routes(routes!(relay::clear::clear))
        .routes(routes!(relay::test::test))
        .routes(routes!(relay::retry::retry_failed))
        .routes(routes!(relay::restart::restart))
        .routes(routes!(jobs::list::list))
        .routes(routes!(jobs::get::get, jobs::delete::delete))
        .routes(routes!(jobs::cancel::cancel))
        .routes(routes!(jobs::pause::pause))
        .routes(routes!(jobs::resume::resume))
        .routes(routes!(jobs::retry_failed::retry_failed))
        .routes(routes!(jobs::results::results))
        .routes(routes!(jobs::errors::errors))
        .routes(with_own_body_limit(routes!(jobs::upload::send)))
        .routes(with_own_body_limit(routes!(jobs::upload::send_short)))
        .routes(routes!(node::metrics::metrics));
    let for_any_instance = [
        routes!(messages::text::send_text),
        routes!(messages::text::send_text_with_typing),
        routes!(messages::poll::send_poll),
        routes!(messages::media::send_image),
        routes!(messages::media::send_video),
        routes!(messages::media::send_audio),
        routes!(messages::media::send_document),
        routes!(messages::media::send_sticker),
        routes!(messages::location::send_location),
        routes!(messages::contact::send_contact),
        routes!(messages::contact::send_contacts),
        routes!(messages::react::react),
        routes!(messages::edit::edit),
        routes!(messages::revoke::revoke),
        routes!(messages::mark_read::mark_read),
        routes!(messages::status::get, messages::cancel::delete, messages::reschedule::reschedule),
        routes!(messages::cancel::cancel),
        routes!(messages::download::download_message_media),
    ];
    for route in for_any_instance {
        guarded = guarded.routes(route.clone()).routes(openapi::for_default_instance(route));
    }
    let documented_routes = [
        routes!(api::send::send_message),
        routes!(api::send::send_template),
        routes!(api::send::send_template_advanced),
        routes!(api::send::send_interactive),
        routes!(api::send::send_list),
        routes!(api::send::send_button),
        routes!(api::send::send_location_request),
        routes!(api::send::send_media),
        routes!(api::send::send_reaction),
        routes!(api::send::send_bulk),
        routes!(api::send::send_bulk_list),
        routes!(api::send::send_bulk_interactive),
        routes!(api::send::send_bulk_button),
        routes!(api::send::send_bulk_template),
        routes!(api::send::send_broadcast_interactive),
        routes!(api::send::send_broadcast_template),
        routes!(api::send::send_personalized_broadcast),
        routes!(api::task_status::status),
    ];
    for route in documented_routes {
        guarded = guarded.routes(route.clone()).routes(openapi::under_messages(route));
    }
    let mut streams = OpenApiRouter::new()
        .routes(routes!(events::list::list_for_instance))
        .routes(routes!(events::stream::stream_for_instance))
        .routes(routes!(events::list::list_all))
        .routes(routes!(events::stream::stream_all))
        .routes(routes!(events::ws::open_for_instance))
        .routes(routes!(events::ws::open_for_all))
        .routes(routes!(jobs::ws::open));
    openapi::add_security(guarded.get_openapi_mut());
    openapi::add_security(streams.get_openapi_mut());
    // The last layer runs first: a request without the key does not count against the rate limit.
    let guarded = guarded
        .route_layer(from_fn_with_state(state.clone(), rate_limit::enforce_rate_limit))
        .route_layer(from_fn_with_state(state.clone(), auth::require_key));
    let streams = streams
        .route_layer(from_fn_with_state(state.clone(), rate_limit::enforce_rate_limit))
        .route_layer(from_fn_with_state(state.clone(), auth::require_stream_key));

    open.merge(guarded).merge(streams).split_for_parts()
}

/// Disables the general body limit for a route that streams its body and enforces its own limit.
fn with_own_body_limit(
    (schemas, paths, router): UtoipaMethodRouter<AppState>,
) -> UtoipaMethodRouter<AppState> {
    (schemas, paths, router.layer(DefaultBodyLimit::disable()))
}

async fn unknown_route(State(state): State<AppState>, request: Request) -> Response {
    let is_application = is_application_path(request.uri().path());
    body::discard(request, state.options.json_body_limit);
    if is_application {
        return ApplicationError::new(StatusCode::NOT_FOUND, UNKNOWN_ENDPOINT).into_response();
    }
    ApiError::new(ErrorKind::NotFound, "there is no such route; see GET /openapi.json").into_response()
}

async fn method_not_allowed(State(state): State<AppState>, request: Request) -> ApiError {
    // The path of a message is also that of a send, whose last segment is the type.
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let is_send = request.method() == Method::POST
        && matched.is_some_and(|path| path.ends_with("/messages/{message_id}"));
    let error = if is_send {
        let name = request.uri().path().rsplit('/').next().unwrap_or_default();
        let details = format!("there is no type of message {name:?}; see GET /openapi.json");
        ApiError::new(ErrorKind::NotFound, details)
    } else {
        ApiError::method_not_allowed()
    };
    body::discard(request, state.options.json_body_limit);
    error
}

fn handle_panic(cause: Box<dyn std::any::Any + Send>) -> axum::response::Response {
    let text = cause.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("no panic message");
    tracing::error!(cause = text, "handler panicked; answered with 500");
    ApiError::handler_panicked().into_response()
}

/// The CORS headers. With `*`, no page may send the browser's credentials, such as cookies of a proxy in front of the
/// node; the key is a header and not one of them. The origin `null` is that of sandboxed frames and local files of any
/// site, and is not admitted.
fn cors_layer(origins: &[String]) -> CorsLayer {
    let any = origins.iter().any(|origin| origin == "*");
    let allowed = if any {
        AllowOrigin::predicate(|origin, _| origin != "null")
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    let headers = ["x-api-key", "x-async", "idempotency-key", "x-instance-id"].map(HeaderName::from_static);
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::OPTIONS,
        ])
        .allow_headers([CONTENT_TYPE, AUTHORIZATION].into_iter().chain(headers).collect::<Vec<_>>())
        .expose_headers([RETRY_AFTER])
        .allow_credentials(!any)
        .max_age(Duration::from_secs(300))
}
