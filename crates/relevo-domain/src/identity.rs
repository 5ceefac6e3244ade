//! The names of a person: number, user id and parent user id; and notices that they changed.

use std::fmt;

use super::{Recipient, SystemNotice, UserId};

/// The names of a person: the number, the business-scoped user id (BSUID), the parent user id, or several of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    phone: Option<String>,
    user_id: Option<String>,
    parent_user_id: Option<String>,
}

impl Identity {
    /// Maximum length of a number or id; a parent user id has up to 135 characters.
    const MAX_LEN: usize = 160;

    /// `None` when neither name is plausible. The length of numbers is not checked as for recipients, because the user
    /// exists: it sent a message. WhatsApp may put a user id where a number is expected, so an id is known by its form.
    pub fn new(phone: Option<&str>, user_id: Option<&str>) -> Option<Self> {
        let phone = phone.filter(|phone| is_plausible(phone));
        let digits = phone.map(|phone| phone.strip_prefix('+').unwrap_or(phone));
        let digits = digits.filter(|phone| !phone.is_empty() && phone.bytes().all(|b| b.is_ascii_digit()));
        let mut identity = Self { phone: digits.map(str::to_owned), user_id: None, parent_user_id: None };
        let user_id = user_id.filter(|id| is_plausible(id));
        let in_phone = phone.filter(|phone| phone.parse::<UserId>().is_ok());
        for id in [user_id, in_phone].into_iter().flatten() {
            let is_parent = id.parse::<UserId>().is_ok_and(|id| id.is_parent());
            let place = if is_parent { &mut identity.parent_user_id } else { &mut identity.user_id };
            place.get_or_insert_with(|| id.to_owned());
        }
        let is_named = identity.names().next().is_some();
        is_named.then_some(identity)
    }

    /// The same person with the parent user id, if it is one.
    #[must_use]
    pub fn with_parent(mut self, parent_user_id: Option<&str>) -> Self {
        let parent = parent_user_id.filter(|id| id.parse::<UserId>().is_ok());
        self.parent_user_id = self.parent_user_id.or(parent.map(str::to_owned));
        self
    }

    /// The digits of the number, unless WhatsApp hides it.
    pub fn phone(&self) -> Option<&str> {
        self.phone.as_deref()
    }

    /// The business-scoped user id, if there is one.
    pub fn user_id(&self) -> Option<&str> {
        self.user_id.as_deref()
    }

    /// The id that all portfolios of the company share, if there is one.
    pub fn parent_user_id(&self) -> Option<&str> {
        self.parent_user_id.as_deref()
    }

    /// Every recipient that reaches the user.
    pub fn recipients(&self) -> impl Iterator<Item = Recipient> + '_ {
        self.names().filter_map(|name| name.parse().ok())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        [&self.phone, &self.user_id, &self.parent_user_id].into_iter().flatten().map(String::as_str)
    }
}

fn is_plausible(name: &str) -> bool {
    !name.is_empty() && name.len() <= Identity::MAX_LEN && name.bytes().all(|b| b.is_ascii_graphic())
}

/// The user's address in the documented webhooks: `573001234567@s.whatsapp.net`, or the user id if there is no
/// number.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.phone {
            Some(phone) => write!(f, "{phone}@s.whatsapp.net"),
            None => f.write_str(self.names().next().unwrap_or_default()),
        }
    }
}

/// A person who changed the number or an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityChange {
    /// The names that no longer mean the person; never empty.
    pub former: Vec<Recipient>,
    /// The names that mean the person now, new ones and those that stay.
    pub current: Vec<Recipient>,
}

impl IdentityChange {
    /// `None` when no name was given up, or none is left.
    pub fn new(former: Vec<Recipient>, current: Vec<Recipient>) -> Option<Self> {
        let is_current = |name: &Recipient| name.spellings().any(|spelling| current.contains(&spelling));
        let former: Vec<_> = former.into_iter().filter(|name| !is_current(name)).collect();
        (!former.is_empty() && !current.is_empty()).then_some(Self { former, current })
    }

    /// The change that a notice in a chat tells of. The author of the notice is named by former or by new names; a name
    /// of the author that the notice replaces is a former one.
    pub(super) fn from_notice(notice: &SystemNotice, author: &Identity) -> Option<Self> {
        let read = |names: &[&Option<String>]| -> Vec<Recipient> {
            names.iter().copied().flatten().filter_map(|name| name.parse().ok()).collect()
        };
        let (number, former_number) = match &notice.new_wa_id {
            Some(_) => (&notice.new_wa_id, &notice.wa_id),
            None => (&notice.wa_id, &None),
        };
        let previous =
            [&notice.customer, former_number, &notice.previous_user_id, &notice.previous_parent_user_id];
        let mut former = read(&previous);
        let mut current = read(&[number, &notice.user_id, &notice.parent_user_id]);
        if current.is_empty() {
            return None;
        }
        for name in author.recipients() {
            let is_replaced = current.iter().any(|new| is_same_kind(new, &name));
            if !former.contains(&name) && !current.contains(&name) {
                let names = if is_replaced { &mut former } else { &mut current };
                names.push(name);
            }
        }
        // Earlier notices name the former id in their text alone.
        if former.iter().all(|name| current.contains(name)) {
            former.extend(notice.body.as_deref().and_then(former_name_in));
        }
        Self::new(former, current)
    }
}

/// Whether two names are a number each, a user id each, or a parent user id each.
fn is_same_kind(one: &Recipient, other: &Recipient) -> bool {
    match (one, other) {
        (Recipient::Phone(_), Recipient::Phone(_)) => true,
        (Recipient::User(one), Recipient::User(other)) => one.is_parent() == other.is_parent(),
        _ => false,
    }
}

/// The first name in `User Ana changed from CO.1 to CO.2`.
fn former_name_in(body: &str) -> Option<Recipient> {
    let (_, change) = body.rsplit_once(" changed from ")?;
    let (former, _) = change.split_once(" to ")?;
    former.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(phone: Option<&str>, user_id: Option<&str>) -> Identity {
        Identity::new(phone, user_id).unwrap()
    }

    fn texts(names: &[Recipient]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn identity_needs_a_phone_or_a_user_id() {
        let shown = |phone, user| Identity::new(phone, user).map(|identity| identity.to_string());
        assert_eq!(shown(Some("573001234567"), Some("CO.1")).as_deref(), Some("573001234567@s.whatsapp.net"));
        assert_eq!(shown(Some("+376312345"), None).as_deref(), Some("376312345@s.whatsapp.net"));
        assert_eq!(shown(None, Some("CO.13491208655302741918")).as_deref(), Some("CO.13491208655302741918"));
        for implausible in [(None, None), (Some(""), None), (Some("+"), None), (Some("ana"), Some(""))] {
            assert_eq!(Identity::new(implausible.0, implausible.1), None, "{implausible:?}");
        }
    }

    #[test]
    fn user_id_in_the_place_of_the_number_is_a_user_id() {
        let hidden = identity(Some("CO.60417733920855124472"), None);
        assert_eq!((hidden.phone(), hidden.user_id()), (None, Some("CO.60417733920855124472")));
        let both = identity(Some("CO.ENT.7"), Some("CO.1"));
        assert_eq!((both.user_id(), both.parent_user_id()), (Some("CO.1"), Some("CO.ENT.7")));
        let parent = identity(None, Some("CO.ENT.7"));
        assert_eq!((parent.user_id(), parent.to_string().as_str()), (None, "CO.ENT.7"));
        assert_eq!(
            identity(None, Some("CO.1")).with_parent(Some("CO.ENT.2")).parent_user_id(),
            Some("CO.ENT.2")
        );
    }

    #[test]
    fn every_name_of_a_user_is_a_recipient() {
        let names =
            |phone, user| identity(phone, user).recipients().map(|who| who.to_string()).collect::<Vec<_>>();
        assert_eq!(names(Some("573001234567"), Some("CO.1")), ["573001234567", "CO.1"]);
        assert_eq!(names(Some("376312345"), None), ["376312345"]);
        assert_eq!(names(Some("12345"), None), [""; 0]);
    }

    #[test]
    fn notice_tells_former_and_current_names() {
        let notice = |json: serde_json::Value| serde_json::from_value::<SystemNotice>(json).unwrap();
        let old = || identity(Some("573001234591"), None);
        let hidden = || identity(None, Some("CO.2222"));
        for (json, author, former, current) in [
            (
                serde_json::json!({ "type": "user_changed_number", "wa_id": "573009999902" }),
                old(),
                vec!["573001234591"],
                vec!["573009999902"],
            ),
            (
                serde_json::json!({ "type": "customer_changed_number", "new_wa_id": "573009999902" }),
                identity(Some("573001234591"), Some("CO.1")),
                vec!["573001234591"],
                vec!["573009999902", "CO.1"],
            ),
            (
                serde_json::json!({ "customer": "573001234591", "wa_id": "573009999902", "user_id": "CO.2",
                    "previous_user_id": "CO.1", "parent_user_id": "CO.ENT.2", "previous_parent_user_id": "CO.ENT.1" }),
                identity(Some("573009999902"), Some("CO.2")),
                vec!["573001234591", "CO.1", "CO.ENT.1"],
                vec!["573009999902", "CO.2", "CO.ENT.2"],
            ),
            (
                serde_json::json!({ "user_id": "CO.2222", "previous_user_id": "CO.1111" }),
                hidden(),
                vec!["CO.1111"],
                vec!["CO.2222"],
            ),
            (
                serde_json::json!({ "user_id": "CO.3333" }),
                identity(Some("573001234591"), Some("CO.2222")),
                vec!["CO.2222"],
                vec!["CO.3333", "573001234591"],
            ),
            (
                serde_json::json!({ "user_id": "CO.2222", "body": "User Ana changed from CO.1111 to CO.2222" }),
                hidden(),
                vec!["CO.1111"],
                vec!["CO.2222"],
            ),
        ] {
            let change = IdentityChange::from_notice(&notice(json.clone()), &author).unwrap();
            assert_eq!(
                (texts(&change.former), texts(&change.current)),
                (owned(&former), owned(&current)),
                "{json}"
            );
        }
        for json in [
            serde_json::json!({}),
            serde_json::json!({ "wa_id": "573001234591" }),
            serde_json::json!({ "wa_id": "x" }),
        ] {
            assert_eq!(IdentityChange::from_notice(&notice(json.clone()), &old()), None, "{json}");
        }
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }
}
