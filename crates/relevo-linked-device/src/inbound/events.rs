//! Events other than messages.
//!
//! Some events of the client are ignored, because they concern devices rather than people or are reported in another way:
//! server acks, raw stanzas and notifications, device lists, sync requests, offline counts, MEX notifications, pairing
//! codes that were requested through the API, muted statuses, and the data of a full sync.

use serde_json::{Value, json};
use whatsapp_rust::Jid;
use whatsapp_rust::chrono::{DateTime, Utc};
use whatsapp_rust::types::call::{CallAction, ElsewhereOutcome, IncomingCall};
use whatsapp_rust::types::events::{Event, GroupUpdate, LazyHistorySync, Receipt, UndecryptableMessage};
use whatsapp_rust::types::message::MessageSource;
use whatsapp_rust::types::presence::{ChatPresence, ChatPresenceMedia, ReceiptType};
use whatsapp_rust::wacore_binary::JidExt as _;

use crate::jid::{bare_jid, is_person};
use crate::lid_mapping::LidMapping;
use relevo_domain::{self as domain, EventKind, MessageId, StatusUpdate, Timestamp};
use relevo_provider::ConnectionEvent;

/// Translates an event for the instance. `ours` finds the own message that a stanza carries; `now` is the time of events
/// without a timestamp.
pub(crate) fn connection_events(
    event: &Event,
    now: Timestamp,
    names: &LidMapping,
    ours: impl Fn(&str) -> Option<MessageId>,
) -> Vec<ConnectionEvent> {
    let translated = match event {
        Event::Receipt(receipt) => return statuses(receipt, names, ours).into_iter().collect(),
        Event::ChatPresence(presence) => {
            let state = match presence.state {
                ChatPresence::Composing => "composing",
                ChatPresence::Paused => "paused",
            };
            let media = match presence.media {
                ChatPresenceMedia::Text => "",
                ChatPresenceMedia::Audio => "audio",
            };
            let from = bare_jid(&presence.source.chat);
            let data = json!({ "from": from, "state": state, "media": media });
            OtherEvent::new(
                EventKind::Presence,
                now,
                names.add_identity(data, &presence.source.sender, presence.source.sender_alt.as_ref()),
            )
        }
        Event::Presence(presence) => {
            let state = if presence.unavailable { "unavailable" } else { "available" };
            let last_seen = presence.last_seen.map(|at| at.timestamp());
            let data = json!({ "from": bare_jid(&presence.from), "state": state, "media": "", "last_seen": last_seen });
            OtherEvent::new(EventKind::Presence, now, names.add_identity(data, &presence.from, None))
        }
        Event::IncomingCall(call) => {
            return call_event(call, names).map(ConnectionEvent::from).into_iter().collect();
        }
        Event::MissedCall(call) => {
            ended_call_event(names, &call.from, &call.call_id, "missed", call.timestamp)
        }
        Event::CallEndedElsewhere(call) => {
            let status = match call.outcome {
                ElsewhereOutcome::Accepted => "accepted_elsewhere",
                _ => "rejected_elsewhere",
            };
            ended_call_event(names, &call.from, &call.call_id, status, call.timestamp)
        }
        Event::GroupUpdate(update) => group_event(update, names),
        Event::UndecryptableMessage(message) => undecryptable_event(message, names),
        Event::HistorySync(sync) => OtherEvent::new(EventKind::SyncProgress, now, sync_progress(sync)),
        Event::NewsletterLiveUpdate(update) => {
            let data = json!({ "newsletter": bare_jid(&update.newsletter_jid), "messages": update.messages });
            OtherEvent::new(EventKind::Newsletter, now, data)
        }
        other => match contact_event(other, now, names)
            .or_else(|| chat_event(other))
            .or_else(|| pairing_event(other, now))
        {
            Some(translated) => translated,
            None => return Vec::new(),
        },
    };
    vec![translated.into()]
}

/// The parts of a [`ConnectionEvent::Other`].
struct OtherEvent {
    kind: EventKind,
    at: Timestamp,
    data: Value,
}

impl OtherEvent {
    fn new(kind: EventKind, at: Timestamp, data: Value) -> Self {
        Self { kind, at, data }
    }

    fn from_datetime(kind: EventKind, at: DateTime<Utc>, data: Value) -> Self {
        Self { kind, at: timestamp(at), data }
    }
}

impl From<OtherEvent> for ConnectionEvent {
    fn from(OtherEvent { kind, at, data }: OtherEvent) -> Self {
        Self::Other { kind, at, data }
    }
}

fn timestamp(at: DateTime<Utc>) -> Timestamp {
    Timestamp(u64::try_from(at.timestamp_millis()).unwrap_or(0))
}

/// The people whose alternate JIDs are needed to translate an event.
pub(crate) fn people_in_event(event: &Event) -> Vec<Jid> {
    let who = match event {
        Event::Receipt(receipt) => &receipt.source.sender,
        Event::ChatPresence(presence) => &presence.source.sender,
        Event::Presence(presence) => &presence.from,
        Event::IncomingCall(call) => &call.from,
        Event::MissedCall(call) => &call.from,
        Event::CallEndedElsewhere(call) => &call.from,
        Event::UndecryptableMessage(message) => &message.info.source.sender,
        Event::GroupUpdate(update) => return update.participant.iter().cloned().collect(),
        Event::PictureUpdate(update) => &update.jid,
        Event::UserAboutUpdate(update) => &update.jid,
        Event::ContactUpdated(update) => &update.jid,
        Event::ContactUpdate(update) => &update.jid,
        Event::PushNameUpdate(update) => &update.jid,
        Event::IdentityChange(update) => &update.user,
        Event::BusinessStatusUpdate(update) => &update.jid,
        Event::DisappearingModeChanged(update) => &update.from,
        _ => return Vec::new(),
    };
    vec![who.clone()]
}

/// The status updates of a receipt. Receipts of the account's own devices are ignored, because they say nothing about
/// the recipient.
fn statuses(
    receipt: &Receipt,
    names: &LidMapping,
    ours: impl Fn(&str) -> Option<MessageId>,
) -> Option<ConnectionEvent> {
    let kind = match receipt.r#type {
        ReceiptType::Delivered => domain::Receipt::Delivered,
        ReceiptType::Read => domain::Receipt::Read,
        ReceiptType::Played => domain::Receipt::Played,
        _ => return None,
    };
    let MessageSource { chat, sender, sender_alt, .. } = &receipt.source;
    let reader = names.identity(sender, sender_alt.as_ref())?.to_string();
    let (recipient, participant) =
        if is_person(chat) { (reader, None) } else { (bare_jid(chat), Some(reader)) };
    let update = |id: &String| {
        Some(StatusUpdate {
            provider_id: id.parse().ok()?,
            our_id: ours(id),
            receipt: kind,
            at: timestamp(receipt.timestamp),
            recipient: Some(recipient.clone()),
            participant: participant.clone(),
            failure: None,
        })
    };
    let updates: Vec<_> = receipt.message_ids.iter().filter_map(update).collect();
    (!updates.is_empty()).then_some(ConnectionEvent::Statuses(updates))
}

/// The event of a call. `None` for steps of a call that people do not notice.
fn call_event(call: &IncomingCall, names: &LidMapping) -> Option<OtherEvent> {
    let (status, is_video, group) = match &call.action {
        CallAction::Offer { is_video, group_jid, .. } => ("incoming", *is_video, group_jid.as_ref()),
        CallAction::OfferNotice { is_video, .. } => ("incoming", *is_video, None),
        CallAction::Accept { .. } => ("accepted", false, None),
        CallAction::Reject { .. } => ("rejected", false, None),
        CallAction::Terminate { .. } => ("ended", false, None),
        _ => return None,
    };
    let caller = match &call.action {
        CallAction::Offer { caller_pn, .. } => caller_pn.as_ref(),
        _ => None,
    };
    let data = json!({
        "from": bare_jid(&call.from),
        "call_id": call.action.call_id(),
        "timestamp": call.timestamp.timestamp(),
        "is_video": is_video,
        "status": status,
        "group_id": group.map(bare_jid),
    });
    Some(OtherEvent::from_datetime(
        EventKind::Call,
        call.timestamp,
        names.add_identity(data, &call.from, caller),
    ))
}

fn ended_call_event(
    names: &LidMapping,
    from: &Jid,
    call_id: &str,
    status: &str,
    at: DateTime<Utc>,
) -> OtherEvent {
    let data = json!({
        "from": bare_jid(from),
        "call_id": call_id,
        "timestamp": at.timestamp(),
        "is_video": false,
        "status": status,
    });
    OtherEvent::from_datetime(EventKind::Call, at, names.add_identity(data, from, None))
}

fn group_event(update: &GroupUpdate, names: &LidMapping) -> OtherEvent {
    let author =
        update.participant.as_ref().and_then(|who| names.identity(who, update.participant_pn.as_ref()));
    let data = json!({
        "group_id": bare_jid(&update.group_jid),
        "author": author.map(|identity| identity.to_string()),
        "timestamp": update.timestamp.timestamp(),
        "action": update.action.wire_tag(),
        "details": update.action,
    });
    OtherEvent::from_datetime(EventKind::Group, update.timestamp, data)
}

/// The event of a message that could not be decrypted. WhatsApp asks its sender to encrypt it again, so it may still
/// arrive, as a message with the same id.
fn undecryptable_event(message: &UndecryptableMessage, names: &LidMapping) -> OtherEvent {
    let info = &message.info;
    let source = &info.source;
    let reason = if message.is_unavailable { "only_on_the_phone" } else { "keys" };
    let data = json!({
        "message_id": info.id,
        "from": bare_jid(&source.sender),
        "to": bare_jid(&source.chat),
        "is_group": source.chat.is_group(),
        "is_from_me": source.is_from_me,
        "timestamp": info.timestamp.timestamp(),
        "reason": reason,
        "unavailable": message.is_unavailable.then_some(message.unavailable_type.as_str()),
    });
    OtherEvent::from_datetime(
        EventKind::Undecryptable,
        info.timestamp,
        names.add_identity(data, &source.sender, source.sender_alt.as_ref()),
    )
}

/// The progress of a history sync. Source of the names: `HistorySyncType` of WhatsApp Web.
fn sync_progress(sync: &LazyHistorySync) -> Value {
    let kind = match sync.sync_type() {
        0 => "initial_bootstrap",
        1 => "initial_status_v3",
        2 => "full",
        3 => "recent",
        4 => "push_name",
        5 => "non_blocking_data",
        6 => "on_demand",
        _ => "other",
    };
    json!({ "percentage": sync.progress(), "sync_type": kind, "chunk": sync.chunk_order() })
}

/// The event of a change of a person's data.
fn contact_event(event: &Event, now: Timestamp, names: &LidMapping) -> Option<OtherEvent> {
    let changed = |person: &Jid, alternate: Option<&Jid>, change: &str, details: Value, at: Timestamp| {
        let data = json!({ "contact": bare_jid(person), "change": change, "details": details });
        OtherEvent::new(EventKind::Contact, at, names.add_identity(data, person, alternate))
    };
    Some(match event {
        Event::PictureUpdate(update) => {
            let author = update.author.as_ref().map(bare_jid);
            let details =
                json!({ "removed": update.removed, "picture_id": update.picture_id, "author": author });
            changed(&update.jid, None, "picture", details, timestamp(update.timestamp))
        }
        Event::UserAboutUpdate(update) => {
            changed(&update.jid, None, "about", json!({ "text": update.status }), timestamp(update.timestamp))
        }
        Event::ContactUpdated(update) => {
            changed(&update.jid, None, "profile", Value::Null, timestamp(update.timestamp))
        }
        Event::ContactNumberChanged(update) => {
            let details = json!({ "old": bare_jid(&update.old_jid), "new": bare_jid(&update.new_jid) });
            changed(&update.new_jid, update.new_lid.as_ref(), "number", details, timestamp(update.timestamp))
        }
        Event::ContactUpdate(update) if !update.from_full_sync => {
            let action = &update.action;
            let details = json!({ "full_name": action.full_name, "first_name": action.first_name });
            changed(&update.jid, None, "saved", details, timestamp(update.timestamp))
        }
        Event::PushNameUpdate(update) => {
            let details = json!({ "old": update.old_push_name, "new": update.new_push_name });
            changed(&update.jid, update.message.source.sender_alt.as_ref(), "name", details, now)
        }
        Event::SelfPushNameUpdated(update) => {
            let data =
                json!({ "contact": null, "change": "own_name", "details": { "new": update.new_name } });
            OtherEvent::new(EventKind::Contact, now, data)
        }
        Event::IdentityChange(update) => {
            changed(&update.user, update.lid_user.as_ref(), "security_code", Value::Null, now)
        }
        Event::BusinessStatusUpdate(update) => {
            let details = json!({ "type": update.update_type, "verified_name": update.verified_name });
            changed(&update.jid, None, "business", details, timestamp(update.timestamp))
        }
        Event::DisappearingModeChanged(update) => {
            let details = json!({ "seconds": update.duration });
            changed(&update.from, None, "disappearing_messages", details, timestamp(update.setting_timestamp))
        }
        _ => return None,
    })
}

/// The event of a change that the account's owner made to a chat on another device.
fn chat_event(event: &Event) -> Option<OtherEvent> {
    let changed = |chat: &Jid, change: &str, details: Value, at: DateTime<Utc>| {
        OtherEvent::from_datetime(
            EventKind::Chat,
            at,
            json!({ "chat": bare_jid(chat), "change": change, "details": details }),
        )
    };
    Some(match event {
        Event::PinUpdate(update) if !update.from_full_sync => {
            changed(&update.jid, "pin", json!({ "pinned": update.action.pinned }), update.timestamp)
        }
        Event::MuteUpdate(update) if !update.from_full_sync => {
            let details = json!({ "muted": update.action.muted, "until": update.action.mute_end_timestamp });
            changed(&update.jid, "mute", details, update.timestamp)
        }
        Event::ArchiveUpdate(update) if !update.from_full_sync => {
            changed(&update.jid, "archive", json!({ "archived": update.action.archived }), update.timestamp)
        }
        Event::MarkChatAsReadUpdate(update) if !update.from_full_sync => {
            changed(&update.jid, "read", json!({ "read": update.action.read }), update.timestamp)
        }
        Event::StarUpdate(update) if !update.from_full_sync => {
            let details = json!({ "message_id": update.message_id, "starred": update.action.starred });
            changed(&update.chat_jid, "star", details, update.timestamp)
        }
        Event::DeleteChatUpdate(update) if !update.from_full_sync => {
            changed(&update.jid, "delete", Value::Null, update.timestamp)
        }
        Event::ClearChatUpdate(update) if !update.from_full_sync => {
            changed(&update.jid, "clear", Value::Null, update.timestamp)
        }
        Event::DeleteMessageForMeUpdate(update) if !update.from_full_sync => {
            let details = json!({ "message_id": update.message_id, "from_me": update.from_me });
            changed(&update.chat_jid, "delete_message", details, update.timestamp)
        }
        Event::LabelAssociationUpdate(update) if !update.from_full_sync => {
            let details = json!({ "label_id": update.label_id, "labeled": update.action.labeled });
            changed(&update.chat_jid, "label", details, update.timestamp)
        }
        Event::LabelEditUpdate(update) if !update.from_full_sync => {
            let details =
                json!({ "name": update.action.name, "deleted": update.action.deleted == Some(true) });
            let data = json!({ "label_id": update.label_id, "change": "label_edit", "details": details });
            OtherEvent::from_datetime(EventKind::Chat, update.timestamp, data)
        }
        _ => return None,
    })
}

/// The events that require an action of the person who pairs the device.
fn pairing_event(event: &Event, now: Timestamp) -> Option<OtherEvent> {
    let (kind, data) = match event {
        Event::PairPasskeyRequest(request) => {
            let options: Value = serde_json::from_str(&request.request_options_json)
                .unwrap_or_else(|_| json!(request.request_options_json));
            (EventKind::Passkey, json!({ "stage": "request", "options": options }))
        }
        Event::PairPasskeyConfirmation(confirmation) => {
            let code = (!confirmation.skip_handoff_ux).then_some(&confirmation.code);
            (EventKind::Passkey, json!({ "stage": "confirmation", "code": code }))
        }
        Event::PairPasskeyError(error) => {
            (EventKind::Passkey, json!({ "stage": "error", "error": error.error }))
        }
        Event::PairingCodeRefresh(_) => (
            EventKind::Pairing,
            json!({ "stage": "code_void", "error": "the pairing code is void; ask for another" }),
        ),
        Event::PairingCodeError(error) => {
            (EventKind::Pairing, json!({ "stage": "code_failed", "error": error.error }))
        }
        Event::QrScannedWithoutMultidevice(_) => {
            let error =
                "the phone that scanned the code is not set up for linked devices; update WhatsApp on it";
            (EventKind::Pairing, json!({ "stage": "not_multidevice", "error": error }))
        }
        Event::AppStateSyncFailed(failed) => {
            let data = json!({ "stage": "sync_failed", "collections": [failed.fatal, failed.retryable] });
            (EventKind::Pairing, data)
        }
        _ => return None,
    };
    Some(OtherEvent::new(kind, now, data))
}

#[cfg(test)]
mod tests;
