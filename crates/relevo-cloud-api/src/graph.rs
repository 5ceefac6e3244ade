//! One exchange with the Graph API, and what its outcome says about what was asked.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::multipart::Form;
use reqwest::{Method, RequestBuilder, Response};
use serde::{Deserialize, Serialize};
use url::Url;

use super::errors::GraphError;
use relevo_domain::{CloudApiSettings, Failure, FailureKind, FailureScope, ValidationError};
use relevo_egress::{self as egress, Egress};

/// The largest answer that is read; Graph's own have less than 2 KB.
const MAX_RESPONSE_BYTES: usize = 256 << 10;

/// The pause after a `429` that says nothing more.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);

/// The longest pause that a header is believed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Redirects that a file's address may lead through.
const MAX_REDIRECTS: usize = 3;

/// One phone number's endpoints and its token.
pub(super) struct GraphClient {
    egress: Egress,
    authorization: HeaderValue,
    phone_number_id: String,
    /// Where the objects of this version are.
    root: Url,
    number: Url,
    messages: Url,
    media: Url,
}

/// What an address of a file leads to.
pub(super) enum MediaUrlResponse {
    File(Response),
    /// It was good for some minutes, and they are over.
    Expired,
}

#[derive(Deserialize)]
struct GraphErrorResponse {
    error: GraphError,
}

impl GraphClient {
    /// Checks the settings; nothing is asked of the network.
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

    /// Asks for the phone number itself, which takes a valid token and a registered number.
    pub async fn probe(&self) -> Result<Bytes, Failure> {
        self.send_request(self.egress.request(Method::GET, &self.number)).await
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

    /// What WhatsApp knows about a file of this number.
    pub async fn get_media(&self, id: &str) -> Result<Bytes, Failure> {
        let names_a_file =
            !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        let mut url = self.root.clone();
        if !names_a_file {
            return Err(Failure::permanent("a media id has letters and digits only"));
        }
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(id);
        }
        url.query_pairs_mut().append_pair("phone_number_id", &self.phone_number_id);
        self.send_request(self.egress.request(Method::GET, &url)).await
    }

    /// Asks an address that WhatsApp gave for its file. Redirects are guarded like the address itself, and another
    /// host than the one that WhatsApp named is not shown the token.
    pub async fn open_media_url(&self, address: &Url) -> Result<MediaUrlResponse, Failure> {
        let mut at = address.clone();
        for _ in 0..=MAX_REDIRECTS {
            let request =
                self.egress.request(Method::GET, &at).map_err(|refusal| media_url_blocked(&refusal))?;
            let trusted = at.origin() == address.origin();
            let request =
                if trusted { request.header(AUTHORIZATION, self.authorization.clone()) } else { request };
            let response = request.send().await.map_err(|cause| media_request_failure(&cause))?;
            match response.status().as_u16() {
                200 => return Ok(MediaUrlResponse::File(response)),
                301 | 302 | 303 | 307 | 308 => {
                    let next = response.headers().get(LOCATION).and_then(|next| next.to_str().ok());
                    let next = next.and_then(|next| at.join(next).ok());
                    at = next.ok_or_else(|| Failure::permanent("the file's address redirects to nowhere"))?;
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
        let status = response.status().as_u16();
        let pause = if status == 200 { None } else { retry_after_from_headers(response.headers()) };
        match egress::read_bounded(response, MAX_RESPONSE_BYTES).await {
            Ok(body) if status == 200 => Ok(body),
            Ok(body) => Err(response_failure(status, pause, &body)),
            Err(cause) if status == 200 => {
                Err(Failure::ambiguous(format!("the answer broke off or cannot be read: {cause}")))
            }
            Err(_) => Err(response_failure(status, pause, &[])),
        }
    }
}

/// What a `200` says that is not the answer which was expected.
pub(super) fn unexpected_response(body: &[u8]) -> Failure {
    match serde_json::from_slice::<GraphErrorResponse>(body) {
        Ok(refused) => refused.error.to_failure(Some(200)),
        Err(_) => Failure::ambiguous("WhatsApp answered 200 with something that is not its usual answer"),
    }
}

/// A failure of something that does no harm when it is done twice: an unknown outcome is as good as none.
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
        .map_err(|_| ValidationError::new("cloud_api.access_token", "cannot stand in a header"))?;
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

/// The guard's refusal concerns the settings, not the message: the instance waits until they are put right.
fn base_url_blocked(refusal: &egress::Error) -> Failure {
    let words = format!("the instance's cloud_api.base_url is refused: {refusal}");
    Failure::new(FailureKind::AccountBlocked, FailureScope::Number, words)
}

/// The guard's refusal of an address that WhatsApp gave.
fn media_url_blocked(refusal: &egress::Error) -> Failure {
    let words = format!("the address that WhatsApp gave for the file is refused: {refusal}");
    Failure::new(FailureKind::AccountBlocked, FailureScope::Number, words)
}

/// No answer came from a file's address. Asking again does no harm.
fn media_request_failure(cause: &reqwest::Error) -> Failure {
    match egress::Error::find_in(cause).filter(|error| error.is_refusal()) {
        Some(refusal) => media_url_blocked(refusal),
        None => media_transfer_failure(cause),
    }
}

/// A file broke off, or did not begin.
pub(super) fn media_transfer_failure(cause: &reqwest::Error) -> Failure {
    Failure::transient(format!("the file could not be fetched from WhatsApp: {}", egress::root_cause(cause)))
}

/// No answer came. What failed before the request could be written was certainly not sent.
fn request_failure(cause: &reqwest::Error) -> Failure {
    if let Some(refusal) = egress::Error::find_in(cause).filter(|error| error.is_refusal()) {
        return base_url_blocked(refusal);
    }
    let words = egress::root_cause(cause);
    if cause.is_connect() {
        Failure::transient(format!("WhatsApp cannot be reached: {words}"))
    } else if cause.is_builder() {
        Failure::permanent(format!("the request cannot be made: {words}"))
    } else {
        Failure::ambiguous(format!("the connection to WhatsApp broke before the answer: {words}"))
    }
}

/// An answer other than `200`.
fn response_failure(status: u16, pause: Option<Duration>, body: &[u8]) -> Failure {
    let mut failure = match serde_json::from_slice::<GraphErrorResponse>(body) {
        Ok(refused) => refused.error.to_failure(Some(status)),
        Err(_) => failure_from_status(status),
    };
    if let (FailureKind::Throttled { retry_after }, FailureScope::Number) = (&mut failure.kind, failure.scope)
    {
        *retry_after = pause.map_or(*retry_after, |pause| pause.max(*retry_after));
    }
    failure
}

/// An answer that the Graph API did not write: from something before it, or from something else altogether.
fn failure_from_status(status: u16) -> Failure {
    let answered = format!("an answer with status {status} and no reason that WhatsApp gives");
    match status {
        401 => Failure::new(FailureKind::LoggedOut, FailureScope::Number, answered),
        429 => Failure::new(
            FailureKind::Throttled { retry_after: DEFAULT_RETRY_AFTER },
            FailureScope::Number,
            answered,
        ),
        408 => Failure::transient(answered),
        300..=399 | 404 | 405 => {
            let words = format!("{answered}: cloud_api.base_url does not seem to lead to a Graph API");
            Failure::new(FailureKind::AccountBlocked, FailureScope::Number, words)
        }
        400..=499 => Failure::permanent(answered),
        _ => Failure::ambiguous(answered),
    }
}

/// How long the headers ask to wait: Meta's `estimated_time_to_regain_access`, in minutes, or `Retry-After`, in
/// seconds.
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
    fn wrong_settings_are_named() {
        let refused = |change: fn(&mut CloudApiSettings)| {
            let mut settings = settings();
            change(&mut settings);
            open(&settings).err().map(|invalid| invalid.field).unwrap_or_default()
        };
        assert_eq!(refused(|_| {}), "");
        assert_eq!(refused(|s| s.phone_number_id = "1/../2".to_owned()), "cloud_api.phone_number_id");
        assert_eq!(refused(|s| s.phone_number_id = String::new()), "cloud_api.phone_number_id");
        assert_eq!(refused(|s| s.access_token = Secret::new("")), "cloud_api.access_token");
        assert_eq!(refused(|s| s.access_token = Secret::new("EAAG\n")), "cloud_api.access_token");
        assert_eq!(refused(|s| s.api_version = "25".to_owned()), "cloud_api.api_version");
        assert_eq!(refused(|s| s.api_version = "v25.0/x".to_owned()), "cloud_api.api_version");
        assert_eq!(refused(|s| s.base_url = "ftp://x/".parse().unwrap()), "cloud_api.base_url");
    }

    #[test]
    fn foreign_response_is_classified_by_status() {
        for (status, class) in [
            (200, "ambiguous"),
            (302, "account_blocked"),
            (400, "permanent"),
            (401, "logged_out"),
            (403, "permanent"),
            (404, "account_blocked"),
            (408, "transient"),
            (413, "permanent"),
            (429, "throttled"),
            (500, "ambiguous"),
            (502, "ambiguous"),
            (503, "ambiguous"),
        ] {
            assert_eq!(response_failure(status, None, b"<html>").kind.as_str(), class, "{status}");
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
        assert_eq!(after(131_056), 4, "one recipient does not wait for the number's budget");
    }
}
