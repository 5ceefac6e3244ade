//! Conversion between the node's recipients and identities and the JIDs of WhatsApp Web.

use whatsapp_rust::wacore_binary::JidExt as _;
use whatsapp_rust::{Jid, Server};

use relevo_domain::{self as domain, Identity, Recipient};

/// The JID of a recipient. `None` for a user id of the Cloud API, which WhatsApp Web does not have.
pub(super) fn jid_from_recipient(recipient: &Recipient) -> Option<Jid> {
    match recipient {
        Recipient::Phone(phone) => Some(Jid::pn(phone.digits())),
        Recipient::User(_) => None,
        Recipient::Jid(domain::Jid::Group(group)) => Some(Jid::group(group.as_str())),
        Recipient::Jid(domain::Jid::Newsletter(newsletter)) => Some(Jid::newsletter(newsletter.as_str())),
        Recipient::Jid(domain::Jid::Lid(lid)) => Some(Jid::lid(lid.as_str())),
    }
}

/// The JID in events: of the account rather than of one of its devices, and on one of the two usual servers if the
/// account is hosted elsewhere.
pub(super) fn bare_jid(jid: &Jid) -> String {
    if jid.server.is_pn_family() {
        Jid::pn(jid.user.clone()).to_string()
    } else if jid.server.is_lid_family() {
        Jid::lid(jid.user.clone()).to_string()
    } else {
        jid.to_non_ad_string()
    }
}

/// The phone number and the hidden id that the two JIDs of a person name. A JID that is neither becomes the user id
/// unchanged.
pub(super) fn identity_from_jids(jid: &Jid, alternate: Option<&Jid>) -> Option<Identity> {
    let jids = || [Some(jid), alternate].into_iter().flatten();
    let phone = jids().find(|jid| jid.server.is_pn_family()).map(|jid| jid.user.to_string());
    let lid = jids().find(|jid| jid.server.is_lid_family()).map(bare_jid);
    let user_id = lid.or_else(|| phone.is_none().then(|| bare_jid(jid)));
    Identity::new(phone.as_deref(), user_id.as_deref())
}

/// Whether the JID is that of a person, rather than of a group or a newsletter.
pub(super) fn is_person(jid: &Jid) -> bool {
    jid.server.is_pn_family() || jid.server.is_lid_family()
}

/// Whether the JID is the chat of all status updates.
pub(super) fn is_status_broadcast(jid: &Jid) -> bool {
    jid.server == Server::Broadcast && jid.is_status_broadcast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jid(text: &str) -> Jid {
        text.parse().unwrap()
    }

    #[test]
    fn cloud_api_user_id_has_no_jid() {
        for (recipient, address) in [
            ("+57 300 123 4567", "573001234567@s.whatsapp.net"),
            ("120363025246125486@g.us", "120363025246125486@g.us"),
            ("120363025246125486@newsletter", "120363025246125486@newsletter"),
            ("123456789012345@lid", "123456789012345@lid"),
        ] {
            let jid = jid_from_recipient(&recipient.parse().unwrap()).unwrap();
            assert_eq!(jid.to_string(), address, "{recipient}");
        }
        assert_eq!(jid_from_recipient(&"US.13491208655302741918".parse().unwrap()), None);
    }

    #[test]
    fn bare_jid_drops_device_and_host() {
        for (full, address) in [
            ("573001234567:12@s.whatsapp.net", "573001234567@s.whatsapp.net"),
            ("573001234567:99@hosted", "573001234567@s.whatsapp.net"),
            ("123456789012345:3@lid", "123456789012345@lid"),
            ("120363025246125486@g.us", "120363025246125486@g.us"),
        ] {
            assert_eq!(bare_jid(&jid(full)), address, "{full}");
        }
    }

    #[test]
    fn identity_has_phone_and_lid_when_known() {
        let named = |name: &str, alternate: Option<&str>| {
            let identity = identity_from_jids(&jid(name), alternate.map(jid).as_ref()).unwrap();
            (identity.phone().map(str::to_owned), identity.user_id().map(str::to_owned))
        };
        let (phone, lid) = (Some("573001234567".to_owned()), Some("123456789012345@lid".to_owned()));
        assert_eq!(
            named("573001234567:2@s.whatsapp.net", Some("123456789012345:2@lid")),
            (phone.clone(), lid.clone())
        );
        assert_eq!(
            named("123456789012345@lid", Some("573001234567@s.whatsapp.net")),
            (phone.clone(), lid.clone())
        );
        assert_eq!(named("573001234567@s.whatsapp.net", None), (phone, None));
        assert_eq!(named("123456789012345@lid", None), (None, lid));
        assert_eq!(named("867051314767696@bot", None), (None, Some("867051314767696@bot".to_owned())));
    }
}
