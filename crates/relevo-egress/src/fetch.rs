//! Bounded downloads through the guarded client.

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::{Egress, Error};

/// The content that a URL led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchResponse {
    pub bytes: Bytes,
    /// The `Content-Type` header, unchanged.
    pub content_type: Option<String>,
}

impl Egress {
    /// Downloads the content of a URL: at most `max_bytes`, through at most `max_redirects` redirects, each of which is
    /// guarded like the URL itself. The caller bounds the duration.
    ///
    /// # Errors
    ///
    /// The guard refuses an address, the host cannot be reached or answers another status than 200, or a limit is
    /// exceeded.
    pub async fn get_bounded(
        &self,
        url: &Url,
        max_bytes: usize,
        max_redirects: usize,
    ) -> Result<FetchResponse, Error> {
        let mut current = url.clone();
        for _ in 0..=max_redirects {
            let response = self.request(Method::GET, &current)?.send().await;
            let response = response.map_err(|cause| unreachable_host(&current, &cause))?;
            let status = response.status();
            if let Some(next) = redirect_target(&response) {
                current = next;
            } else if status == StatusCode::OK {
                let content_type = header(&response, CONTENT_TYPE.as_str()).map(str::to_owned);
                let bytes = read_bounded(response, max_bytes).await?;
                return Ok(FetchResponse { bytes, content_type });
            } else {
                return Err(Error::Status { host: host_of(&current), status: status.as_u16() });
            }
        }
        Err(Error::Redirects { host: host_of(url), limit: max_redirects })
    }
}

/// Reads the body of a response.
///
/// # Errors
///
/// The body is larger than `max_bytes`, or the connection breaks.
pub async fn read_bounded(mut response: Response, max_bytes: usize) -> Result<Bytes, Error> {
    let too_large = Error::TooLarge { limit: max_bytes };
    let announced = response.content_length().unwrap_or(0);
    if usize::try_from(announced).map_or(true, |size| size > max_bytes) {
        return Err(too_large);
    }
    let url = response.url().clone();
    let mut next = async || response.chunk().await.map_err(|cause| unreachable_host(&url, &cause));
    let Some(first) = next().await? else { return Ok(Bytes::new()) };
    // Most bodies arrive in one chunk, which needs no copy.
    let Some(second) = next().await? else {
        return if first.len() > max_bytes { Err(too_large) } else { Ok(first) };
    };
    let mut body = BytesMut::from(first);
    let mut chunk = Some(second);
    while let Some(bytes) = chunk {
        if body.len() + bytes.len() > max_bytes {
            return Err(too_large);
        }
        body.extend_from_slice(&bytes);
        chunk = next().await?;
    }
    Ok(body.freeze())
}

fn redirect_target(response: &Response) -> Option<Url> {
    let redirects = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = header(response, LOCATION.as_str()).filter(|_| redirects)?;
    response.url().join(location).ok()
}

fn header<'r>(response: &'r Response, name: &str) -> Option<&'r str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

fn unreachable_host(url: &Url, cause: &reqwest::Error) -> Error {
    match Error::find_in(cause) {
        Some(refused) => refused.clone(),
        None => Error::Unreachable { host: host_of(url), cause: root_cause(cause) },
    }
}

fn host_of(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

/// The text of the innermost cause of a failed request. The layers above it only repeat the URL, which may contain
/// secrets.
pub fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use axum::Router;
    use axum::http::StatusCode;
    use axum::response::{IntoResponse, Redirect};
    use axum::routing::get;

    use super::*;
    use crate::guard::Guard;
    use crate::ip_ranges::special_purpose_class;

    /// The ordinary classification, except that 127.0.0.1 counts as public.
    fn allow_localhost(ip: IpAddr) -> Option<&'static str> {
        if ip == Ipv4Addr::LOCALHOST { None } else { special_purpose_class(ip) }
    }

    fn egress() -> Egress {
        let lookup = |_: String| -> futures_util::future::BoxFuture<'static, _> {
            Box::pin(async { Ok(vec![IpAddr::from(Ipv4Addr::LOCALHOST)]) })
        };
        Egress::with_guard(Guard::with(allow_localhost, lookup), Duration::from_secs(5)).unwrap()
    }

    async fn serve(router: Router) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        address
    }

    async fn fetch(router: Router, path: &str) -> Result<FetchResponse, Error> {
        let url = format!("http://{}{path}", serve(router).await).parse().unwrap();
        egress().get_bounded(&url, 10, 2).await
    }

    fn content() -> Router {
        Router::new()
            .route("/small", get(|| async { ([("content-type", "image/png")], "0123456789") }))
            .route("/large", get(|| async { "0123456789+" }))
            .route("/endless", get(|| async { axum::body::Body::from_stream(endless()) }))
            .route("/once", get(|| async { Redirect::temporary("/small") }))
            .route("/loop", get(|| async { Redirect::permanent("/loop") }))
            .route("/inside", get(|| async { Redirect::to("http://127.0.0.2/") }))
            .route("/file", get(|| async { Redirect::to("file:///etc/passwd") }))
            .route("/broken", get(|| async { StatusCode::FOUND.into_response() }))
    }

    fn endless() -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> {
        futures_util::stream::repeat_with(|| Ok(Bytes::from_static(b"0123")))
    }

    #[tokio::test]
    async fn content_type_is_kept_across_redirects() {
        for path in ["/small", "/once"] {
            let fetched = fetch(content(), path).await.unwrap();
            assert_eq!(fetched.bytes, "0123456789", "{path}");
            assert_eq!(fetched.content_type.as_deref(), Some("image/png"), "{path}");
        }
    }

    #[tokio::test]
    async fn content_over_the_limit_is_rejected() {
        for path in ["/large", "/endless"] {
            assert_eq!(fetch(content(), path).await, Err(Error::TooLarge { limit: 10 }), "{path}");
        }
    }

    #[tokio::test]
    async fn redirects_are_guarded() {
        let inside = fetch(content(), "/inside").await.unwrap_err();
        assert!(matches!(inside, Error::Refused { class: "a loopback", .. }), "{inside}");
        assert_eq!(fetch(content(), "/file").await, Err(Error::Scheme("file".to_owned())));
        let endless = fetch(content(), "/loop").await.unwrap_err();
        assert!(matches!(endless, Error::Redirects { limit: 2, .. }), "{endless}");
        let nowhere = fetch(content(), "/broken").await.unwrap_err();
        assert!(matches!(nowhere, Error::Status { status: 302, .. }), "{nowhere}");
    }

    #[tokio::test]
    async fn unexpected_status_is_reported() {
        let missing = fetch(content(), "/missing").await.unwrap_err();
        assert!(matches!(missing, Error::Status { status: 404, .. }), "{missing}");
    }

    #[tokio::test]
    async fn dns_rebinding_is_refused() {
        let address = serve(content()).await;
        let lookups = AtomicUsize::new(0);
        let lookup = move |_: String| -> futures_util::future::BoxFuture<'static, _> {
            let answer =
                if lookups.fetch_add(1, Ordering::Relaxed) == 0 { [8, 8, 8, 8] } else { [127, 0, 0, 1] };
            Box::pin(async move { Ok(vec![IpAddr::from(answer)]) })
        };
        let egress =
            Egress::with_guard(Guard::with(special_purpose_class, lookup), Duration::from_secs(5)).unwrap();
        let url = format!("http://rebind.example:{}/small", address.port()).parse().unwrap();
        egress.check(&url).await.unwrap();
        let error = egress.get_bounded(&url, 10, 0).await.unwrap_err();
        assert!(matches!(error, Error::Refused { class: "a loopback", .. }), "{error}");
    }

    #[tokio::test]
    async fn connection_uses_the_checked_address() {
        let address = serve(content()).await;
        let url = format!("http://shop.example:{}/small", address.port()).parse().unwrap();
        assert_eq!(egress().get_bounded(&url, 10, 0).await.unwrap().bytes, "0123456789");
    }

    #[tokio::test]
    async fn closed_port_is_unreachable() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        drop(listener);
        let error = egress().get_bounded(&url, 10, 0).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    }
}
