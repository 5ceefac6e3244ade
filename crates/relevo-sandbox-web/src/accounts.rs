//! Accounts and their devices: phone numbers, LIDs and keys.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use relevo_linked_device::client::wacore_binary::{Jid, Server};

use crate::app_state::AppStatePatches;
use crate::keys::DeviceKeys;
use crate::phone::Phone;
use crate::queue::DeviceQueue;
use crate::registry::ConnectionId;

/// Index of an account in the directory. Accounts are never removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(usize);

/// A device of an account. Number 0 is the virtual phone; the others are linked devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId {
    pub account: AccountId,
    pub number: u16,
}

/// Which of an account's two names an address contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressingMode {
    PhoneNumber,
    Lid,
}

impl AddressingMode {
    /// The addressing mode of a user's address; `None` for other addresses.
    pub fn from_jid(jid: &Jid) -> Option<Self> {
        match jid.server {
            Server::Pn => Some(Self::PhoneNumber),
            Server::Lid => Some(Self::Lid),
            _ => None,
        }
    }

    /// The opposite mode.
    pub fn other(self) -> Self {
        match self {
            Self::PhoneNumber => Self::Lid,
            Self::Lid => Self::PhoneNumber,
        }
    }
}

/// A linked device.
#[derive(Debug)]
pub struct CompanionDevice {
    pub keys: DeviceKeys,
    /// The signed `ADVSignedDeviceIdentity`, which proves that the phone linked the device.
    pub identity: Vec<u8>,
    /// Unacknowledged stanzas.
    pub queue: DeviceQueue,
    /// The connection of the logged-in device.
    pub connection: Option<ConnectionId>,
}

/// An account.
#[derive(Debug)]
pub struct WebAccount {
    pub phone_number: Box<str>,
    pub lid: Box<str>,
    /// The push name that other users see. The last device that sent one determines it.
    pub name: String,
    pub devices: BTreeMap<u16, CompanionDevice>,
    next_device_number: u16,
    pub phone: Arc<Phone>,
    /// Accounts that exchanged messages with this one and are notified of its devices.
    pub contacts: HashSet<AccountId>,
    /// Accounts that subscribed to its presence.
    pub presence_subscribers: HashSet<AccountId>,
    pub online: bool,
    /// Settings that its devices synchronise.
    pub app_state: AppStatePatches,
}

impl WebAccount {
    /// The address of a device.
    pub fn jid(&self, addressing: AddressingMode, device: u16) -> Jid {
        match addressing {
            AddressingMode::PhoneNumber => Jid::pn_device(&*self.phone_number, device),
            AddressingMode::Lid => Jid::lid_device(&*self.lid, device),
        }
    }

    /// The numbers of all devices, the phone's first.
    pub fn device_numbers(&self) -> impl Iterator<Item = u16> {
        std::iter::once(0).chain(self.devices.keys().copied())
    }

    /// A number that no device of this account has had; `None` when all have been used.
    pub fn allocate_device_number(&mut self) -> Option<u16> {
        let number = self.next_device_number;
        self.next_device_number = number.checked_add(1)?;
        Some(number)
    }

    /// The largest assigned key index. A device's index is its number.
    pub fn last_key_index(&self) -> u32 {
        u32::from(self.next_device_number) - 1
    }
}

/// Whether this is a phone number as in addresses: one to fifteen digits. Source: ITU-T E.164.
pub fn is_phone_number(text: &str) -> bool {
    (1..=15).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// All accounts.
#[derive(Debug, Default)]
pub struct AccountDirectory {
    accounts: Vec<WebAccount>,
    by_phone_number: HashMap<Box<str>, AccountId>,
    by_lid: HashMap<Box<str>, AccountId>,
}

impl AccountDirectory {
    /// The account with this phone number, digits only.
    pub fn find(&self, phone_number: &str) -> Option<AccountId> {
        self.by_phone_number.get(phone_number).copied()
    }

    /// Creates an account. `phone` creates its phone from the account's id and its LID.
    pub fn create_account(
        &mut self,
        phone_number: &str,
        phone: impl FnOnce(AccountId, &str) -> Arc<Phone>,
    ) -> AccountId {
        let id = AccountId(self.accounts.len());
        let lid: Box<str> = format!("{}", 200_000_000_000_001_usize + id.0).into();
        let phone = phone(id, &lid);
        self.by_phone_number.insert(phone_number.into(), id);
        self.by_lid.insert(lid.clone(), id);
        self.accounts.push(WebAccount {
            phone_number: phone_number.into(),
            lid,
            name: format!("+{phone_number}"),
            devices: BTreeMap::new(),
            next_device_number: 1,
            phone,
            contacts: HashSet::new(),
            presence_subscribers: HashSet::new(),
            online: false,
            app_state: AppStatePatches::new(),
        });
        id
    }

    /// The account of an address, regardless of the device.
    pub fn account_of(&self, jid: &Jid) -> Option<AccountId> {
        let names = match AddressingMode::from_jid(jid)? {
            AddressingMode::PhoneNumber => &self.by_phone_number,
            AddressingMode::Lid => &self.by_lid,
        };
        names.get(jid.user.as_str()).copied()
    }

    /// The device with this address. It may have been removed.
    pub fn device_of(&self, jid: &Jid) -> Option<DeviceId> {
        Some(DeviceId { account: self.account_of(jid)?, number: jid.device })
    }

    /// The account with this id, which always exists: only [`AccountDirectory::create_account`] creates ids.
    #[expect(clippy::indexing_slicing, reason = "an id is a valid index")]
    pub fn account(&self, id: AccountId) -> &WebAccount {
        &self.accounts[id.0]
    }

    /// The account with this id.
    #[expect(clippy::indexing_slicing, reason = "an id is a valid index")]
    pub fn account_mut(&mut self, id: AccountId) -> &mut WebAccount {
        &mut self.accounts[id.0]
    }

    /// The linked device; `None` for phones and removed devices.
    pub fn device(&self, id: DeviceId) -> Option<&CompanionDevice> {
        self.account(id.account).devices.get(&id.number)
    }

    /// The linked device; `None` for phones and removed devices.
    pub fn device_mut(&mut self, id: DeviceId) -> Option<&mut CompanionDevice> {
        self.account_mut(id.account).devices.get_mut(&id.number)
    }

    /// Whether this device exists. A phone always exists.
    pub fn has_device(&self, id: DeviceId) -> bool {
        id.number == 0 || self.device(id).is_some()
    }

    /// The address of a device.
    pub fn device_jid(&self, id: DeviceId, addressing: AddressingMode) -> Jid {
        self.account(id.account).jid(addressing, id.number)
    }

    /// The address of an account, without a device.
    pub fn user_jid(&self, id: AccountId, addressing: AddressingMode) -> Jid {
        self.account(id).jid(addressing, 0)
    }
}
