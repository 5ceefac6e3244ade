//! Meta's error codes and the failure that each means for a message.
//!
//! One table classifies errors from both sources: the answer to a request and the `errors` of a failed status. Only the
//! code and Meta's text are used; titles, subcodes and HTTP statuses change without notice.

use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;

use relevo_domain::{Failure, FailureKind, FailureScope};

/// Maximum length of an error message, in characters: it is stored with every attempt.
const MAX_MESSAGE_CHARS: usize = 500;

/// The kind of errors that may be permanent or transient: Meta does not say which.
const LIMITED_TRANSIENT: FailureKind = FailureKind::Transient { max_attempts: Some(3) };
const TRANSIENT: FailureKind = FailureKind::Transient { max_attempts: None };

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

const fn throttled(seconds: u64) -> FailureKind {
    FailureKind::Throttled { retry_after: Duration::from_secs(seconds) }
}

const fn deferred(seconds: u64) -> FailureKind {
    FailureKind::Deferred { retry_after: Duration::from_secs(seconds) }
}

struct ErrorRule {
    /// First and last code, both included.
    codes: (i64, i64),
    kind: FailureKind,
    scope: FailureScope,
}

const fn rule(code: i64, kind: FailureKind, scope: FailureScope) -> ErrorRule {
    ErrorRule { codes: (code, code), kind, scope }
}

const fn permanent(code: i64) -> ErrorRule {
    rule(code, FailureKind::Permanent, FailureScope::Message)
}

const fn logged_out(code: i64) -> ErrorRule {
    rule(code, FailureKind::LoggedOut, FailureScope::Number)
}

const fn blocked(code: i64) -> ErrorRule {
    rule(code, FailureKind::AccountBlocked, FailureScope::Number)
}

/// Source: Meta's page "Error codes" of the WhatsApp Cloud API. Durations are those of that page; where it names none,
/// an hour or five minutes are our choice.
const ERROR_RULES: &[ErrorRule] = &[
    // Rate limits and short outages: the message was certainly not sent.
    // The pair limit is one message in six seconds; Meta recommends 4^n seconds between attempts.
    rule(131_056, throttled(4), FailureScope::Recipient),
    rule(130_429, throttled(1), FailureScope::Number),
    // Hourly budgets of the application and of the business account.
    rule(4, throttled(5 * MINUTE), FailureScope::Number),
    rule(80_007, throttled(5 * MINUTE), FailureScope::Number),
    // The number is being moved to a higher throughput, for a minute at most.
    rule(131_057, throttled(MINUTE), FailureScope::Number),
    rule(2, TRANSIENT, FailureScope::Message),
    rule(131_016, TRANSIENT, FailureScope::Message),
    rule(133_004, TRANSIENT, FailureScope::Message),
    rule(2_494_100, TRANSIENT, FailureScope::Number),
    // "Unknown": either an invalid request or a short outage.
    rule(1, LIMITED_TRANSIENT, FailureScope::Message),
    rule(131_000, LIMITED_TRANSIENT, FailureScope::Message),
    // Failures that last for hours.
    rule(131_049, deferred(24 * HOUR), FailureScope::Message),
    rule(131_048, deferred(HOUR), FailureScope::Number),
    rule(131_064, deferred(HOUR), FailureScope::Message),
    // A template is paused for three hours the first time, for six the second.
    rule(132_015, deferred(3 * HOUR), FailureScope::Message),
    rule(132_069, deferred(HOUR), FailureScope::Message),
    rule(134_101, deferred(10 * MINUTE), FailureScope::Message),
    rule(133_015, deferred(5 * MINUTE), FailureScope::Number),
    rule(133_008, deferred(HOUR), FailureScope::Number),
    rule(133_009, deferred(HOUR), FailureScope::Number),
    rule(133_016, deferred(HOUR), FailureScope::Number),
    // The message cannot be sent in this form.
    permanent(33),
    permanent(100),
    permanent(130_403),
    permanent(130_472),
    permanent(130_497),
    permanent(131_008),
    permanent(131_009),
    permanent(131_021),
    permanent(131_026),
    permanent(131_030),
    permanent(131_044),
    permanent(131_047),
    permanent(131_050),
    permanent(131_051),
    permanent(131_052),
    permanent(131_053),
    permanent(131_055),
    permanent(131_062),
    permanent(131_063),
    permanent(132_000),
    permanent(132_001),
    permanent(132_005),
    permanent(132_007),
    permanent(132_008),
    permanent(132_012),
    permanent(132_016),
    permanent(132_018),
    permanent(132_068),
    permanent(134_100),
    permanent(134_102),
    permanent(135_000),
    permanent(137_000),
    // Invalid credentials: all messages of the instance wait for new ones.
    logged_out(0),
    logged_out(3),
    logged_out(10),
    logged_out(102),
    logged_out(104),
    logged_out(190),
    ErrorRule { codes: (200, 299), kind: FailureKind::LoggedOut, scope: FailureScope::Number },
    logged_out(131_005),
    // Blocked account: all messages of the instance wait for its owner.
    blocked(368),
    blocked(131_031),
    blocked(131_037),
    blocked(131_042),
    blocked(131_045),
    blocked(133_000),
    blocked(133_005),
    blocked(133_006),
    blocked(133_010),
    blocked(134_011),
];

/// An error in Meta's format, in an answer or in a failed status.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct GraphError {
    pub code: i64,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    error_user_msg: Option<String>,
    #[serde(default)]
    error_data: Option<ErrorData>,
    #[serde(default)]
    is_transient: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum ErrorData {
    Details { details: String },
    Other(IgnoredAny),
}

impl GraphError {
    /// Classifies the error. `http` is the status of the answer that carried it; a webhook has none.
    pub fn to_failure(&self, http: Option<u16>) -> Failure {
        let rule = ERROR_RULES.iter().find(|rule| (rule.codes.0..=rule.codes.1).contains(&self.code));
        let (kind, scope) = match rule {
            Some(rule) => (rule.kind, rule.scope),
            None if self.is_transient == Some(true) => (TRANSIENT, FailureScope::Message),
            None if http.is_some_and(|status| status >= 500) => (LIMITED_TRANSIENT, FailureScope::Message),
            None => (FailureKind::Permanent, FailureScope::Message),
        };
        Failure::new(kind, scope, self.message_text()).with_code(self.code)
    }

    /// Meta's text: the details if there are any, otherwise the message without its `(#code)`.
    fn message_text(&self) -> String {
        let details = match &self.error_data {
            Some(ErrorData::Details { details }) => Some(details),
            Some(ErrorData::Other(_)) | None => None,
        };
        let candidates = [details, self.error_user_msg.as_ref(), self.message.as_ref(), self.title.as_ref()];
        let text =
            candidates.into_iter().flatten().map(|text| strip_code(text)).find(|text| !text.is_empty());
        text.unwrap_or("WhatsApp gave no reason").chars().take(MAX_MESSAGE_CHARS).collect()
    }
}

/// Whether a failure may be caused by a media id that has expired at Meta.
pub(super) fn may_be_stale_media(failure: &Failure) -> bool {
    const INVALID_PARAMETER: i64 = 100;
    const MEDIA_UPLOAD: i64 = 131_053;
    match failure.code {
        Some(MEDIA_UPLOAD) => true,
        Some(INVALID_PARAMETER) => failure.message.to_ascii_lowercase().contains("media"),
        _ => false,
    }
}

fn strip_code(text: &str) -> &str {
    let rest = text.strip_prefix("(#").and_then(|rest| rest.split_once(')'));
    rest.map_or(text, |(_, rest)| rest).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: serde_json::Value) -> GraphError {
        serde_json::from_value(json).unwrap()
    }

    fn failure(code: i64) -> Failure {
        parse(serde_json::json!({ "code": code, "message": "x" })).to_failure(Some(400))
    }

    /// The expected class of each code, written independently of the table.
    #[test]
    fn every_code_has_its_class() {
        let expected: &[(&str, &[i64])] = &[
            ("throttled", &[4, 80_007, 130_429, 131_056, 131_057]),
            ("transient", &[1, 2, 131_000, 131_016, 133_004, 2_494_100]),
            (
                "deferred",
                &[131_048, 131_049, 131_064, 132_015, 132_069, 133_008, 133_009, 133_015, 133_016, 134_101],
            ),
            (
                "permanent",
                &[
                    33, 100, 130_403, 130_472, 130_497, 131_008, 131_009, 131_021, 131_026, 131_030, 131_044,
                    131_047, 131_050, 131_051, 131_052, 131_053, 131_055, 131_062, 131_063, 132_000, 132_001,
                    132_005, 132_007, 132_008, 132_012, 132_016, 132_018, 132_068, 134_100, 134_102, 135_000,
                    137_000,
                ],
            ),
            ("logged_out", &[0, 3, 10, 102, 104, 190, 200, 230, 299, 131_005]),
            (
                "account_blocked",
                &[368, 131_031, 131_037, 131_042, 131_045, 133_000, 133_005, 133_006, 133_010, 134_011],
            ),
        ];
        for (class, codes) in expected {
            for &code in *codes {
                assert_eq!(failure(code).kind.as_str(), *class, "{code}");
                assert_eq!(failure(code).code, Some(code));
            }
        }
        let listed: usize = expected.iter().map(|(_, codes)| codes.len()).sum();
        // The range of 200 to 299 is one rule in the table and three codes here.
        assert_eq!(ERROR_RULES.len(), listed - 2);
    }

    #[test]
    fn error_codes_do_not_overlap() {
        for (n, rule) in ERROR_RULES.iter().enumerate() {
            for other in ERROR_RULES.iter().skip(n + 1) {
                assert!(rule.codes.1 < other.codes.0 || other.codes.1 < rule.codes.0, "{:?}", rule.codes);
            }
        }
    }

    #[test]
    fn durations_and_scopes_follow_metas_documentation() {
        let seconds = Duration::from_secs;
        for (code, kind, scope) in [
            (131_056, FailureKind::Throttled { retry_after: seconds(4) }, FailureScope::Recipient),
            (130_429, FailureKind::Throttled { retry_after: seconds(1) }, FailureScope::Number),
            (131_057, FailureKind::Throttled { retry_after: seconds(60) }, FailureScope::Number),
            (131_049, FailureKind::Deferred { retry_after: seconds(86_400) }, FailureScope::Message),
            (134_101, FailureKind::Deferred { retry_after: seconds(600) }, FailureScope::Message),
            (133_015, FailureKind::Deferred { retry_after: seconds(300) }, FailureScope::Number),
            (131_000, FailureKind::Transient { max_attempts: Some(3) }, FailureScope::Message),
            (131_016, FailureKind::Transient { max_attempts: None }, FailureScope::Message),
            (190, FailureKind::LoggedOut, FailureScope::Number),
        ] {
            let found = failure(code);
            assert_eq!((found.kind, found.scope), (kind, scope), "{code}");
        }
    }

    #[test]
    fn unknown_code_is_classified_by_its_context() {
        let error =
            |transient: bool| parse(serde_json::json!({ "code": 999_999, "is_transient": transient }));
        assert_eq!(error(true).to_failure(Some(400)).kind, TRANSIENT);
        assert_eq!(error(false).to_failure(Some(503)).kind, LIMITED_TRANSIENT);
        assert_eq!(error(false).to_failure(Some(400)).kind, FailureKind::Permanent);
        assert_eq!(error(false).to_failure(None).kind, FailureKind::Permanent);
    }

    #[test]
    fn message_prefers_metas_details() {
        let message = |json| parse(json).to_failure(None).message;
        assert_eq!(
            message(serde_json::json!({
                "code": 131_047, "title": "Re-engagement message", "message": "(#131047) Re-engagement message",
                "error_data": { "messaging_product": "whatsapp", "details": "More than 24 hours have passed" },
            })),
            "More than 24 hours have passed"
        );
        assert_eq!(
            message(
                serde_json::json!({ "code": 100, "message": "(#100) Invalid parameter", "error_data": "odd" })
            ),
            "Invalid parameter"
        );
        assert_eq!(message(serde_json::json!({ "code": 1, "message": "" })), "WhatsApp gave no reason");
        assert_eq!(
            message(serde_json::json!({ "code": 1, "message": "ñ".repeat(9_000) })).chars().count(),
            500
        );
    }

    #[test]
    fn stale_media_id_is_recognised() {
        let stale = |code: i64, details: &str| {
            let error = parse(serde_json::json!({ "code": code, "error_data": { "details": details } }));
            may_be_stale_media(&error.to_failure(Some(400)))
        };
        assert!(stale(131_053, "Media upload error"));
        assert!(stale(100, "Param image['id'] is not a valid whatsapp business account Media attachment ID"));
        assert!(!stale(100, "Param text['body'] is too long"));
        assert!(!stale(131_026, "Media"));
    }
}
