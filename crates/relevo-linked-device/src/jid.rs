//! People and chats: as the node names them, and as WhatsApp Web does.

use whatsapp_rust::wacore_binary::JidExt as _;
use whatsapp_rust::{Jid, Server};

use relevo_domain::{self as domain, Identity, Recipient};

/// Where a message to this recipient goes. `None` for a user id of the Cloud API, which WhatsApp Web does not know.
pub(super) fn jid_from_recipient(recipient: &Recipient) -> Option<Jid> {
    match recipient {
        Recipient::Phone(phone) => Some(Jid::pn(phone.digits())),
        Recipient::User(_) => None,
        Recipient::Jid(domain::Jid::Group(group)) => Some(Jid::group(group.as_str())),
        Recipient::Jid(domain::Jid::Newsletter(newsletter)) => Some(Jid::newsletter(newsletter.as_str())),
        Recipient::Jid(domain::Jid::Lid(lid)) => Some(Jid::lid(lid.as_str())),
    }
}

/// The address in events: of the account, not of one of its devices, and in the usual two spellings where the account
/// is hosted elsewhere.
pub(super) fn bare_jid(jid: &Jid) -> String {
    if jid.server.is_pn_family() {
        Jid::pn(jid.user.clone()).to_string()
    } else if jid.server.is_lid_family() {
        Jid::lid(jid.user.clone()).to_string()
    } else {
        jid.to_non_ad_string()
    }
}

/// A person by number and hidden id, as far as the two names tell; whoever has neither is named as WhatsApp does.
pub(super) fn identity_from_jids(name: &Jid, other: Option<&Jid>) -> Option<Identity> {
    let names = || [Some(name), other].into_iter().flatten();
    let phone = names().find(|jid| jid.server.is_pn_family()).map(|jid| jid.user.to_string());
    let hidden = names().find(|jid| jid.server.is_lid_family()).map(bare_jid);
    let named = hidden.or_else(|| phone.is_none().then(|| bare_jid(name)));
    Identity::new(phone.as_deref(), named.as_deref())
}

/// Whether it is one person, rather than a group or a newsletter.
pub(super) fn is_person(jid: &Jid) -> bool {
    jid.server.is_pn_family() || jid.server.is_lid_family()
}

/// Whether it is the place of all status updates.
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
    fn recipients_have_one_address_and_user_ids_of_the_cloud_api_none() {
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
        let named = |name: &str, other: Option<&str>| {
            let identity = identity_from_jids(&jid(name), other.map(jid).as_ref()).unwrap();
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
