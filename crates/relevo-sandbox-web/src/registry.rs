//! The server's state under one lock: accounts, groups, and the connections of their devices.
//!
//! Stanzas are not pushed into connections. Stanzas for a device stay in its [`DeviceQueue`], and its connection is
//! woken to send those that it has not sent yet. Only answers and transient stanzas (typing, presence) use the
//! connection's bounded outbox. So a slow or broken connection blocks nothing and loses nothing.
//!
//! [`DeviceQueue`]: crate::queue::DeviceQueue

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use relevo_linked_device::client::wacore_binary::SERVER_JID;
use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;
use tokio::sync::Notify;

use crate::accounts::{AccountDirectory, AccountId, DeviceId};
use crate::groups::Group;
use crate::pairing::{CodeRequests, UnpairedDevice};
use crate::stanza::{ib_stanza, with_attr};

/// Maximum number of answers and transient stanzas in an outbox; further transient ones are dropped.
const OUTBOX_LIMIT: usize = 512;

/// Maximum number of stanzas that a connection sends at once.
const BATCH: usize = 64;

/// Id of a connection, valid until it ends. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

/// The peer of a connection.
#[derive(Debug)]
pub enum ConnectionPeer {
    /// A device that is not linked yet.
    Unpaired(Box<UnpairedDevice>),
    /// A logged-in device.
    Device(DeviceId),
    /// A refused device; the connection ends after the reason has been sent.
    Refused,
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct ClientConnection {
    pub peer: ConnectionPeer,
    /// Whether the device requested its messages (`<active/>`).
    active: bool,
    outbox: VecDeque<Arc<Node>>,
    /// The sequence number of the last stanza of the queue that was sent.
    cursor: u64,
    /// During delivery of stanzas from before this login: the sequence number of the last one, and their number.
    offline_backlog: Option<(u64, usize)>,
    /// The connection ends when the outbox is empty.
    closing: Option<CloseMode>,
    /// The connection neither reads nor answers.
    muted: bool,
    wake: Arc<Notify>,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseMode {
    /// With the close message of a WebSocket.
    Graceful,
    /// Without a close message, as when the network fails.
    Cut,
}

impl ClientConnection {
    fn close(&mut self, mode: CloseMode) {
        self.closing.get_or_insert(mode);
        self.muted = false;
        self.wake.notify_one();
    }
}

/// The next work of a connection.
#[derive(Debug, Default)]
pub struct ConnectionWork {
    pub stanzas: Vec<Arc<Node>>,
    pub muted: bool,
    pub close: Option<CloseMode>,
}

/// A stanza for a virtual phone.
pub type PhoneStanza = (AccountId, Arc<Node>);

/// The state of all accounts, groups and connections.
#[derive(Debug, Default)]
pub struct Registry {
    pub directory: AccountDirectory,
    pub groups: HashMap<Box<str>, Group>,
    pub code_requests: CodeRequests,
    connections: HashMap<ConnectionId, ClientConnection>,
    last_connection_id: u64,
    last_stanza_id: u64,
}

impl Registry {
    /// An id for a stanza of the server.
    pub fn next_id(&mut self) -> String {
        self.last_stanza_id += 1;
        format!("srv-{}", self.last_stanza_id)
    }

    /// Registers a connection. `wake` is notified when there is work.
    pub fn connect(&mut self, peer: ConnectionPeer, wake: Arc<Notify>) -> ConnectionId {
        self.last_connection_id += 1;
        let id = ConnectionId(self.last_connection_id);
        let connection = ClientConnection {
            peer,
            active: false,
            outbox: VecDeque::new(),
            cursor: 0,
            offline_backlog: None,
            closing: None,
            muted: false,
            wake,
        };
        self.connections.insert(id, connection);
        id
    }

    /// Removes a connection. Returns its device, and whether the device is now offline; if not, the device has another
    /// connection.
    pub fn disconnect(&mut self, id: ConnectionId) -> Option<(DeviceId, bool)> {
        let ConnectionPeer::Device(device) = self.connections.remove(&id)?.peer else { return None };
        let known = self.directory.device_mut(device).filter(|device| device.connection == Some(id));
        let gone = known.is_some();
        if let Some(known) = known {
            known.connection = None;
        }
        Some((device, gone))
    }

    /// A connection by its id.
    pub fn connection(&self, id: ConnectionId) -> Option<&ClientConnection> {
        self.connections.get(&id)
    }

    /// A connection by its id.
    pub fn connection_mut(&mut self, id: ConnectionId) -> Option<&mut ClientConnection> {
        self.connections.get_mut(&id)
    }

    /// All connections.
    pub fn connections(&self) -> impl Iterator<Item = (ConnectionId, &ClientConnection)> {
        self.connections.iter().map(|(id, connection)| (*id, connection))
    }

    /// Number of devices that are logged in and receive.
    pub fn online_count(&self) -> usize {
        self.connections
            .values()
            .filter(|connection| connection.active && connection.closing.is_none())
            .count()
    }

    /// Whether a device is logged in and receives.
    pub fn is_online(&self, id: DeviceId) -> bool {
        let connection = self.directory.device(id).and_then(|device| device.connection);
        connection
            .and_then(|connection| self.connections.get(&connection))
            .is_some_and(|connection| connection.active && connection.closing.is_none())
    }

    /// Puts a stanza into a connection's outbox. The stanza is lost when the connection ends.
    pub fn reply(&mut self, id: ConnectionId, stanza: Node) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.outbox.push_back(Arc::new(stanza));
            connection.wake.notify_one();
        }
    }

    /// [`Registry::reply`] to the connection of a device. Does nothing for phones and offline devices.
    pub fn reply_to(&mut self, to: DeviceId, stanza: Node) {
        if let Some(connection) = self.directory.device(to).and_then(|device| device.connection) {
            self.reply(connection, stanza);
        }
    }

    /// Ends a connection after a last stanza.
    pub fn close(&mut self, id: ConnectionId, last: Option<Node>) {
        if let Some(connection) =
            self.connections.get_mut(&id).filter(|connection| connection.closing.is_none())
        {
            connection.outbox.extend(last.map(Arc::new));
            connection.close(CloseMode::Graceful);
        }
    }

    /// Cuts a connection: the stanzas in its outbox are lost.
    pub fn cut(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.outbox.clear();
            connection.close(CloseMode::Cut);
        }
    }

    /// Cuts all connections.
    pub fn cut_all(&mut self) {
        let all: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in all {
            self.cut(id);
        }
    }

    /// Ends a connection in favour of a new one of the same device. A muted connection is cut without a last stanza.
    pub fn replace(&mut self, id: ConnectionId, last: Node) {
        match self.connections.get(&id) {
            Some(connection) if connection.muted => self.cut(id),
            _ => self.close(id, Some(last)),
        }
    }

    /// Mutes a connection or ends its muting.
    pub fn mute(&mut self, id: ConnectionId, muted: bool) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.muted = muted && connection.closing.is_none();
            connection.wake.notify_one();
        }
    }

    /// Queues a stanza for a device until the device acknowledges it; a stanza for a phone is added to
    /// `phone_stanzas`. Returns false when the device does not exist or its queue is full.
    pub fn deliver(&mut self, to: DeviceId, stanza: Arc<Node>, phone_stanzas: &mut Vec<PhoneStanza>) -> bool {
        if to.number == 0 {
            phone_stanzas.push((to.account, stanza));
            return true;
        }
        let Some(device) = self.directory.device_mut(to) else { return false };
        let queued = device.queue.push(stanza);
        self.wake(to);
        queued
    }

    /// Wakes a device's connection.
    pub fn wake(&mut self, device: DeviceId) {
        let connection = self.directory.device(device).and_then(|device| device.connection);
        if let Some(connection) = connection.and_then(|connection| self.connections.get(&connection)) {
            connection.wake.notify_one();
        }
    }

    /// Sends a transient stanza to a device if it is online.
    pub fn send_transient(&mut self, to: DeviceId, stanza: &Arc<Node>, phone_stanzas: &mut Vec<PhoneStanza>) {
        if to.number == 0 {
            phone_stanzas.push((to.account, Arc::clone(stanza)));
            return;
        }
        let connection = self.directory.device(to).and_then(|device| device.connection);
        let Some(connection) = connection.and_then(|connection| self.connections.get_mut(&connection)) else {
            return;
        };
        if connection.active && connection.outbox.len() < OUTBOX_LIMIT {
            connection.outbox.push_back(Arc::clone(stanza));
            connection.wake.notify_one();
        }
    }

    /// Marks a connection as active, after the device requested its messages. From now on its queue is sent from the
    /// beginning, between a preview and an end mark.
    pub fn activate(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let ConnectionPeer::Device(device) = connection.peer else { return };
        if std::mem::replace(&mut connection.active, true) {
            return;
        }
        let Some(device) = self.directory.device(device) else { return };
        let queue = &device.queue;
        connection.cursor = 0;
        connection.offline_backlog = Some((queue.last(), queue.len()));
        if queue.len() > 0 {
            let preview = NodeBuilder::new("offline_preview")
                .attr("count", queue.len())
                .attr("message", queue.count("message"))
                .attr("receipt", queue.count("receipt"))
                .attr("notification", queue.count("notification"))
                .attr("appdata", 0);
            connection.outbox.push_back(Arc::new(ib_stanza(preview.build())));
        }
        connection.wake.notify_one();
    }

    /// The next work of a connection. Its outbox has priority over the device's queue.
    pub fn next_work(&mut self, id: ConnectionId) -> ConnectionWork {
        let Some(connection) = self.connections.get_mut(&id) else {
            return ConnectionWork { close: Some(CloseMode::Cut), ..ConnectionWork::default() };
        };
        if connection.muted {
            return ConnectionWork { muted: true, ..ConnectionWork::default() };
        }
        let mut stanzas: Vec<Arc<Node>> =
            connection.outbox.drain(..connection.outbox.len().min(BATCH)).collect();
        if let ConnectionPeer::Device(device) = connection.peer
            && connection.active
            && connection.closing.is_none()
            && let Some(device) = self.directory.device(device)
        {
            while stanzas.len() < BATCH {
                let next = device.queue.after(connection.cursor);
                if let Some((last, count)) = connection.offline_backlog
                    && next.is_none_or(|(order, _)| order > last)
                {
                    connection.offline_backlog = None;
                    let end = NodeBuilder::new("offline").attr("count", count).build();
                    stanzas.push(Arc::new(ib_stanza(end)));
                    continue;
                }
                let Some((order, stanza)) = next else { break };
                connection.cursor = order;
                let is_offline = connection.offline_backlog.is_some();
                stanzas.push(if is_offline {
                    Arc::new(with_attr(stanza, "offline", "0"))
                } else {
                    Arc::clone(stanza)
                });
            }
        }
        if connection.outbox.is_empty() {
            connection.outbox.shrink_to(8);
        }
        ConnectionWork { close: connection.closing.filter(|_| stanzas.is_empty()), stanzas, muted: false }
    }

    /// `<notification>` of the server, with a new id.
    pub fn notification(&mut self, kind: &str, seconds: u64, child: Node) -> Arc<Node> {
        let notification = NodeBuilder::new("notification")
            .attr("from", SERVER_JID)
            .attr("type", kind)
            .attr("id", self.next_id())
            .attr("t", seconds)
            .children([child]);
        Arc::new(notification.build())
    }
}
