//! The durable record of an instance, its desired state, and the store functions for both.
//!
//! `accounts` creates, configures and deletes instances in commits that also change webhook endpoints; the supervisor
//! changes the rest of a record. Each change reads the record in its own transaction, so neither undoes the other.

use serde::{Deserialize, Serialize};

use relevo_domain::{InstanceConfig, InstanceNumber, InstanceState, Reason, ReasonCode, Timestamp};
use relevo_provider::LinkedAccount;
use relevo_store::{self as store, Error, Key, Space, Store, Tx};

use super::Error as InstanceError;

/// The durable record of an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct InstanceRecord {
    pub config: InstanceConfig,
    /// The desired state, whatever the current state is.
    pub wanted: DesiredState,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    #[serde(default)]
    pub last_connected_at: Option<Timestamp>,
    /// The linked account, from pairing until the keys of the device are deleted.
    #[serde(default)]
    pub account: Option<LinkedAccount>,
}

impl InstanceRecord {
    /// Whether an operator wants the instance to send. One that was never connected, or that an operator disconnected,
    /// paused or logged out, is not missed; one that WhatsApp rejected is.
    pub fn is_meant_to_send(&self) -> bool {
        match &self.wanted {
            // A device that no phone has linked yet waits for a person.
            DesiredState::Connected => {
                self.account.is_some() || !self.config.provider.kind().capabilities().keeps_connection
            }
            DesiredState::Paused(reason) | DesiredState::LoggedOut(reason) => {
                !reason.is(ReasonCode::Requested)
            }
            DesiredState::Created
            | DesiredState::Disconnected
            | DesiredState::Unpaired(_)
            | DesiredState::LoggingOut
            | DesiredState::Deleted => false,
        }
    }
}

/// The state that an instance should have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DesiredState {
    /// Never asked to connect.
    Created,
    Connected,
    /// Not connected until an operator resumes it, with the reason.
    Paused(Reason),
    /// Disconnected on request.
    Disconnected,
    /// Pairing ended without a link. Pairing begins again only on request, also after a restart of the node.
    Unpaired(Reason),
    /// The device was unlinked. Pairing begins again only on request.
    LoggedOut(Reason),
    /// The device is being unlinked on request.
    #[serde(rename = "leaving")]
    LoggingOut,
    /// Deleted; its data is being deleted.
    Deleted,
}

impl DesiredState {
    /// The state and reason of an instance that should not be connected; `None` if it should be, or is deleted.
    pub fn idle_state(&self) -> Option<(InstanceState, Reason)> {
        let (state, reason) = match self {
            DesiredState::Connected | DesiredState::Deleted => return None,
            DesiredState::Created => {
                (InstanceState::Created, Reason::new(ReasonCode::Created, "not asked to connect yet"))
            }
            DesiredState::Disconnected => {
                (InstanceState::Disconnected, Reason::new(ReasonCode::Requested, "asked to disconnect"))
            }
            DesiredState::Paused(reason) => (InstanceState::Paused, reason.clone()),
            DesiredState::Unpaired(reason) => (InstanceState::Disconnected, reason.clone()),
            DesiredState::LoggedOut(reason) => (InstanceState::LoggedOut, reason.clone()),
            DesiredState::LoggingOut => {
                let text =
                    "the device is being unlinked from the phone; connect the instance again after that";
                (InstanceState::Disconnected, Reason::new(ReasonCode::LoggingOut, text))
            }
        };
        Some((state, reason))
    }

    /// Whether a request for a connection or a QR code connects the instance. A paused instance waits for an operator.
    pub fn may_connect(&self) -> bool {
        match self {
            DesiredState::Created
            | DesiredState::Disconnected
            | DesiredState::Unpaired(_)
            | DesiredState::LoggedOut(_) => true,
            DesiredState::Connected
            | DesiredState::Paused(_)
            | DesiredState::LoggingOut
            | DesiredState::Deleted => false,
        }
    }
}

/// The key of the record of an instance.
pub(super) fn record_key(number: InstanceNumber) -> Key {
    Key::new(Space::Instance).u32(number.get())
}

/// The key of the largest instance number in use so far.
fn last_number_key() -> Key {
    Key::new(Space::NodeCounters).u8(b'n')
}

/// Allocates a number that no instance had before; `None` if none is left.
///
/// # Errors
///
/// The store could not be read.
fn next_number(tx: &mut Tx) -> Result<Option<InstanceNumber>, Error> {
    let last =
        tx.get(&last_number_key())?.and_then(|bytes| InstanceNumber::from_be_bytes(*bytes.first_chunk()?));
    let next = last.map_or(Some(InstanceNumber::FIRST), InstanceNumber::next);
    if let Some(number) = next {
        tx.put(last_number_key(), number.get().to_be_bytes().to_vec())?;
    }
    Ok(next)
}

/// Creates the record of an instance. An instance on the Cloud API connects at once; a device that has to be paired first
/// connects when it is asked to. `None` if no number is left.
///
/// After the commit, pass the number to [`Handle::reload`](super::Handle::reload).
///
/// # Errors
///
/// The store could not be read.
pub fn create(tx: &mut Tx, config: InstanceConfig, now: Timestamp) -> Result<Option<InstanceNumber>, Error> {
    let wanted = match config.provider.kind().capabilities().keeps_connection {
        true => DesiredState::Created,
        false => DesiredState::Connected,
    };
    let record = InstanceRecord {
        config,
        wanted,
        created_at: now,
        updated_at: now,
        last_connected_at: None,
        account: None,
    };
    let number = next_number(tx)?;
    if let Some(number) = number {
        tx.put(record_key(number), store::encode(&record)?)?;
    }
    Ok(number)
}

/// Replaces the configuration of an instance. New credentials resume a paused instance. The inner error: the instance
/// does not exist or is being logged out; then nothing has changed.
///
/// After the commit, pass the number to [`Handle::reload`](super::Handle::reload).
///
/// # Errors
///
/// The store could not be read, or the record could not be decoded.
pub fn replace_config(
    tx: &mut Tx,
    number: InstanceNumber,
    config: InstanceConfig,
    now: Timestamp,
) -> Result<Result<(), InstanceError>, Error> {
    let Some(record) = read(tx, number)? else { return Ok(Err(InstanceError::Unknown(config.id))) };
    if record.wanted == DesiredState::LoggingOut
        && let Some((state, reason)) = record.wanted.idle_state()
    {
        return Ok(Err(InstanceError::NotConnected { state, reason }));
    }
    let wanted = match record.wanted {
        DesiredState::Paused(_) if has_new_credentials(&record.config, &config) => DesiredState::Connected,
        wanted => wanted,
    };
    let record = InstanceRecord { config, wanted, updated_at: now, ..record };
    tx.put(record_key(number), store::encode(&record)?)?;
    Ok(Ok(()))
}

/// Whether the credentials of the new configuration differ from those of the previous one.
pub(super) fn has_new_credentials(previous: &InstanceConfig, config: &InstanceConfig) -> bool {
    previous.provider.cloud_api() != config.provider.cloud_api()
}

/// Marks an instance as deleted. The record is deleted after the data of the instance.
///
/// After the commit, pass the number to [`Handle::reload`](super::Handle::reload).
///
/// # Errors
///
/// The store could not be read, or the record could not be decoded.
pub fn mark_deleted(tx: &mut Tx, number: InstanceNumber) -> Result<(), Error> {
    modify(tx, number, |record| record.wanted = DesiredState::Deleted).map(drop)
}

/// Whether an instance exists: it has a record and is not deleted.
///
/// # Errors
///
/// The store could not be read, or the record could not be decoded.
pub fn exists(tx: &Tx, number: InstanceNumber) -> Result<bool, Error> {
    Ok(read(tx, number)?.is_some())
}

/// Changes a record and returns it; `None` if the instance is deleted.
///
/// # Errors
///
/// The store could not be read, or the record could not be decoded.
pub(super) fn modify(
    tx: &mut Tx,
    number: InstanceNumber,
    change: impl FnOnce(&mut InstanceRecord),
) -> Result<Option<InstanceRecord>, Error> {
    let Some(mut record) = read(tx, number)? else { return Ok(None) };
    change(&mut record);
    tx.put(record_key(number), store::encode(&record)?)?;
    Ok(Some(record))
}

/// The record of an instance that is not deleted.
fn read(tx: &Tx, number: InstanceNumber) -> Result<Option<InstanceRecord>, Error> {
    let Some(bytes) = tx.get(&record_key(number))? else { return Ok(None) };
    let record: InstanceRecord = store::decode(&bytes)?;
    Ok(Some(record).filter(|record| record.wanted != DesiredState::Deleted))
}

/// The stored record of an instance, also of a deleted one.
///
/// # Errors
///
/// The store could not be read, or the record could not be decoded.
pub(super) fn get(store: &Store, number: InstanceNumber) -> Result<Option<InstanceRecord>, Error> {
    store.get(&record_key(number))?.map(|bytes| store::decode(&bytes)).transpose()
}

/// Reads the records of all instances.
///
/// # Errors
///
/// The store could not be read, or a record could not be decoded.
pub(super) fn load(store: &Store) -> Result<Vec<(InstanceNumber, InstanceRecord)>, Error> {
    let all = Key::new(Space::Instance);
    let mut records = Vec::new();
    for entry in store.range(&all, &all.clone().after_prefix()) {
        let key = Key::from(entry?.0);
        let number = key.as_slice().last_chunk::<4>().and_then(|bytes| InstanceNumber::from_be_bytes(*bytes));
        let bytes = store.get(&key)?;
        if let (Some(number), Some(bytes)) = (number, bytes) {
            records.push((number, store::decode(&bytes)?));
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_domain::{LinkedDeviceSettings, ProviderConfig, ProviderKind};

    /// The configuration of a Cloud API instance as the first version stored it.
    const CLOUD_API: &[u8] =
        b"\x8a\xa2id\xa4shop\xa4name\xa4Shop\xa8provider\xa9cloud_api\xa9cloud_api\x86\xafphone_number_id\xa41001\
          \xacaccess_token\xa4EAAG\xaaapp_secret\xa1s\xacverify_token\xc0\xa8base_url\xbbhttps://graph.facebook.com/\
          \xabapi_version\xa5v25.0\xadlinked_device\xc0\xabwebhook_url\xc0\xaarate_limit\x82\xaaper_second\
          \xcb@T\x00\x00\x00\x00\x00\x00\xa5burstP\xa7workers\x04\xacsync_history\xc2\xacon_ambiguous\xc0";

    /// The configuration of a linked device as the first version stored it.
    const LINKED_DEVICE: &[u8] =
        b"\x8a\xa2id\xa5phone\xa4name\xc0\xa8provider\xadlinked_device\xa9cloud_api\xc0\xadlinked_device\x82\
          \xa5proxy\xb3socks5://proxy:1080\xb6first_contacts_per_day\x05\xabwebhook_url\xbahttps://example.com/events\
          \xaarate_limit\xc0\xa7workers\xc0\xacsync_history\xc3\xacon_ambiguous\xa6resend";

    #[test]
    fn stored_configuration_keeps_its_bytes_without_the_webhook_url() {
        for (bytes, kind, url) in [
            (CLOUD_API, ProviderKind::CloudApi, &b"\xabwebhook_url\xc0"[..]),
            (LINKED_DEVICE, ProviderKind::LinkedDevice, b"\xabwebhook_url\xbahttps://example.com/events"),
        ] {
            let config: InstanceConfig = store::decode(bytes).unwrap();
            assert_eq!(config.provider.kind(), kind);
            let at = bytes.windows(url.len()).position(|part| part == url).unwrap();
            // A map of nine fields instead of ten.
            let expected = [&[0x89], &bytes[1..at], &bytes[at + url.len()..]].concat();
            assert_eq!(store::encode(&config).unwrap(), expected);
        }
    }

    fn cloud_api() -> ProviderConfig {
        let config: InstanceConfig = store::decode(CLOUD_API).unwrap();
        config.provider
    }

    fn record(provider: ProviderConfig, wanted: DesiredState) -> InstanceRecord {
        let config = InstanceConfig {
            id: "shop".parse().unwrap(),
            name: None,
            provider,
            rate_limit: None,
            workers: None,
            on_ambiguous: None,
        };
        let at = Timestamp(0);
        InstanceRecord {
            config,
            wanted,
            created_at: at,
            updated_at: at,
            last_connected_at: None,
            account: None,
        }
    }

    #[test]
    fn only_an_instance_that_is_wanted_connected_is_meant_to_send() {
        let reason = |code| Reason::new(code, "x");
        for (wanted, expected) in [
            (DesiredState::Connected, true),
            (DesiredState::Paused(reason(ReasonCode::AuthRejected)), true),
            (DesiredState::Paused(reason(ReasonCode::Requested)), false),
            (DesiredState::LoggedOut(reason(ReasonCode::LoggedOut)), true),
            (DesiredState::LoggedOut(reason(ReasonCode::Requested)), false),
            (DesiredState::Created, false),
            (DesiredState::Disconnected, false),
            (DesiredState::LoggingOut, false),
            (DesiredState::Deleted, false),
        ] {
            assert_eq!(record(cloud_api(), wanted.clone()).is_meant_to_send(), expected, "{wanted:?}");
        }
        let unpaired =
            record(ProviderConfig::LinkedDevice(LinkedDeviceSettings::default()), DesiredState::Connected);
        assert!(!unpaired.is_meant_to_send(), "it waits for a phone");
    }
}
