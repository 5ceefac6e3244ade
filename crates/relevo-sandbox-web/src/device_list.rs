//! Which devices an account has: the signed list of them, and the news of changes.

use std::sync::Arc;

use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;

use crate::accounts::{AccountId, AddressingMode, DeviceId};
use crate::registry::{PhoneStanza, Registry};
use crate::server_state::ServerState;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChange {
    Added,
    Removed,
}

/// `<devices>` of an account: the list, and the phone's signature under the key indexes that count.
pub fn devices_node(hub: &Registry, account: AccountId, seconds: u64) -> Node {
    let known = hub.directory.account(account);
    let device = |number: u16| {
        let device = NodeBuilder::new("device").attr("id", number);
        if number == 0 { device.build() } else { device.attr("key-index", number).build() }
    };
    let list = NodeBuilder::new("device-list").children(known.device_numbers().map(device)).build();
    NodeBuilder::new("devices").children([list, key_index_list_node(hub, account, seconds)]).build()
}

fn key_index_list_node(hub: &Registry, account: AccountId, seconds: u64) -> Node {
    let known = hub.directory.account(account);
    let valid = known.device_numbers().map(u32::from).collect();
    let signed = known.phone.sign_key_index_list(valid, known.last_key_index(), seconds);
    NodeBuilder::new("key-index-list").attr("ts", seconds).bytes(signed).build()
}

/// Tells the account's own devices, and those of accounts that exchanged messages with it, that a device came or
/// went.
pub fn notify_device_change(
    shared: &ServerState,
    device: DeviceId,
    change: DeviceChange,
) -> Vec<PhoneStanza> {
    let seconds = shared.seconds();
    let mut mail = Vec::new();
    let mut hub = shared.registry();
    let account = device.account;
    let tag = match change {
        DeviceChange::Added => "add",
        DeviceChange::Removed => "remove",
    };
    let child = NodeBuilder::new(tag).children([
        NodeBuilder::new("device")
            .attr("jid", hub.directory.device_jid(device, AddressingMode::PhoneNumber))
            .attr("lid", hub.directory.device_jid(device, AddressingMode::Lid))
            .attr("key-index", device.number)
            .build(),
        key_index_list_node(&hub, account, seconds),
    ]);
    let notification = NodeBuilder::new("notification")
        .attr("from", hub.directory.user_jid(account, AddressingMode::PhoneNumber))
        .attr("lid", hub.directory.user_jid(account, AddressingMode::Lid))
        .attr("type", "devices")
        .attr("id", hub.next_id())
        .attr("t", seconds)
        .children([child.build()])
        .build();
    let notification = Arc::new(notification);
    let known = hub.directory.account(account);
    let concerned: Vec<DeviceId> = std::iter::once(account)
        .chain(known.contacts.iter().copied())
        .flat_map(|account| {
            let devices = hub.directory.account(account).devices.keys();
            devices.map(move |number| DeviceId { account, number: *number })
        })
        .filter(|other| *other != device)
        .collect();
    for other in concerned {
        hub.deliver(other, Arc::clone(&notification), &mut mail);
    }
    mail
}
