//! The server's state under one lock: accounts, groups, and the connections to their devices.
//!
//! Stanzas are not pushed into connections. What a device must get stands in its [`Queue`], and its connection
//! is woken to pull what it has not sent yet; only answers and passing things (typing, presence) wait in the
//! connection's own short outbox. So a slow or broken connection holds nothing up and loses nothing.
//!
//! [`Queue`]: crate::queue::Queue

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

/// Answers and passing stanzas that wait in a connection; passing ones beyond it are dropped.
const OUTBOX_LIMIT: usize = 512;

/// Stanzas that a connection takes out at once.
const BATCH: usize = 64;

/// A connection, from its handshake to its end. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

/// Who is at the other end of a connection.
#[derive(Debug)]
pub enum ConnectionPeer {
    /// Nobody yet: a device that wants to be linked.
    Unpaired(Box<UnpairedDevice>),
    Device(DeviceId),
    /// Refused; what remains is to tell it why.
    Refused,
}

/// A connection with its tunnel dug.
#[derive(Debug)]
pub struct ClientConnection {
    pub peer: ConnectionPeer,
    /// Whether the device asked for its messages (`<active/>`).
    active: bool,
    outbox: VecDeque<Arc<Node>>,
    /// The order of the last stanza of the queue that was sent here.
    cursor: u64,
    /// While stanzas are sent that had waited for this login: the order of the last of them, and how many.
    offline_backlog: Option<(u64, usize)>,
    /// Ends once the outbox is empty.
    closing: Option<CloseMode>,
    /// Reads and answers nothing.
    muted: bool,
    wake: Arc<Notify>,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseMode {
    /// With the goodbye of a WebSocket.
    Graceful,
    /// Without a word, as when a network goes away.
    Cut,
}

impl ClientConnection {
    fn close(&mut self, ending: CloseMode) {
        self.closing.get_or_insert(ending);
        self.muted = false;
        self.wake.notify_one();
    }
}

/// What a connection has to do next.
#[derive(Debug, Default)]
pub struct ConnectionWork {
    pub stanzas: Vec<Arc<Node>>,
    pub muted: bool,
    pub close: Option<CloseMode>,
}

/// A stanza for a virtual phone.
pub type PhoneStanza = (AccountId, Arc<Node>);

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
    /// An id for a stanza of the server's own.
    pub fn next_id(&mut self) -> String {
        self.last_stanza_id += 1;
        format!("srv-{}", self.last_stanza_id)
    }

    pub fn connect(&mut self, peer: ConnectionPeer, wake: Arc<Notify>) -> ConnectionId {
        self.last_connection_id += 1;
        let id = ConnectionId(self.last_connection_id);
        let link = ClientConnection {
            peer,
            active: false,
            outbox: VecDeque::new(),
            cursor: 0,
            offline_backlog: None,
            closing: None,
            muted: false,
            wake,
        };
        self.connections.insert(id, link);
        id
    }

    /// Forgets a connection. Says whose it was, and whether the device is gone with it; else it has another one
    /// already.
    pub fn disconnect(&mut self, id: ConnectionId) -> Option<(DeviceId, bool)> {
        let ConnectionPeer::Device(device) = self.connections.remove(&id)?.peer else { return None };
        let known = self.directory.device_mut(device).filter(|device| device.connection == Some(id));
        let gone = known.is_some();
        if let Some(known) = known {
            known.connection = None;
        }
        Some((device, gone))
    }

    pub fn connection(&self, id: ConnectionId) -> Option<&ClientConnection> {
        self.connections.get(&id)
    }

    pub fn connection_mut(&mut self, id: ConnectionId) -> Option<&mut ClientConnection> {
        self.connections.get_mut(&id)
    }

    pub fn connections(&self) -> impl Iterator<Item = (ConnectionId, &ClientConnection)> {
        self.connections.iter().map(|(id, link)| (*id, link))
    }

    /// How many devices are logged in and receive.
    pub fn online_count(&self) -> usize {
        self.connections.values().filter(|link| link.active && link.closing.is_none()).count()
    }

    /// Whether a device is logged in and receives.
    pub fn is_online(&self, id: DeviceId) -> bool {
        let link = self.directory.device(id).and_then(|device| device.connection);
        link.and_then(|link| self.connections.get(&link))
            .is_some_and(|link| link.active && link.closing.is_none())
    }

    /// Puts a stanza into a connection's outbox, for what must arrive there or nowhere.
    pub fn reply(&mut self, id: ConnectionId, stanza: Node) {
        if let Some(link) = self.connections.get_mut(&id) {
            link.outbox.push_back(Arc::new(stanza));
            link.wake.notify_one();
        }
    }

    /// [`Hub::reply`] to a device; phones, and devices that are not there, get nothing.
    pub fn reply_to(&mut self, to: DeviceId, stanza: Node) {
        if let Some(link) = self.directory.device(to).and_then(|device| device.connection) {
            self.reply(link, stanza);
        }
    }

    /// Ends a connection, after a last stanza.
    pub fn close(&mut self, id: ConnectionId, last: Option<Node>) {
        if let Some(link) = self.connections.get_mut(&id).filter(|link| link.closing.is_none()) {
            link.outbox.extend(last.map(Arc::new));
            link.close(CloseMode::Graceful);
        }
    }

    /// Cuts a connection: what waits in its outbox is lost.
    pub fn cut(&mut self, id: ConnectionId) {
        if let Some(link) = self.connections.get_mut(&id) {
            link.outbox.clear();
            link.close(CloseMode::Cut);
        }
    }

    pub fn cut_all(&mut self) {
        let all: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in all {
            self.cut(id);
        }
    }

    /// Ends a connection in favour of a new one of the same device. One that is mute tells nothing any more.
    pub fn replace(&mut self, id: ConnectionId, last: Node) {
        match self.connections.get(&id) {
            Some(link) if link.muted => self.cut(id),
            _ => self.close(id, Some(last)),
        }
    }

    pub fn mute(&mut self, id: ConnectionId, muted: bool) {
        if let Some(link) = self.connections.get_mut(&id) {
            link.muted = muted && link.closing.is_none();
            link.wake.notify_one();
        }
    }

    /// Leaves a stanza for a device until it acknowledges it. A phone's goes into `mail`. False when the device
    /// is gone or its line is full.
    pub fn deliver(&mut self, to: DeviceId, stanza: Arc<Node>, mail: &mut Vec<PhoneStanza>) -> bool {
        if to.number == 0 {
            mail.push((to.account, stanza));
            return true;
        }
        let Some(device) = self.directory.device_mut(to) else { return false };
        let taken = device.queue.push(stanza);
        self.wake(to);
        taken
    }

    /// Wakes a device's connection.
    pub fn wake(&mut self, device: DeviceId) {
        let link = self.directory.device(device).and_then(|device| device.connection);
        if let Some(link) = link.and_then(|link| self.connections.get(&link)) {
            link.wake.notify_one();
        }
    }

    /// Shows something passing to a device that is there to see it.
    pub fn send_transient(&mut self, to: DeviceId, stanza: &Arc<Node>, mail: &mut Vec<PhoneStanza>) {
        if to.number == 0 {
            mail.push((to.account, Arc::clone(stanza)));
            return;
        }
        let link = self.directory.device(to).and_then(|device| device.connection);
        let Some(link) = link.and_then(|link| self.connections.get_mut(&link)) else { return };
        if link.active && link.outbox.len() < OUTBOX_LIMIT {
            link.outbox.push_back(Arc::clone(stanza));
            link.wake.notify_one();
        }
    }

    /// A device asked for its messages: from here on its queue is sent, from the beginning, between a preview and
    /// an end mark.
    pub fn activate(&mut self, id: ConnectionId) {
        let Some(link) = self.connections.get_mut(&id) else { return };
        let ConnectionPeer::Device(device) = link.peer else { return };
        if std::mem::replace(&mut link.active, true) {
            return;
        }
        let Some(device) = self.directory.device(device) else { return };
        let queue = &device.queue;
        link.cursor = 0;
        link.offline_backlog = Some((queue.last(), queue.len()));
        if queue.len() > 0 {
            let preview = NodeBuilder::new("offline_preview")
                .attr("count", queue.len())
                .attr("message", queue.count("message"))
                .attr("receipt", queue.count("receipt"))
                .attr("notification", queue.count("notification"))
                .attr("appdata", 0);
            link.outbox.push_back(Arc::new(ib_stanza(preview.build())));
        }
        link.wake.notify_one();
    }

    /// What a connection has to do now. Its outbox comes before the device's queue.
    pub fn next_work(&mut self, id: ConnectionId) -> ConnectionWork {
        let Some(link) = self.connections.get_mut(&id) else {
            return ConnectionWork { close: Some(CloseMode::Cut), ..ConnectionWork::default() };
        };
        if link.muted {
            return ConnectionWork { muted: true, ..ConnectionWork::default() };
        }
        let mut stanzas: Vec<Arc<Node>> = link.outbox.drain(..link.outbox.len().min(BATCH)).collect();
        if let ConnectionPeer::Device(device) = link.peer
            && link.active
            && link.closing.is_none()
            && let Some(device) = self.directory.device(device)
        {
            while stanzas.len() < BATCH {
                let next = device.queue.after(link.cursor);
                if let Some((last, count)) = link.offline_backlog
                    && next.is_none_or(|(order, _)| order > last)
                {
                    link.offline_backlog = None;
                    let end = NodeBuilder::new("offline").attr("count", count).build();
                    stanzas.push(Arc::new(ib_stanza(end)));
                    continue;
                }
                let Some((order, stanza)) = next else { break };
                link.cursor = order;
                let waited = link.offline_backlog.is_some();
                stanzas.push(if waited {
                    Arc::new(with_attr(stanza, "offline", "0"))
                } else {
                    Arc::clone(stanza)
                });
            }
        }
        if link.outbox.is_empty() {
            link.outbox.shrink_to(8);
        }
        ConnectionWork { close: link.closing.filter(|_| stanzas.is_empty()), stanzas, muted: false }
    }

    /// `<notification>` from the server itself, with an id of its own.
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
