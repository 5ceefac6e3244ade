//! The handle of a running server: phones, groups, faults, and conditions to wait for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use relevo_linked_device::client::wacore_binary::Jid;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::DropGuard;
use url::Url;

use crate::accounts::{AccountId, DeviceId};
use crate::faults::FaultRule;
use crate::groups::{self, Group, Role};
use crate::journal::JournaledMessage;
use crate::login::{conflict_error, stream_error};
use crate::phone::Phone;
use crate::registry::ConnectionId;
use crate::server_state::ServerState;
use crate::stats::ConnectionRecord;
use crate::{Error, Options, Result, group_members, server};
use relevo_clock::{Clock, Random};

/// How [`WebHandle::disconnect`] ends a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disconnection {
    /// Without a close message.
    #[default]
    Cut,
    /// As if another client logged in as the same device.
    Replaced,
    /// With `<stream:error>` of this code: 515 to reconnect, 503, 401 logged out, …
    Error(u16),
}

/// The server. See [`WebServer::start`].
#[derive(Debug)]
pub struct WebServer;

impl WebServer {
    /// Serves on a loopback listener until the last handle is dropped.
    ///
    /// # Errors
    /// The listener's address is not a loopback address, or the options are invalid.
    pub fn start(listener: TcpListener, clock: Clock, random: Random, options: Options) -> Result<WebHandle> {
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            return Err(Error::NotLoopback(address));
        }
        if options.max_connections == 0 {
            return Err(Error::ZeroConnections);
        }
        let shared = Arc::new(ServerState::new(&options, clock, random, address));
        let stops = Arc::new(shared.closing.clone().drop_guard());
        tokio::spawn(server::run(listener, Arc::clone(&shared)));
        Ok(WebHandle { shared, _stops: stops })
    }
}

/// The handle of a server. Cheap to clone; the server stops when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct WebHandle {
    shared: Arc<ServerState>,
    _stops: Arc<DropGuard>,
}

impl WebHandle {
    /// The URL for clients: `ws://127.0.0.1:port/ws/chat`.
    ///
    /// # Panics
    /// Never: every socket address forms a valid URL.
    #[expect(clippy::expect_used, reason = "a socket address is a valid host and port")]
    pub fn url(&self) -> Url {
        Url::parse(&format!("ws://{}/ws/chat", self.shared.address)).expect("a URL")
    }

    /// The phone of this number, digits only. The account is created if it does not exist.
    pub fn phone(&self, phone_number: &str) -> Arc<Phone> {
        self.shared.phone(self.shared.account(phone_number))
    }

    /// Creates a group, whose members are addressed by their LIDs.
    pub fn create_group(&self, subject: &str, owner: &Phone, members: &[&Phone]) -> Jid {
        Self::create_group_in(&self.shared, subject, owner, members)
    }

    pub(super) fn create_group_in(
        shared: &ServerState,
        subject: &str,
        owner: &Phone,
        members: &[&Phone],
    ) -> Jid {
        let members: Vec<AccountId> = members.iter().map(|member| member.account()).collect();
        let group = Group::new(subject, owner.account(), &members, shared.seconds());
        groups::insert_group(&mut shared.registry(), group)
    }

    /// Adds a member to a group or changes its role, and notifies the members. Returns false when there is no such
    /// group.
    pub fn add_group_member(&self, group: &Jid, member: &Phone, role: Role) -> bool {
        group_members::add_member(&self.shared, group, member.account(), role)
    }

    /// Removes a member from a group and notifies the members. Returns false when the account is not a member.
    pub fn remove_group_member(&self, group: &Jid, member: &Phone) -> bool {
        group_members::remove_member(&self.shared, group, member.account())
    }

    /// Arms a fault; `None` when there are too many.
    pub fn arm(&self, rule: FaultRule) -> Option<u64> {
        self.shared.faults.arm(rule)
    }

    /// Disarms the rule with this id, or all rules. Returns the number of disarmed rules.
    pub fn disarm(&self, id: Option<u64>) -> usize {
        self.shared.faults.disarm(id)
    }

    /// How often the rule with this id was applied.
    pub fn trigger_count(&self, id: u64) -> u32 {
        self.shared.faults.trigger_count(id)
    }

    /// Ends the connections of one device of an account, or of all. Returns the number of connections.
    pub fn disconnect(&self, phone: &Phone, device: Option<u16>, how: Disconnection) -> usize {
        self.shared.disconnect(phone.account(), device, how)
    }

    /// Mutes connections, which then neither read nor answer, or ends the muting; their sockets stay open. Returns the
    /// number of connections.
    pub fn mute(&self, phone: &Phone, device: Option<u16>, muted: bool) -> usize {
        self.shared.mute(phone.account(), device, muted)
    }

    /// Simulates a restart: closes all sockets, keeps the state, and refuses new sockets for `rest`.
    pub fn restart(&self, rest: Duration) {
        self.shared.restart(rest);
    }

    /// Generates a new Noise key: clients with the old one must fall back to a full handshake.
    pub fn rotate_noise_key(&self) {
        self.shared.rotate_identity();
    }

    /// The accepted messages, oldest first.
    pub fn journal(&self) -> Vec<JournaledMessage> {
        self.shared.journal.all()
    }

    /// The newest message with this id.
    pub fn journal_entry(&self, id: &str) -> Option<JournaledMessage> {
        self.shared.journal.find(id)
    }

    /// The recorded changes of connections, oldest first.
    pub fn connection_records(&self) -> Vec<ConnectionRecord> {
        self.shared.stats.connection_records()
    }

    /// Number of successful logins.
    pub fn logins(&self) -> u64 {
        self.shared.stats.logins()
    }

    /// Number of queries by `type namespace child`.
    pub fn queries(&self) -> BTreeMap<String, u64> {
        self.shared.stats.queries()
    }

    /// Number of devices that are logged in and receive.
    pub fn online_count(&self) -> usize {
        self.shared.registry().online_count()
    }

    /// Whether a device of an account is logged in and receives.
    pub fn is_online(&self, phone: &Phone, device: u16) -> bool {
        self.shared.registry().is_online(DeviceId { account: phone.account(), number: device })
    }

    /// Number of stanzas that a device has not acknowledged.
    pub fn queue_len(&self, phone: &Phone, device: u16) -> usize {
        let registry = self.shared.registry();
        let device = registry.directory.device(DeviceId { account: phone.account(), number: device });
        device.map_or(0, |device| device.queue.len())
    }

    /// The encrypted file under a direct path.
    pub fn media(&self, direct_path: &str) -> Option<Bytes> {
        self.shared.media.get(direct_path)
    }

    /// Waits until a condition on this handle holds. Checks it after every change.
    pub async fn wait_until(&self, mut condition: impl FnMut(&Self) -> bool) {
        loop {
            // Subscribes before it checks, so that no change is missed in between.
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if condition(self) {
                return;
            }
            changed.await;
        }
    }
}

impl ServerState {
    fn connections_of(&self, account: AccountId, device: Option<u16>) -> Vec<ConnectionId> {
        let registry = self.registry();
        let devices = registry.directory.account(account).devices.iter();
        let selected = devices.filter(|(number, _)| device.is_none_or(|device| device == **number));
        selected.filter_map(|(_, device)| device.connection).collect()
    }

    pub(super) fn disconnect(&self, account: AccountId, device: Option<u16>, how: Disconnection) -> usize {
        let connections = self.connections_of(account, device);
        let mut registry = self.registry();
        for connection in &connections {
            match how {
                Disconnection::Cut => registry.cut(*connection),
                Disconnection::Replaced => registry.close(*connection, Some(conflict_error("replaced"))),
                Disconnection::Error(code) => registry.close(*connection, Some(stream_error(code))),
            }
        }
        connections.len()
    }

    pub(super) fn mute(&self, account: AccountId, device: Option<u16>, muted: bool) -> usize {
        let connections = self.connections_of(account, device);
        let mut registry = self.registry();
        for connection in &connections {
            registry.mute(*connection, muted);
        }
        connections.len()
    }

    pub(super) fn restart(&self, rest: Duration) {
        self.set_unavailable_for(rest);
        self.registry().cut_all();
    }
}
