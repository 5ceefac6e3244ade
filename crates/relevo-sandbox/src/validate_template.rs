//! Validates template messages. The sandbox has no list of templates: every name is valid.

use crate::errors::{GraphError, code};
use crate::json_path::JsonPath;
use crate::validate::{self, ValidationContext};

type CheckResult = Result<(), GraphError>;

const COMPONENT_TYPES: &[&str] =
    &["header", "body", "footer", "button", "carousel", "limited_time_offer", "order_status"];
const BUTTON_TYPES: &[&str] = &[
    "quick_reply",
    "url",
    "catalog",
    "mpm",
    "spm",
    "flow",
    "copy_code",
    "voice_call",
    "order_details",
    "call_permission_request",
];

/// Checks the name, the language and the components of a template.
///
/// # Errors
/// The error that Meta would return.
pub fn check_template(at: &JsonPath<'_, '_>, context: &ValidationContext<'_>) -> CheckResult {
    at.required_text("name", 1..=512)?;
    at.object("language")?.required_text("code", 2..=15)?;
    if let Some(components) = at.get("components") {
        for component in components.items(0..=20)? {
            check_component(&component, context)?;
        }
    }
    Ok(())
}

fn check_component(at: &JsonPath<'_, '_>, context: &ValidationContext<'_>) -> CheckResult {
    let kind = at.require("type")?;
    // Meta ignores case here.
    if !kind.str().is_ok_and(|kind| COMPONENT_TYPES.iter().any(|known| kind.eq_ignore_ascii_case(known))) {
        return kind.one_of(COMPONENT_TYPES).map(drop);
    }
    if kind.str()?.eq_ignore_ascii_case("button") {
        let sub_type = at.require("sub_type")?;
        if !sub_type.str().is_ok_and(|kind| BUTTON_TYPES.iter().any(|known| kind.eq_ignore_ascii_case(known)))
        {
            return sub_type.one_of(BUTTON_TYPES).map(drop);
        }
        let index = at.require("index")?;
        let number =
            index.value().as_u64().or_else(|| index.value().as_str().and_then(|text| text.parse().ok()));
        if number.is_none_or(|number| number > 9) {
            return Err(index.invalid("must be between 0 and 9."));
        }
    }
    if let Some(parameters) = at.get("parameters") {
        for parameter in parameters.items(0..=100)? {
            check_parameter(&parameter, context)?;
        }
    }
    Ok(())
}

fn check_parameter(at: &JsonPath<'_, '_>, context: &ValidationContext<'_>) -> CheckResult {
    let kind = at.require("type")?;
    match kind.str()? {
        "text" => check_parameter_text(&at.require("text")?),
        "payload" => at.required_text("payload", 1..=512).map(drop),
        "coupon_code" => at.required_text("coupon_code", 1..=20).map(drop),
        "currency" => {
            let currency = at.object("currency")?;
            currency.required_text("fallback_value", 1..=1024)?;
            currency.required_text("code", 3..=3)?;
            let amount = currency.require("amount_1000")?;
            if amount.value().is_number() { Ok(()) } else { Err(amount.invalid("must be a number.")) }
        }
        "date_time" => at.object("date_time")?.required_text("fallback_value", 1..=1024).map(drop),
        media @ ("image" | "video" | "document") => validate::check_media(&at.object(media)?, media, context),
        // Sent as a looping video.
        "gif" => validate::check_media(&at.object("gif")?, "video", context),
        other @ ("action" | "location" | "product" | "limited_time_offer" | "order_status"
        | "order_details") => at.object(other).map(drop),
        _ => Err(kind.invalid("is not a type of template parameter.")),
    }
}

/// Checks a text that replaces a placeholder within a line of the template.
fn check_parameter_text(at: &JsonPath<'_, '_>) -> CheckResult {
    let text = at.text(1..=32_768)?;
    if text.contains(['\n', '\r', '\t']) || text.contains("     ") {
        return Err(at
            .with_code(code::TEMPLATE_PARAMETER_TEXT)
            .invalid("cannot have new-line/tab characters or more than 4 consecutive spaces."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(components: &Value) -> Option<u32> {
        let body = json!({ "template": { "name": "hello", "language": { "code": "es" }, "components": components } });
        let root = JsonPath::root(&body);
        let media = |_: &str| None;
        check_template(&root.get("template").unwrap(), &ValidationContext { own_number: "", media: &media })
            .err()
            .map(|error| error.code)
    }

    #[test]
    fn template_components_and_parameters_are_checked() {
        let text = |text: &str| json!([{ "type": "body", "parameters": [{ "type": "text", "text": text }] }]);
        assert_eq!(check(&text("Ana")), None);
        assert_eq!(check(&text("a\nb")), Some(132_018));
        assert_eq!(check(&text("a     b")), Some(132_018));
        assert_eq!(check(&json!([{ "type": "tail" }])), Some(100));
        assert_eq!(check(&json!([{ "parameters": [] }])), Some(131_008));
        let button = |index: Value| {
            let payload = json!([{ "type": "payload", "payload": "x" }]);
            check(
                &json!([{ "type": "button", "sub_type": "quick_reply", "index": index, "parameters": payload }]),
            )
        };
        assert_eq!(button(json!("0")), None);
        assert_eq!(button(json!(1)), None);
        assert_eq!(button(json!("first")), Some(100));
        let header = |link: &str| {
            check(
                &json!([{ "type": "header", "parameters": [{ "type": "image", "image": { "link": link } }] }]),
            )
        };
        assert_eq!(header("https://example.com/a.png"), None);
        assert_eq!(header("nowhere"), Some(100));
        let currency = json!({ "fallback_value": "$1", "code": "USD", "amount_1000": 1000 });
        assert_eq!(
            check(&json!([{ "type": "body", "parameters": [{ "type": "currency", "currency": currency }] }])),
            None
        );
    }

    #[test]
    fn template_requires_name_and_language() {
        let body = json!({ "template": { "name": "hello" } });
        let root = JsonPath::root(&body);
        let media = |_: &str| None;
        let context = ValidationContext { own_number: "", media: &media };
        assert_eq!(check_template(&root.get("template").unwrap(), &context).unwrap_err().code, 131_008);
    }
}
