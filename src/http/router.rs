//! Every route. There is no other way to add one than through its description.

use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
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

use super::error::ApiError;
use super::flask::{self, ApplicationError};
use super::routes::api::{messages as api, status, tasks};
use super::routes::jobs::{commands, list, results, socket as job_socket, upload};
use super::routes::{
    dead_letters, deliveries, downloads, earlier, endpoints, events, instances, media, message, messages,
    metrics, numbers, pairing, primary, queues, relay, replays, root, scheduled, sockets, suppressions,
    webhook,
};
use super::{AppState, auth, body, openapi, rate_limit};

/// The API as a service, with everything around its routes.
pub fn router(state: AppState) -> Router {
    let (routes, document) = build_routes(&state);
    let document = serde_json::to_vec(&document).unwrap_or_default();
    // A second router of the same state describes the same routes.
    let _ = state.openapi_document.set(Bytes::from(document));
    let origins = &state.options.cors_origins;
    let cors = (!origins.is_empty()).then(|| cors_layer(origins));
    let routes = routes
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(handle_panic))
        .layer(from_fn(flask::rewrite_errors))
        .with_state(state);
    match cors {
        Some(cors) => routes.layer(cors),
        None => routes,
    }
}

/// The routes and their description.
fn build_routes(state: &AppState) -> (Router<AppState>, OpenApi) {
    let open = OpenApiRouter::with_openapi(openapi::base_document())
        .routes(routes!(root::service_info))
        .routes(routes!(root::health))
        .routes(routes!(root::live))
        .routes(routes!(root::ready))
        .routes(routes!(root::openapi_document))
        .routes(routes!(webhook::verify, webhook::receive))
        .routes(routes!(webhook::verify_for_instance, webhook::receive_for_instance))
        .routes(routes!(status::health));

    let mut guarded = OpenApiRouter::new()
        .routes(routes!(instances::create, instances::list))
        .routes(routes!(instances::get, instances::update, instances::delete))
        .routes(routes!(instances::connect, pairing::progress))
        .routes(routes!(pairing::qr))
        .routes(routes!(pairing::pair_code))
        .routes(routes!(pairing::logout))
        .routes(routes!(instances::disconnect))
        .routes(routes!(instances::restart))
        .routes(routes!(instances::resume))
        .routes(routes!(instances::status))
        .routes(routes!(primary::set, primary::get, primary::delete))
        .routes(routes!(endpoints::create_for_instance, endpoints::list_for_instance))
        .routes(routes!(endpoints::create, endpoints::list))
        .routes(routes!(endpoints::get, endpoints::update, endpoints::delete))
        .routes(routes!(endpoints::enable))
        .routes(routes!(replays::list_parked))
        .routes(routes!(replays::replay_parked))
        .routes(routes!(replays::replay_parked_event))
        .routes(routes!(replays::discard))
        .routes(routes!(replays::replay_from))
        .routes(routes!(deliveries::list))
        .routes(routes!(deliveries::get))
        .routes(routes!(queues::get_for_instance))
        .routes(routes!(queues::list_all))
        .routes(routes!(dead_letters::list_for_instance, dead_letters::discard_all))
        .routes(routes!(dead_letters::list_all))
        .routes(routes!(dead_letters::redrive_all))
        .routes(routes!(dead_letters::redrive))
        .routes(routes!(dead_letters::discard))
        .routes(routes!(scheduled::list))
        .routes(routes!(downloads::media_url))
        .routes(routes!(downloads::download_media))
        .routes(routes!(webhook::list_quarantined))
        .routes(routes!(status::status))
        .routes(routes!(numbers::list, numbers::save))
        .routes(routes!(numbers::clear))
        .routes(routes!(numbers::update))
        .routes(routes!(numbers::bulk_update))
        .routes(routes!(numbers::get, numbers::delete, numbers::change))
        .routes(routes!(numbers::exists))
        .routes(routes!(suppressions::list, suppressions::add))
        .routes(with_own_body_limit(routes!(suppressions::import)))
        .routes(routes!(suppressions::get, suppressions::delete))
        .routes(routes!(relay::status))
        .routes(routes!(relay::lengths))
        .routes(routes!(relay::clear))
        .routes(routes!(relay::test))
        .routes(routes!(relay::retry_failed))
        .routes(routes!(relay::restart))
        .routes(routes!(list::list))
        .routes(routes!(list::get, commands::delete))
        .routes(routes!(commands::cancel))
        .routes(routes!(commands::pause))
        .routes(routes!(commands::resume))
        .routes(routes!(commands::retry_failed))
        .routes(routes!(results::results))
        .routes(routes!(results::errors))
        .routes(with_own_body_limit(routes!(upload::send)))
        .routes(with_own_body_limit(routes!(upload::send_short)))
        .routes(routes!(metrics::metrics));
    let of_an_instance_or_the_default = [
        routes!(messages::send_text),
        routes!(messages::send_text_with_typing),
        routes!(messages::send_poll),
        routes!(media::send_image),
        routes!(media::send_video),
        routes!(media::send_audio),
        routes!(media::send_document),
        routes!(media::send_sticker),
        routes!(messages::send_location),
        routes!(messages::send_contact),
        routes!(messages::send_contacts),
        routes!(messages::react),
        routes!(earlier::edit),
        routes!(earlier::revoke),
        routes!(earlier::mark_read),
        routes!(message::get, message::delete, message::reschedule),
        routes!(message::cancel),
        routes!(downloads::download_message_media),
    ];
    for route in of_an_instance_or_the_default {
        guarded = guarded.routes(route.clone()).routes(openapi::for_default_instance(route));
    }
    let of_the_documented_service = [
        routes!(api::send_message),
        routes!(api::send_template),
        routes!(api::send_template_advanced),
        routes!(api::send_interactive),
        routes!(api::send_list),
        routes!(api::send_button),
        routes!(api::send_location_request),
        routes!(api::send_media),
        routes!(api::send_reaction),
        routes!(api::send_bulk),
        routes!(api::send_bulk_list),
        routes!(api::send_bulk_interactive),
        routes!(api::send_bulk_button),
        routes!(api::send_bulk_template),
        routes!(api::send_broadcast_interactive),
        routes!(api::send_broadcast_template),
        routes!(api::send_personalized_broadcast),
        routes!(tasks::status),
    ];
    for route in of_the_documented_service {
        guarded = guarded.routes(route.clone()).routes(openapi::under_messages(route));
    }
    let mut streams = OpenApiRouter::new()
        .routes(routes!(events::list_for_instance))
        .routes(routes!(events::stream_for_instance))
        .routes(routes!(events::list_all))
        .routes(routes!(events::stream_all))
        .routes(routes!(sockets::open_for_instance))
        .routes(routes!(sockets::open_for_all))
        .routes(routes!(job_socket::open));
    openapi::complete_operations(guarded.get_openapi_mut());
    openapi::complete_operations(streams.get_openapi_mut());
    // The last layer is the first to be met: who has no key uses up nobody's pace.
    let guarded = guarded
        .route_layer(from_fn_with_state(state.clone(), rate_limit::enforce_rate_limit))
        .route_layer(from_fn_with_state(state.clone(), auth::require_key));
    let streams = streams
        .route_layer(from_fn_with_state(state.clone(), rate_limit::enforce_rate_limit))
        .route_layer(from_fn_with_state(state.clone(), auth::require_stream_key));

    open.merge(guarded).merge(streams).split_for_parts()
}

/// A route that reads its body while it arrives and has a limit of its own.
fn with_own_body_limit(
    (schemas, paths, router): UtoipaMethodRouter<AppState>,
) -> UtoipaMethodRouter<AppState> {
    (schemas, paths, router.layer(DefaultBodyLimit::disable()))
}

async fn unknown_route(State(state): State<AppState>, request: Request) -> Response {
    let documented = flask::is_application_path(request.uri().path());
    body::discard(request, state.options.json_body_limit);
    if documented {
        return ApplicationError::new(StatusCode::NOT_FOUND, "Endpoint no encontrado").into_response();
    }
    ApiError::new(ErrorKind::NotFound, "there is no such route; see GET /openapi.json").into_response()
}

async fn method_not_allowed(State(state): State<AppState>, request: Request) -> ApiError {
    body::discard(request, state.options.json_body_limit);
    ApiError::method_not_allowed()
}

fn handle_panic(cause: Box<dyn std::any::Any + Send>) -> axum::response::Response {
    let text = cause.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("a panic without words");
    tracing::error!(cause = text, "a handler panicked");
    ApiError::handler_panicked().into_response()
}

/// What browsers are told. Any origin is answered by its own name, because `*` would forbid credentials.
fn cors_layer(origins: &[String]) -> CorsLayer {
    let any = origins.iter().any(|origin| origin == "*");
    let allowed = if any {
        AllowOrigin::mirror_request()
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
        .allow_credentials(true)
        .max_age(Duration::from_secs(300))
}
