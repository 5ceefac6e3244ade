//! Converts vCards (RFC 2426, RFC 6350) into contact cards in Meta's form, which every provider accepts.

use serde_json::{Map, Value, json};

use relevo_domain::ValidationError;

/// One line of a vCard: `NAME;PARAMETER=…:value`.
struct Property<'a> {
    name: String,
    parameters: &'a str,
    value: &'a str,
}

/// Parses the first card of `text`. `display_name` wins over the name in the card.
///
/// # Errors
///
/// `text` is not a vCard, or has no name.
pub(super) fn parse_contact(text: &str, display_name: Option<&str>) -> Result<Value, ValidationError> {
    let unfolded = unfold(text);
    let mut properties = unfolded.lines().filter_map(parse_property);
    let begins = properties.next().is_some_and(|first| first.name == "BEGIN" && is_vcard(first.value));
    if !begins {
        return Err(ValidationError::new("vcard", "must begin with BEGIN:VCARD"));
    }
    let card = ContactCard::from_properties(properties.take_while(|property| property.name != "END"));
    card.into_contact(display_name.filter(|name| !name.trim().is_empty()))
}

#[derive(Default)]
struct ContactCard {
    full_name: Option<String>,
    /// Family, given, additional, prefix, suffix.
    name: Vec<String>,
    /// Company, department.
    organisation: Vec<String>,
    title: Option<String>,
    phones: Vec<Value>,
    emails: Vec<Value>,
    urls: Vec<Value>,
}

impl ContactCard {
    fn from_properties<'a>(properties: impl Iterator<Item = Property<'a>>) -> Self {
        let mut card = ContactCard::default();
        for property in properties {
            match property.name.as_str() {
                "FN" => card.full_name = Some(unescape(property.value)),
                "N" => card.name = split_components(property.value),
                "ORG" => card.organisation = split_components(property.value),
                "TITLE" => card.title = Some(unescape(property.value)),
                "TEL" => card.phones.push(phone_entry(&property)),
                "EMAIL" => {
                    card.emails
                        .push(json!({ "email": unescape(property.value), "type": usage_type(&property) }));
                }
                "URL" => {
                    card.urls.push(json!({ "url": unescape(property.value), "type": usage_type(&property) }));
                }
                _ => {}
            }
        }
        card
    }

    fn into_contact(self, display_name: Option<&str>) -> Result<Value, ValidationError> {
        let full = display_name.map(str::to_owned).or(self.full_name).filter(|name| !name.trim().is_empty());
        let full =
            full.ok_or_else(|| ValidationError::new("vcard", "has no name: give FN, or display_name"))?;
        let mut name = Map::new();
        let parts = ["last_name", "first_name", "middle_name", "prefix", "suffix"];
        for (key, part) in parts.into_iter().zip(self.name).filter(|(_, part)| !part.is_empty()) {
            name.insert(key.to_owned(), part.into());
        }
        // Meta requires one part beside the formatted name.
        if name.is_empty() {
            name.insert("first_name".to_owned(), full.clone().into());
        }
        name.insert("formatted_name".to_owned(), full.into());
        let mut organisation = Map::new();
        let title = self.title.into_iter().map(|title| ("title", title));
        for (key, part) in ["company", "department"].into_iter().zip(self.organisation).chain(title) {
            organisation.insert(key.to_owned(), part.into());
        }
        let mut contact = Map::new();
        contact.insert("name".to_owned(), name.into());
        for (key, list) in [("phones", self.phones), ("emails", self.emails), ("urls", self.urls)] {
            if !list.is_empty() {
                contact.insert(key.to_owned(), list.into());
            }
        }
        if !organisation.is_empty() {
            contact.insert("org".to_owned(), organisation.into());
        }
        Ok(contact.into())
    }
}

fn phone_entry(property: &Property<'_>) -> Value {
    let number = property.value.trim();
    let number = unescape(number.strip_prefix("tel:").unwrap_or(number));
    let mut phone = json!({ "phone": number, "type": usage_type(property) });
    // Cards made by WhatsApp name the account: `TEL;waid=573001234567:+57 300 …`.
    if let (Some(account), Some(phone)) = (find_parameter(property.parameters, "WAID"), phone.as_object_mut())
    {
        phone.insert("wa_id".to_owned(), account.into());
    }
    phone
}

/// The type of a number or an address: Meta knows `HOME` and `WORK`, and for numbers `CELL` and others.
fn usage_type(property: &Property<'_>) -> &'static str {
    let parameters = property.parameters.to_ascii_uppercase();
    match property.name.as_str() {
        "TEL" if parameters.contains("CELL") => "CELL",
        _ if parameters.contains("WORK") => "WORK",
        "TEL" if !parameters.contains("HOME") => "CELL",
        _ => "HOME",
    }
}

fn find_parameter<'a>(parameters: &'a str, name: &str) -> Option<&'a str> {
    parameters
        .split(';')
        .filter_map(|one| one.split_once('='))
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

fn is_vcard(value: &str) -> bool {
    value.trim().eq_ignore_ascii_case("VCARD")
}

/// A line that begins with a blank continues the previous line.
fn unfold(text: &str) -> String {
    text.replace("\r\n", "\n").replace("\n ", "").replace("\n\t", "")
}

fn parse_property(line: &str) -> Option<Property<'_>> {
    let (head, value) = line.split_once(':')?;
    let (name, parameters) = head.split_once(';').unwrap_or((head, ""));
    // `item1.TEL` groups lines; the group is ignored.
    let name = name.rsplit('.').next().unwrap_or(name).trim().to_ascii_uppercase();
    Some(Property { name, parameters, value })
}

/// The parts of a compound value, separated by semicolons that are not escaped.
fn split_components(value: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in value.chars() {
        if c == ';' && !escaped {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    parts.iter().map(|part| unescape(part)).collect()
}

fn unescape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut chars = value.trim().chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n' | 'N') => text.push('\n'),
                Some(other) => text.push(other),
                None => {}
            },
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcard_becomes_a_contact() {
        let card = "BEGIN:VCARD\r\nVERSION:3.0\r\nN:Pérez;Ana;;;\r\nFN:Ana Pérez\r\nORG:Tienda\\; Sur;Ventas\r\n\
                    TITLE:Jefa\r\nitem1.TEL;type=CELL;waid=573001234567:+57 300 123\r\n  4567\r\n\
                    EMAIL;TYPE=work:ana@example.com\r\nURL:https://example.com\r\nEND:VCARD\r\n";
        let expected = json!({
            "name": { "formatted_name": "Ana Pérez", "first_name": "Ana", "last_name": "Pérez" },
            "phones": [{ "phone": "+57 300 123 4567", "type": "CELL", "wa_id": "573001234567" }],
            "emails": [{ "email": "ana@example.com", "type": "WORK" }],
            "urls": [{ "url": "https://example.com", "type": "HOME" }],
            "org": { "company": "Tienda; Sur", "department": "Ventas", "title": "Jefa" },
        });
        assert_eq!(parse_contact(card, None).unwrap(), expected);
    }

    #[test]
    fn display_name_overrides_the_card_and_first_name_is_always_set() {
        let card = "BEGIN:VCARD\nFN:Otra\nTEL:123\nEND:VCARD";
        let name = &parse_contact(card, Some("Ana")).unwrap()["name"];
        assert_eq!(*name, json!({ "formatted_name": "Ana", "first_name": "Ana" }));
        assert_eq!(parse_contact(card, Some(" ")).unwrap()["name"]["formatted_name"], "Otra");
    }

    #[test]
    fn invalid_vcard_is_rejected() {
        for (text, says) in [("", "BEGIN"), ("FN:Ana", "BEGIN"), ("BEGIN:VCARD\nTEL:1\nEND:VCARD", "name")] {
            assert!(parse_contact(text, None).unwrap_err().reason.contains(says), "{text:?}");
        }
    }
}
