//! Conversion of contacts in Meta's format to vCards (RFC 2426), which WhatsApp Web sends.

use serde_json::Value;

/// The display name and the vCard of a contact.
pub(super) fn to_vcard(contact: &Value) -> (String, String) {
    let name_part =
        |part: &str| contact.pointer(&format!("/name/{part}")).and_then(Value::as_str).unwrap_or_default();
    let full_name = name_part("formatted_name");
    let mut lines = vec!["BEGIN:VCARD".to_owned(), "VERSION:3.0".to_owned()];
    let parts =
        ["last_name", "first_name", "middle_name", "prefix", "suffix"].map(|part| escape(name_part(part)));
    lines.push(format!("N:{}", parts.join(";")));
    lines.push(format!("FN:{}", escape(full_name)));
    organisation(contact, &mut lines);
    for phone in list_items(contact, "phones") {
        lines.extend(telephone(phone));
    }
    for (list, name, field) in [("emails", "EMAIL", "email"), ("urls", "URL", "url")] {
        for entry in list_items(contact, list) {
            if let Some(value) = text(entry, field) {
                lines.push(format!("{name}{}:{}", type_parameter(entry), escape(value)));
            }
        }
    }
    for address in list_items(contact, "addresses") {
        let parts = ["street", "city", "state", "zip", "country"];
        let parts = parts.map(|part| escape(text(address, part).unwrap_or_default()));
        lines.push(format!("ADR{}:;;{}", type_parameter(address), parts.join(";")));
    }
    if let Some(birthday) = text(contact, "birthday") {
        lines.push(format!("BDAY:{}", escape(birthday)));
    }
    lines.push("END:VCARD".to_owned());
    (full_name.to_owned(), lines.join("\r\n"))
}

fn organisation(contact: &Value, lines: &mut Vec<String>) {
    let Some(organisation) = contact.get("org") else { return };
    let parts = ["company", "department"].map(|part| escape(text(organisation, part).unwrap_or_default()));
    if parts.iter().any(|part| !part.is_empty()) {
        lines.push(format!("ORG:{}", parts.join(";")));
    }
    if let Some(title) = text(organisation, "title") {
        lines.push(format!("TITLE:{}", escape(title)));
    }
}

/// The TEL line of a phone. It names the WhatsApp account of the number, which enables the card's "Message" button.
fn telephone(phone: &Value) -> Option<String> {
    let number = text(phone, "phone").or_else(|| text(phone, "wa_id"))?;
    let digits = |number: &str| number.chars().filter(char::is_ascii_digit).collect::<String>();
    let account = digits(text(phone, "wa_id").unwrap_or(number));
    let kind = text(phone, "type").filter(|kind| is_word(kind)).unwrap_or("CELL");
    Some(format!("TEL;type={kind};waid={account}:{}", escape(number)))
}

fn type_parameter(entry: &Value) -> String {
    let kind = text(entry, "type").filter(|kind| is_word(kind));
    kind.map(|kind| format!(";type={kind}")).unwrap_or_default()
}

/// Whether the text can be a parameter value without quotes.
fn is_word(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn list_items<'a>(contact: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    contact.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name)?.as_str().map(str::trim).filter(|text| !text.is_empty())
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.trim().chars() {
        match c {
            '\\' | ',' | ';' => safe.extend(['\\', c]),
            '\n' => safe.push_str("\\n"),
            '\r' => {}
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn contact_is_converted_to_a_vcard() {
        let contact = json!({
            "name": { "formatted_name": "Ana Pérez", "first_name": "Ana", "last_name": "Pérez" },
            "phones": [{ "phone": "+57 300 123 4567", "type": "WORK", "wa_id": "573001234567" }, { "phone": "123" }],
            "emails": [{ "email": "ana@example.com", "type": "HOME" }],
            "urls": [{ "url": "https://example.com" }],
            "addresses": [{ "street": "Calle 1", "city": "Bogotá", "country": "Colombia" }],
            "org": { "company": "Tienda; Sur", "title": "Jefa" },
            "birthday": "1990-01-31",
        });
        let expected = "BEGIN:VCARD\r\nVERSION:3.0\r\nN:Pérez;Ana;;;\r\nFN:Ana Pérez\r\nORG:Tienda\\; Sur;\r\n\
                        TITLE:Jefa\r\nTEL;type=WORK;waid=573001234567:+57 300 123 4567\r\nTEL;type=CELL;waid=123:123\r\n\
                        EMAIL;type=HOME:ana@example.com\r\nURL:https://example.com\r\n\
                        ADR:;;Calle 1;Bogotá;;;Colombia\r\nBDAY:1990-01-31\r\nEND:VCARD";
        assert_eq!(to_vcard(&contact), ("Ana Pérez".to_owned(), expected.to_owned()));
    }

    #[test]
    fn vcard_values_are_escaped() {
        let contact = json!({
            "name": { "formatted_name": "Ana\nTEL:1" },
            "phones": [{ "phone": "1\r\nEND:VCARD", "type": "X:Y\n" }],
        });
        let (_, card) = to_vcard(&contact);
        assert!(card.contains("FN:Ana\\nTEL:1\r\n"), "{card}");
        assert!(card.contains("TEL;type=CELL;waid=1:1\\nEND:VCARD\r\n"), "{card}");
    }
}
