//! A stored file as a response, whole or one range of it.

use std::ops::Range;

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, IF_RANGE, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::media::MediaFile;

/// The response with a file, or with the requested range of it.
pub(in crate::http) fn file_response(
    file: &MediaFile,
    name: Option<&str>,
    request_headers: &HeaderMap,
) -> Response {
    let etag = format!("\"{}\"", file.sha256());
    let text = |name| request_headers.get(name).and_then(|value| value.to_str().ok());
    let unchanged = |list: &str| list.split(',').map(str::trim).any(|tag| tag == "*" || tag == etag);
    let mut response = if text(IF_NONE_MATCH).is_some_and(unchanged) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        // A range of a changed file would not fit the ranges that the client has.
        let range_header = text(RANGE).filter(|_| text(IF_RANGE).is_none_or(|tag| tag == etag));
        match range_header.map_or(RangeRequest::Whole, |range| parse_range(range, file.size())) {
            RangeRequest::Whole => content_response(file, name, 0..file.size()),
            RangeRequest::Range(range) => {
                let content_range =
                    format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), file.size());
                let mut response = content_response(file, name, range);
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                insert_header(&mut response, CONTENT_RANGE, &content_range);
                response
            }
            RangeRequest::Unsatisfiable => {
                let mut response = StatusCode::RANGE_NOT_SATISFIABLE.into_response();
                insert_header(&mut response, CONTENT_RANGE, &format!("bytes */{}", file.size()));
                response
            }
        }
    };
    insert_header(&mut response, ETAG, &etag);
    insert_header(&mut response, ACCEPT_RANGES, "bytes");
    insert_header(&mut response, CACHE_CONTROL, "private");
    response
}

/// A user chose the bytes, their type and their name: a browser must neither sniff the type nor render the file.
fn content_response(file: &MediaFile, name: Option<&str>, range: Range<u64>) -> Response {
    let length = range.end.saturating_sub(range.start);
    let mut response = Body::from_stream(file.read(range)).into_response();
    insert_header(&mut response, CONTENT_TYPE, file.mime());
    insert_header(&mut response, CONTENT_LENGTH, &length.to_string());
    insert_header(&mut response, CONTENT_DISPOSITION, &content_disposition(name));
    insert_header(&mut response, X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}

/// An invalid header value is omitted.
fn insert_header(response: &mut Response, name: axum::http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// The part of a file that a `Range` header requests (RFC 9110 §14.2).
#[derive(Debug, PartialEq, Eq)]
enum RangeRequest {
    Whole,
    Range(Range<u64>),
    Unsatisfiable,
}

/// Several ranges, or an invalid header, select the whole file.
fn parse_range(header: &str, size: u64) -> RangeRequest {
    let Some((first, last)) = header.trim().strip_prefix("bytes=").and_then(|spec| spec.split_once('-'))
    else {
        return RangeRequest::Whole;
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Some(first), None) if last.trim().is_empty() => first..size,
        (None, Some(count)) if first.trim().is_empty() => size.saturating_sub(count)..size,
        _ => return RangeRequest::Whole,
    };
    if range.start < range.end { RangeRequest::Range(range) } else { RangeRequest::Unsatisfiable }
}

/// `Content-Disposition: attachment` with a file name without a path (RFC 6266, RFC 8187).
fn content_disposition(name: Option<&str>) -> String {
    let name = name.and_then(|name| name.rsplit(['/', '\\']).next()).unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    let name = name.trim_matches(|c: char| c == '.' || c.is_whitespace());
    if name.is_empty() {
        return "attachment".to_owned();
    }
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || " ._-()".contains(c) { c } else { '_' })
        .collect();
    if plain == name {
        return format!("attachment; filename=\"{plain}\"");
    }
    let encoded: String = name.bytes().map(percent_encode).collect();
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}")
}

fn percent_encode(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_is_within_the_file_or_unsatisfiable() {
        for (header, expected) in [
            ("bytes=0-0", RangeRequest::Range(0..1)),
            ("bytes=2-5", RangeRequest::Range(2..6)),
            ("bytes=2-", RangeRequest::Range(2..10)),
            ("bytes=-3", RangeRequest::Range(7..10)),
            ("bytes=-30", RangeRequest::Range(0..10)),
            ("bytes=5-99999999999999999999", RangeRequest::Whole),
            ("bytes=5-18446744073709551615", RangeRequest::Range(5..10)),
            ("bytes=10-", RangeRequest::Unsatisfiable),
            ("bytes=-0", RangeRequest::Unsatisfiable),
            ("bytes=5-2", RangeRequest::Whole),
            ("bytes=0-1,3-4", RangeRequest::Whole),
            ("bytes=-", RangeRequest::Whole),
            ("bytes=a-b", RangeRequest::Whole),
            ("lines=1-2", RangeRequest::Whole),
        ] {
            assert_eq!(parse_range(header, 10), expected, "{header}");
        }
        assert_eq!(parse_range("bytes=0-", 0), RangeRequest::Unsatisfiable);
    }

    #[test]
    fn file_name_of_a_download_is_sanitized() {
        for (name, expected) in [
            (None, "attachment"),
            (Some(""), "attachment"),
            (Some(".."), "attachment"),
            (Some("Factura 3.pdf"), "attachment; filename=\"Factura 3.pdf\""),
            (Some("../../etc/passwd"), "attachment; filename=\"passwd\""),
            (Some("C:\\x\\a.doc"), "attachment; filename=\"a.doc\""),
            (Some("a\"\r\nb"), "attachment; filename=\"a_b\"; filename*=UTF-8''a%22b"),
            (Some("año.pdf"), "attachment; filename=\"a_o.pdf\"; filename*=UTF-8''a%C3%B1o.pdf"),
        ] {
            assert_eq!(content_disposition(name), expected, "{name:?}");
        }
    }
}
