//! Which devices an account has: the signed list of them, and the news of changes.

use std::sync::Arc;

use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;

use crate::accounts::{AccountId, DeviceId, Naming};
use crate::hub::{Hub, Mail};
use crate::shared::Shared;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Added,
    Removed,
}

/// `<devices>` of an account: the list, and the phone's signature under the key indexes that count.
pub fn devices(hub: &Hub, account: AccountId, seconds: u64) -> Node {
    let known = hub.directory.account(account);
    let device = |number: u16| {
        let device = NodeBuilder::new("device").attr("id", number);
        if number == 0 { device.build() } else { device.attr("key-index", number).build() }
    };
    let list = NodeBuilder::new("device-list").children(known.numbers().map(device)).build();
    NodeBuilder::new("devices").children([list, key_indexes(hub, account, seconds)]).build()
}

fn key_indexes(hub: &Hub, account: AccountId, seconds: u64) -> Node {
    let known = hub.directory.account(account);
    let valid = known.numbers().map(u32::from).collect();
    let signed = known.phone.sign_key_indexes(valid, known.last_key_index(), seconds);
    NodeBuilder::new("key-index-list").attr("ts", seconds).bytes(signed).build()
}

/// Tells the account's own devices, and those of accounts that exchanged messages with it, that a device came or
/// went.
pub fn announce(shared: &Shared, device: DeviceId, change: Change) -> Vec<Mail> {
    let seconds = shared.seconds();
    let mut mail = Vec::new();
    let mut hub = shared.hub();
    let account = device.account;
    let tag = match change {
        Change::Added => "add",
        Change::Removed => "remove",
    };
    let child = NodeBuilder::new(tag).children([
        NodeBuilder::new("device")
            .attr("jid", hub.directory.jid(device, Naming::PhoneNumber))
            .attr("lid", hub.directory.jid(device, Naming::Lid))
            .attr("key-index", device.number)
            .build(),
        key_indexes(&hub, account, seconds),
    ]);
    let notification = NodeBuilder::new("notification")
        .attr("from", hub.directory.user(account, Naming::PhoneNumber))
        .attr("lid", hub.directory.user(account, Naming::Lid))
        .attr("type", "devices")
        .attr("id", hub.next_id())
        .attr("t", seconds)
        .children([child.build()])
        .build();
    let notification = Arc::new(notification);
    let known = hub.directory.account(account);
    let concerned: Vec<DeviceId> = std::iter::once(account)
        .chain(known.peers.iter().copied())
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
