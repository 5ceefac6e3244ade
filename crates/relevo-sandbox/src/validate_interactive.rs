//! Validates interactive messages: buttons, lists, links, flows, products and requests.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use crate::errors::GraphError;
use crate::json_path::JsonPath;
use crate::validate::{self, ValidationContext};

type CheckResult = Result<(), GraphError>;

const INTERACTIVE_TYPES: &[&str] = &[
    "button",
    "list",
    "cta_url",
    "flow",
    "product",
    "product_list",
    "catalog_message",
    "location_request_message",
    "address_message",
    "request_contact_info",
    "call_permission_request",
    "voice_call",
    "carousel",
    "order_details",
    "order_status",
];

/// The permitted headers of a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HeaderPolicy {
    Forbidden,
    Text,
    /// A text header is required.
    TextRequired,
    TextOrMedia,
}

/// Checks an interactive message.
///
/// # Errors
/// The error that Meta would return.
pub fn check_interactive(at: &JsonPath<'_, '_>, context: &ValidationContext<'_>) -> CheckResult {
    let kind = at.require("type")?.one_of(INTERACTIVE_TYPES)?;
    let action = at.object("action");
    let header = match kind {
        "button" | "cta_url" | "flow" | "order_details" => HeaderPolicy::TextOrMedia,
        "list" => HeaderPolicy::Text,
        "product_list" => HeaderPolicy::TextRequired,
        "product" | "catalog_message" | "location_request_message" | "address_message" | "carousel" => {
            HeaderPolicy::Forbidden
        }
        _ => HeaderPolicy::TextOrMedia,
    };
    check_header(at, header, context)?;
    let longest = if kind == "list" { 4096 } else { 1024 };
    let body_is_optional = matches!(kind, "product" | "call_permission_request" | "request_contact_info");
    if at.get("body").is_some() || !body_is_optional {
        at.object("body")?.required_text("text", 1..=longest)?;
    }
    if at.get("footer").is_some() {
        at.object("footer")?.required_text("text", 1..=60)?;
    }
    let action = action?;
    match kind {
        "button" => check_buttons(&action),
        "list" => check_list(&action),
        "cta_url" => check_cta_url(&action),
        "flow" => check_flow(&action),
        "product" => {
            action.required_text("catalog_id", 1..=100)?;
            action.required_text("product_retailer_id", 1..=100).map(drop)
        }
        "product_list" => check_product_list(&action),
        "location_request_message" => check_action_name(&action, "send_location"),
        "address_message" => {
            check_action_name(&action, "address_message")?;
            action.object("parameters")?.required_text("country", 2..=2).map(drop)
        }
        "carousel" => action.require("cards")?.items(2..=10).map(drop),
        "order_details" => check_action_with_parameters(&action, "review_and_pay"),
        "order_status" => check_action_with_parameters(&action, "review_order"),
        // The action of the other types has the name of the type.
        name => check_action_name(&action, name),
    }
}

fn check_action_name(action: &JsonPath<'_, '_>, name: &str) -> CheckResult {
    action.require("name")?.one_of(&[name]).map(drop)
}

fn check_action_with_parameters(action: &JsonPath<'_, '_>, name: &str) -> CheckResult {
    check_action_name(action, name)?;
    action.object("parameters").map(drop)
}

fn check_header(at: &JsonPath<'_, '_>, policy: HeaderPolicy, context: &ValidationContext<'_>) -> CheckResult {
    let Some(header) = at.get("header") else {
        return if policy == HeaderPolicy::TextRequired { Err(at.missing("header")) } else { Ok(()) };
    };
    let types: &[&str] = match policy {
        HeaderPolicy::Forbidden => return Err(header.invalid("is not supported for this type of message.")),
        HeaderPolicy::Text | HeaderPolicy::TextRequired => &["text"],
        HeaderPolicy::TextOrMedia => &["text", "image", "video", "document"],
    };
    match header.require("type")?.one_of(types)? {
        "text" => header.required_text("text", 1..=60).map(drop),
        media => validate::check_media(&header.object(media)?, media, context),
    }
}

fn check_buttons(action: &JsonPath<'_, '_>) -> CheckResult {
    let list = action.require("buttons")?;
    let (mut ids, mut titles) = (HashSet::new(), HashSet::new());
    for button in list.items(1..=3)? {
        button.require("type")?.one_of(&["reply"])?;
        let reply = button.object("reply")?;
        check_unique(&reply, "id", 1..=256, &mut ids)?;
        check_unique(&reply, "title", 1..=20, &mut titles)?;
    }
    Ok(())
}

/// Checks a text that must differ from those in `seen`.
fn check_unique<'v>(
    at: &JsonPath<'v, '_>,
    key: &str,
    length: RangeInclusive<usize>,
    seen: &mut HashSet<&'v str>,
) -> CheckResult {
    let member = at.require(key)?;
    if seen.insert(member.text(length)?) { Ok(()) } else { Err(member.invalid("must be unique.")) }
}

fn check_list(action: &JsonPath<'_, '_>) -> CheckResult {
    action.required_text("button", 1..=20)?;
    let list = action.require("sections")?;
    let sections = list.items(1..=10)?;
    let several = sections.len() > 1;
    let mut ids = HashSet::new();
    let mut total = 0;
    for section in sections {
        check_section_title(&section, several)?;
        let rows = section.require("rows")?;
        for row in rows.items(1..=10)? {
            total += 1;
            check_unique(&row, "id", 1..=200, &mut ids)?;
            row.required_text("title", 1..=24)?;
            row.optional_text("description", 0..=72)?;
        }
    }
    if total > 10 {
        return Err(list.invalid(format_args!("must have at most 10 rows in all, not {total}.")));
    }
    Ok(())
}

fn check_section_title(section: &JsonPath<'_, '_>, several: bool) -> CheckResult {
    match section.optional_text("title", 0..=24)? {
        None | Some("") if several => Err(section.missing("title")),
        _ => Ok(()),
    }
}

fn check_cta_url(action: &JsonPath<'_, '_>) -> CheckResult {
    check_action_name(action, "cta_url")?;
    let parameters = action.object("parameters")?;
    parameters.required_text("display_text", 1..=20)?;
    parameters.require("url")?.http_url().map(drop)
}

fn check_flow(action: &JsonPath<'_, '_>) -> CheckResult {
    check_action_name(action, "flow")?;
    let parameters = action.object("parameters")?;
    let version = parameters.require("flow_message_version")?;
    if version.value() != "3" && version.value() != 3 {
        return Err(version.invalid("must be \"3\"."));
    }
    match (parameters.get("flow_id"), parameters.get("flow_name")) {
        (Some(_), Some(_)) => {
            return Err(parameters.invalid("must have either 'flow_id' or 'flow_name', not both."));
        }
        (None, None) => return Err(parameters.missing("flow_id")),
        _ => {}
    }
    parameters.required_text("flow_cta", 1..=30)?;
    parameters.get("mode").map(|mode| mode.one_of(&["draft", "published"])).transpose()?;
    let flow_action = parameters.get("flow_action");
    let navigates = match flow_action {
        Some(action) => action.one_of(&["navigate", "data_exchange"])? == "navigate",
        None => true,
    };
    if navigates && parameters.get("flow_action_payload").is_some() {
        parameters.object("flow_action_payload")?.required_text("screen", 1..=200)?;
    }
    Ok(())
}

fn check_product_list(action: &JsonPath<'_, '_>) -> CheckResult {
    action.required_text("catalog_id", 1..=100)?;
    let list = action.require("sections")?;
    let sections = list.items(1..=10)?;
    let several = sections.len() > 1;
    let mut total = 0;
    for section in sections {
        check_section_title(&section, several)?;
        let items = section.require("product_items")?;
        for item in items.items(1..=30)? {
            total += 1;
            item.required_text("product_retailer_id", 1..=100)?;
        }
    }
    if total > 30 {
        return Err(list.invalid(format_args!("must have at most 30 products in all, not {total}.")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::code;
    use serde_json::{Value, json};

    fn check(kind: &str, action: &Value, more: &Value) -> Option<u32> {
        let mut body = json!({ "type": kind, "body": { "text": "Hello" }, "action": action });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let body = json!({ "interactive": body });
        let root = JsonPath::root(&body);
        let at = root.get("interactive").unwrap().with_code(code::PARAMETER_VALUE);
        let media = |_: &str| None;
        check_interactive(&at, &ValidationContext { own_number: "", media: &media })
            .err()
            .map(|error| error.code)
    }

    fn button(id: &str, title: &str) -> Value {
        json!({ "type": "reply", "reply": { "id": id, "title": title } })
    }

    fn rows(count: usize) -> Vec<Value> {
        (0..count).map(|n| json!({ "id": n.to_string(), "title": "t", "description": "d" })).collect()
    }

    #[test]
    fn buttons_are_limited_to_three_and_unique() {
        let none = json!({});
        let of = |buttons: Vec<Value>| check("button", &json!({ "buttons": buttons }), &none);
        assert_eq!(of(vec![button("a", "A"), button("b", "B"), button("c", "C")]), None);
        assert_eq!(of(vec![]), Some(131_009));
        assert_eq!(of((0..4).map(|n| button(&n.to_string(), &n.to_string())).collect()), Some(131_009));
        assert_eq!(of(vec![button("a", "A"), button("b", "A")]), Some(131_009));
        assert_eq!(of(vec![button("a", &"x".repeat(21))]), Some(131_009));
        assert_eq!(of(vec![button(&"x".repeat(257), "A")]), Some(131_009));
        assert_eq!(of(vec![json!({ "type": "reply" })]), Some(131_008));
    }

    #[test]
    fn list_has_at_most_ten_rows() {
        let of =
            |sections: Value| check("list", &json!({ "button": "Open", "sections": sections }), &json!({}));
        assert_eq!(of(json!([{ "rows": rows(10) }])), None);
        assert_eq!(of(json!([{ "rows": rows(11) }])), Some(131_009));
        assert_eq!(of(json!([{ "rows": rows(1) }, { "title": "b", "rows": rows(1) }])), Some(131_008));
        assert_eq!(
            of(json!([{ "title": "a", "rows": rows(1) }, { "title": "b", "rows": rows(1) }])),
            Some(131_009)
        );
        assert_eq!(of(json!([{ "rows": [{ "id": "1", "title": "x".repeat(25) }] }])), Some(131_009));
        assert_eq!(
            of(json!([{ "rows": [{ "id": "1", "title": "x", "description": "x".repeat(73) }] }])),
            Some(131_009)
        );
    }

    #[test]
    fn list_allows_a_longer_body_and_only_a_text_header() {
        let action = json!({ "button": "Open", "sections": [{ "rows": rows(1) }] });
        assert_eq!(check("list", &action, &json!({ "body": { "text": "x".repeat(4096) } })), None);
        assert_eq!(check("list", &action, &json!({ "header": { "type": "text", "text": "x" } })), None);
        let image =
            json!({ "header": { "type": "image", "image": { "link": "https://example.com/a.png" } } });
        assert_eq!(check("list", &action, &image), Some(131_009));
        let buttons = json!({ "buttons": [button("a", "A")] });
        assert_eq!(check("button", &buttons, &image), None);
        assert_eq!(
            check("button", &buttons, &json!({ "body": { "text": "x".repeat(1025) } })),
            Some(131_009)
        );
        assert_eq!(
            check("button", &buttons, &json!({ "footer": { "text": "x".repeat(61) } })),
            Some(131_009)
        );
    }

    #[test]
    fn cta_urls_flows_and_location_requests_are_checked() {
        let none = json!({});
        let link =
            |url: &str| json!({ "name": "cta_url", "parameters": { "display_text": "Go", "url": url } });
        assert_eq!(check("cta_url", &link("https://example.com/"), &none), None);
        assert_eq!(check("cta_url", &link("example.com"), &none), Some(131_009));
        let flow = |more: Value| {
            let mut parameters = json!({ "flow_message_version": "3", "flow_cta": "Go" });
            parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            check("flow", &json!({ "name": "flow", "parameters": parameters }), &none)
        };
        assert_eq!(flow(json!({ "flow_id": "1", "flow_action_payload": { "screen": "A" } })), None);
        assert_eq!(flow(json!({ "flow_id": "1", "flow_name": "x" })), Some(131_009));
        assert_eq!(flow(json!({})), Some(131_008));
        assert_eq!(flow(json!({ "flow_id": "1", "mode": "live" })), Some(131_009));
        assert_eq!(check("location_request_message", &json!({ "name": "send_location" }), &none), None);
        assert_eq!(check("location_request_message", &json!({ "name": "other" }), &none), Some(131_009));
        assert_eq!(check("hologram", &none, &none), Some(131_009));
    }

    #[test]
    fn product_list_requires_catalog_and_header() {
        let sections = json!([{ "title": "a", "product_items": [{ "product_retailer_id": "1" }] }]);
        let list = json!({ "catalog_id": "1", "sections": sections });
        let header = json!({ "header": { "type": "text", "text": "x" } });
        assert_eq!(check("product_list", &list, &header), None);
        assert_eq!(check("product_list", &list, &json!({})), Some(131_008));
        assert_eq!(check("product", &json!({ "product_retailer_id": "1" }), &json!({})), Some(131_008));
        assert_eq!(check("catalog_message", &json!({ "name": "catalog_message" }), &json!({})), None);
    }
}
