//! Requests to the Graph API, and the failure that each outcome means.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::multipart::Form;
use reqwest::{Method, RequestBuilder, Response};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use url::Url;

use super::errors::GraphError;
use relevo_domain::{CloudApiSettings, Failure, FailureKind, FailureScope, ValidationError};
use relevo_egress::{self as egress, Egress};

/// Maximum size of an answer; those of the Graph API have less than 2 KB.
const MAX_RESPONSE_BYTES: usize = 256 << 10;

/// Delay after a `429` that names none.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Maximum delay that is taken from a header. Meta's longest budget is that of one hour (its page "Rate limits").
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Maximum delay that is taken from a header of an answer that Meta did not write.
const MAX_FOREIGN_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Maximum number of redirects of a file's address.
const MAX_REDIRECTS: usize = 3;

/// The endpoints and the token of one phone number.
pub(super) struct GraphClient {
    egress: Egress,
    authorization: HeaderValue,
    phone_number_id: String,
    /// The base URL with the API version.
    root: Url,
    number: Url,
    messages: Url,
    media: Url,
}

/// The answer to a request for a file's address.
pub(super) enum MediaUrlResponse {
    File(Response),
    /// The address is no longer valid; it is valid for minutes.
    Expired,
}

#[derive(Deserialize)]
struct GraphErrorResponse {
    error: GraphError,
}

impl GraphClient {
    /// Checks the settings. Makes no request.
    pub fn new(settings: &CloudApiSettings, egress: Egress) -> Result<Self, ValidationError> {
        let id = &settings.phone_number_id;
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
            let reason = "must be the phone number id of Meta's dashboard: letters and digits, no '+'";
            return Err(ValidationError::new("cloud_api.phone_number_id", reason));
        }
        if !is_api_version(&settings.api_version) {
            let reason = "must be a version of the Graph API, such as v25.0";
            return Err(ValidationError::new("cloud_api.api_version", reason));
        }
        let endpoint = |path: &[&str]| endpoint(&settings.base_url, &settings.api_version, path);
        Ok(Self {
            egress,
            authorization: authorization(settings)?,
            phone_number_id: id.clone(),
            root: endpoint(&[])?,
            number: endpoint(&[id])?,
            messages: endpoint(&[id, "messages"])?,
            media: endpoint(&[id, "media"])?,
        })
    }

    /// Requests the phone number object, which requires a valid token and a registered number. An answer without it was
    /// not written by Meta, but for example by the login page of a network.
    pub async fn probe(&self) -> Result<(), Failure> {
        #[derive(Deserialize)]
        struct PhoneNumber {
            #[serde(rename = "id")]
            _id: IgnoredAny,
        }
        let body = self.send_request(self.egress.request(Method::GET, &self.number)).await?;
        match serde_json::from_slice(&body) {
            Ok(PhoneNumber { .. }) => Ok(()),
            Err(_) => Err(unexpected_response(&body)),
        }
    }

    pub async fn post_message(&self, message: &impl Serialize) -> Result<Bytes, Failure> {
        let body = serde_json::to_vec(message)
            .map_err(|cause| Failure::permanent(format!("the message cannot be written as JSON: {cause}")))?;
        let request = self.egress.request(Method::POST, &self.messages);
        let json = HeaderValue::from_static("application/json");
        self.send_request(request.map(|request| request.header(CONTENT_TYPE, json).body(body))).await
    }

    pub async fn post_media(&self, form: Form) -> Result<Bytes, Failure> {
        let request = self.egress.request(Method::POST, &self.media);
        self.send_request(request.map(|request| request.multipart(form))).await
    }

    /// Requests the description of a file of this number.
    pub async fn get_media(&self, id: &str) -> Result<Bytes, Failure> {
        let valid = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        let mut url = self.root.clone();
        if !valid {
            return Err(Failure::permanent("a media id has letters and digits only"));
        }
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(id);
        }
        url.query_pairs_mut().append_pair("phone_number_id", &self.phone_number_id);
        self.send_request(self.egress.request(Method::GET, &url)).await
    }

    /// Requests a file from the address that WhatsApp returned. Redirects are guarded like the address itself; the token
    /// is sent only to the origin that WhatsApp named.
    pub async fn open_media_url(&self, address: &Url) -> Result<MediaUrlResponse, Failure> {
        let mut current = address.clone();
        for _ in 0..=MAX_REDIRECTS {
            let request =
                self.egress.request(Method::GET, &current).map_err(|refusal| media_url_blocked(&refusal))?;
            let trusted = current.origin() == address.origin();
            let request =
                if trusted { request.header(AUTHORIZATION, self.authorization.clone()) } else { request };
            let response = request.send().await.map_err(|cause| media_request_failure(&cause))?;
            match response.status().as_u16() {
                200 => return Ok(MediaUrlResponse::File(response)),
                301 | 302 | 303 | 307 | 308 => {
                    let next = response.headers().get(LOCATION).and_then(|next| next.to_str().ok());
                    let next = next.and_then(|next| current.join(next).ok());
                    current =
                        next.ok_or_else(|| Failure::permanent("the file's address redirects to nowhere"))?;
                }
                403 | 404 | 410 => return Ok(MediaUrlResponse::Expired),
                status => {
                    return Err(idempotent_failure(response_failure(
                        status,
                        retry_after_from_headers(response.headers()),
                        &[],
                    )));
                }
            }
        }
        Err(Failure::permanent(format!("the file's address redirects more than {MAX_REDIRECTS} times")))
    }

    async fn send_request(&self, request: Result<RequestBuilder, egress::Error>) -> Result<Bytes, Failure> {
        let request = request.map_err(|refusal| base_url_blocked(&refusal))?;
        let response = request.header(AUTHORIZATION, self.authorization.clone()).send().await;
        let response = response.map_err(|cause| request_failure(&cause))?;
        let (status, is_success) = (response.status().as_u16(), response.status().is_success());
        let retry_after = if is_success { None } else { retry_after_from_headers(response.headers()) };
        match egress::read_bounded(response, MAX_RESPONSE_BYTES).await {
            Ok(body) if is_success => Ok(body),
            Ok(body) => Err(response_failure(status, retry_after, &body)),
            Err(cause) if is_success => {
                Err(Failure::ambiguous(format!("WhatsApp's answer is incomplete or unreadable: {cause}")))
            }
            Err(_) => Err(response_failure(status, retry_after, &[])),
        }
    }
}

/// The failure that a successful answer (2xx) means whose body is not the expected one.
pub(super) fn unexpected_response(body: &[u8]) -> Failure {
    match serde_json::from_slice::<GraphErrorResponse>(body) {
        Ok(refused) => refused.error.to_failure(Some(200)),
        Err(_) => Failure::ambiguous("WhatsApp answered with success and an unexpected body"),
    }
}

/// The failure of an idempotent request: an unknown outcome counts as transient.
pub(super) fn idempotent_failure(mut failure: Failure) -> Failure {
    if failure.kind == FailureKind::Ambiguous {
        failure.kind = FailureKind::Transient { max_attempts: None };
    }
    failure
}

fn is_api_version(text: &str) -> bool {
    let digits = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    let parts = text.strip_prefix('v').and_then(|rest| rest.split_once('.'));
    parts.is_some_and(|(major, minor)| digits(major) && digits(minor))
}

fn authorization(settings: &CloudApiSettings) -> Result<HeaderValue, ValidationError> {
    let token = settings.access_token.expose();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        let reason = "must be an access token of Meta, without spaces or line breaks";
        return Err(ValidationError::new("cloud_api.access_token", reason));
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| ValidationError::new("cloud_api.access_token", "cannot be sent in an HTTP header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn endpoint(base: &Url, version: &str, path: &[&str]) -> Result<Url, ValidationError> {
    let wrong =
        || ValidationError::new("cloud_api.base_url", "must begin with http:// or https:// and name a host");
    if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
        return Err(wrong());
    }
    let mut url = base.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.path_segments_mut().map_err(|()| wrong())?.pop_if_empty().push(version).extend(path);
    Ok(url)
}

/// The guard refused the base URL. This concerns the settings, not the message: the instance waits until they are
/// corrected.
fn base_url_blocked(refusal: &egress::Error) -> Failure {
    let text = format!("the instance's cloud_api.base_url is refused: {refusal}");
    Failure::new(FailureKind::AccountBlocked, FailureScope::Number, text)
}

/// The guard refused the address that WhatsApp returned for a file.
fn media_url_blocked(refusal: &egress::Error) -> Failure {
    let text = format!("the address that WhatsApp returned for the file is refused: {refusal}");
    Failure::new(FailureKind::AccountBlocked, FailureScope::Number, text)
}

/// The request to a file's address failed without an answer. It can be repeated.
fn media_request_failure(cause: &reqwest::Error) -> Failure {
    match egress::Error::find_in(cause).filter(|error| error.is_refusal()) {
        Some(refusal) => media_url_blocked(refusal),
        None => media_transfer_failure(cause),
    }
}

/// The transfer of a file failed.
pub(super) fn media_transfer_failure(cause: &reqwest::Error) -> Failure {
    Failure::transient(format!("the file could not be fetched from WhatsApp: {}", egress::root_cause(cause)))
}

/// The request failed without an answer. A failure before the request was written means that nothing was sent.
fn request_failure(cause: &reqwest::Error) -> Failure {
    if let Some(refusal) = egress::Error::find_in(cause).filter(|error| error.is_refusal()) {
        return base_url_blocked(refusal);
    }
    let reason = egress::root_cause(cause);
    if cause.is_connect() {
        Failure::transient(format!("WhatsApp cannot be reached: {reason}"))
    } else if cause.is_builder() {
        Failure::permanent(format!("the request cannot be built: {reason}"))
    } else {
        Failure::ambiguous(format!("the connection to WhatsApp broke before the answer: {reason}"))
    }
}

/// The failure that an answer without success means. `delay` is the one that its headers name.
fn response_failure(status: u16, delay: Option<Duration>, body: &[u8]) -> Failure {
    let (mut failure, delay) = match serde_json::from_slice::<GraphErrorResponse>(body) {
        Ok(refused) => (refused.error.to_failure(Some(status)), delay),
        Err(_) => (foreign_failure(status), delay.map(|delay| delay.min(MAX_FOREIGN_RETRY_AFTER))),
    };
    if let (FailureKind::Throttled { retry_after }, FailureScope::Number) = (&mut failure.kind, failure.scope)
    {
        *retry_after = delay.map_or(*retry_after, |delay| delay.max(*retry_after));
    }
    failure
}

/// The failure that an answer without a Graph error means: another server wrote it, such as a proxy. It says nothing about
/// the account, so the instance probes WhatsApp before it sends more. A 408 or 5xx does not say whether WhatsApp got the
/// request; without Meta's own word the outcome is unknown.
fn foreign_failure(status: u16) -> Failure {
    let answered = format!("an answer with status {status} and without an error of the Graph API");
    match status {
        408 => Failure::ambiguous(answered),
        429 => {
            let kind = FailureKind::Throttled { retry_after: DEFAULT_RETRY_AFTER };
            Failure::new(kind, FailureScope::Number, answered)
        }
        300..=499 => {
            let text = format!(
                "{answered}: WhatsApp did not write it; check proxies, firewalls and cloud_api.base_url"
            );
            Failure::new(FailureKind::Transient { max_attempts: None }, FailureScope::Number, text)
        }
        _ => Failure::ambiguous(answered),
    }
}

/// The delay that the headers name: Meta's `estimated_time_to_regain_access`, in minutes, or `Retry-After`, in seconds.
fn retry_after_from_headers(headers: &HeaderMap) -> Option<Duration> {
    #[derive(Deserialize)]
    struct BusinessUsage {
        #[serde(default)]
        estimated_time_to_regain_access: u64,
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let usage = text("x-business-use-case-usage")
        .and_then(|json| serde_json::from_str::<HashMap<String, Vec<BusinessUsage>>>(json).ok());
    let minutes = usage.and_then(|accounts| {
        accounts.into_values().flatten().map(|usage| usage.estimated_time_to_regain_access).max()
    });
    let seconds = text(RETRY_AFTER.as_str()).and_then(|seconds| seconds.trim().parse::<u64>().ok());
    let longest = minutes.map(|minutes| minutes.saturating_mul(60)).max(seconds)?;
    (longest > 0).then(|| Duration::from_secs(longest).min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_domain::Secret;

    fn settings() -> CloudApiSettings {
        CloudApiSettings {
            phone_number_id: "106540352242922".to_owned(),
            access_token: Secret::new("EAAG"),
            app_secret: None,
            verify_token: None,
            base_url: "https://graph.facebook.com".parse().unwrap(),
            api_version: "v25.0".to_owned(),
        }
    }

    fn open(settings: &CloudApiSettings) -> Result<GraphClient, ValidationError> {
        GraphClient::new(settings, Egress::new(&egress::Options::default()).unwrap())
    }

    #[test]
    fn endpoints_follow_the_base_url() {
        for (base, expected) in [
            ("https://graph.facebook.com", "https://graph.facebook.com/v25.0/106540352242922/messages"),
            ("http://proxy:8080/meta/?x=1#y", "http://proxy:8080/meta/v25.0/106540352242922/messages"),
        ] {
            let graph = open(&CloudApiSettings { base_url: base.parse().unwrap(), ..settings() }).unwrap();
            assert_eq!(graph.messages.as_str(), expected);
        }
        assert_eq!(open(&settings()).unwrap().number.path(), "/v25.0/106540352242922");
    }

    #[test]
    fn invalid_setting_is_named() {
        let invalid_field = |change: fn(&mut CloudApiSettings)| {
            let mut settings = settings();
            change(&mut settings);
            open(&settings).err().map(|invalid| invalid.field).unwrap_or_default()
        };
        assert_eq!(invalid_field(|_| {}), "");
        assert_eq!(invalid_field(|s| s.phone_number_id = "1/../2".to_owned()), "cloud_api.phone_number_id");
        assert_eq!(invalid_field(|s| s.phone_number_id = String::new()), "cloud_api.phone_number_id");
        assert_eq!(invalid_field(|s| s.access_token = Secret::new("")), "cloud_api.access_token");
        assert_eq!(invalid_field(|s| s.access_token = Secret::new("EAAG\n")), "cloud_api.access_token");
        assert_eq!(invalid_field(|s| s.api_version = "25".to_owned()), "cloud_api.api_version");
        assert_eq!(invalid_field(|s| s.api_version = "v25.0/x".to_owned()), "cloud_api.api_version");
        assert_eq!(invalid_field(|s| s.base_url = "ftp://x/".parse().unwrap()), "cloud_api.base_url");
    }

    #[test]
    fn foreign_response_is_classified_by_status() {
        for (status, class) in [
            (200, "ambiguous"),
            (302, "transient"),
            (308, "transient"),
            (400, "transient"),
            (401, "transient"),
            (403, "transient"),
            (404, "transient"),
            (405, "transient"),
            (407, "transient"),
            (408, "ambiguous"),
            (413, "transient"),
            (429, "throttled"),
            (500, "ambiguous"),
            (502, "ambiguous"),
            (503, "ambiguous"),
        ] {
            let failure = response_failure(status, None, b"<html>");
            assert_eq!(failure.kind.as_str(), class, "{status}");
            // The instance is probed before it sends more.
            assert_eq!(failure.scope == FailureScope::Number, class != "ambiguous", "{status}");
        }
    }

    #[test]
    fn pause_that_a_header_names_is_bounded() {
        let years = Some(Duration::from_secs(10 * 365 * 24 * 3600));
        let pause = |body: &[u8], header: Option<Duration>| match response_failure(
            429,
            header.map(|delay| delay.min(MAX_RETRY_AFTER)),
            body,
        )
        .kind
        {
            FailureKind::Throttled { retry_after } => retry_after.as_secs(),
            other => panic!("{other:?}"),
        };
        assert_eq!(pause(b"slow down", years), 60);
        assert_eq!(pause(b"slow down", None), 5);
        assert_eq!(pause(br#"{"error":{"code":130429}}"#, years), 3600);
        assert_eq!(pause(br#"{"error":{"code":130429}}"#, None), 1);
    }

    #[test]
    fn server_error_with_metas_code_is_metas_word() {
        for status in [408, 500, 503] {
            let kind = |code: i64| {
                let body = format!(r#"{{"error":{{"code":{code}}}}}"#);
                response_failure(status, None, body.as_bytes()).kind
            };
            assert_eq!(kind(2), FailureKind::Transient { max_attempts: None }, "{status}");
            assert_eq!(kind(1), FailureKind::Transient { max_attempts: Some(3) }, "{status}");
            assert_eq!(kind(131_000), FailureKind::Transient { max_attempts: Some(3) }, "{status}");
        }
    }

    #[test]
    fn retry_after_follows_the_headers() {
        let header = |name: &'static str, value: &'static str| {
            retry_after_from_headers(&HeaderMap::from_iter([(
                reqwest::header::HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )]))
        };
        let usage = r#"{"1":[{"type":"whatsapp","call_count":100,"estimated_time_to_regain_access":19}]}"#;
        let pause = header("x-business-use-case-usage", usage);
        assert_eq!(pause, Some(Duration::from_secs(19 * 60)));
        assert_eq!(header("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(header("retry-after", "99999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(header("x-business-use-case-usage", "oops"), None);
        let after = |code: i64| {
            let body = format!(r#"{{"error":{{"code":{code}}}}}"#);
            match response_failure(400, pause, body.as_bytes()).kind {
                FailureKind::Throttled { retry_after } => retry_after.as_secs(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(after(80_007), 19 * 60);
        assert_eq!(after(131_056), 4, "the pair limit ignores the number's budget");
    }
}
