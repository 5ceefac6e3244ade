//! The devices of an account: the signed list, and notifications of changes.

use std::sync::Arc;

use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;

use crate::accounts::{AccountId, AddressingMode, DeviceId};
use crate::registry::{PhoneStanza, Registry};
use crate::server_state::ServerState;

/// A change of an account's device list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChange {
    Added,
    Removed,
}

/// `<devices>` of an account: the list, and the phone's signature of the valid key indexes.
pub fn devices_node(registry: &Registry, account: AccountId, seconds: u64) -> Node {
    let known = registry.directory.account(account);
    let device = |number: u16| {
        let device = NodeBuilder::new("device").attr("id", number);
        if number == 0 { device.build() } else { device.attr("key-index", number).build() }
    };
    let list = NodeBuilder::new("device-list").children(known.device_numbers().map(device)).build();
    NodeBuilder::new("devices").children([list, key_index_list_node(registry, account, seconds)]).build()
}

fn key_index_list_node(registry: &Registry, account: AccountId, seconds: u64) -> Node {
    let known = registry.directory.account(account);
    let valid = known.device_numbers().map(u32::from).collect();
    let signed = known.phone.sign_key_index_list(valid, known.last_key_index(), seconds);
    NodeBuilder::new("key-index-list").attr("ts", seconds).bytes(signed).build()
}

/// Notifies the account's own devices, and those of accounts that exchanged messages with it, of an added or removed
/// device.
pub fn notify_device_change(
    shared: &ServerState,
    device: DeviceId,
    change: DeviceChange,
) -> Vec<PhoneStanza> {
    let seconds = shared.seconds();
    let mut phone_stanzas = Vec::new();
    let mut registry = shared.registry();
    let account = device.account;
    let tag = match change {
        DeviceChange::Added => "add",
        DeviceChange::Removed => "remove",
    };
    let child = NodeBuilder::new(tag).children([
        NodeBuilder::new("device")
            .attr("jid", registry.directory.device_jid(device, AddressingMode::PhoneNumber))
            .attr("lid", registry.directory.device_jid(device, AddressingMode::Lid))
            .attr("key-index", device.number)
            .build(),
        key_index_list_node(&registry, account, seconds),
    ]);
    let notification = NodeBuilder::new("notification")
        .attr("from", registry.directory.user_jid(account, AddressingMode::PhoneNumber))
        .attr("lid", registry.directory.user_jid(account, AddressingMode::Lid))
        .attr("type", "devices")
        .attr("id", registry.next_id())
        .attr("t", seconds)
        .children([child.build()])
        .build();
    let notification = Arc::new(notification);
    let known = registry.directory.account(account);
    let recipients: Vec<DeviceId> = std::iter::once(account)
        .chain(known.contacts.iter().copied())
        .flat_map(|account| {
            let devices = registry.directory.account(account).devices.keys();
            devices.map(move |number| DeviceId { account, number: *number })
        })
        .filter(|other| *other != device)
        .collect();
    for other in recipients {
        registry.deliver(other, Arc::clone(&notification), &mut phone_stanzas);
    }
    phone_stanzas
}
