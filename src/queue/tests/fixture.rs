//! A queue on a real store, for tests.
//!
//! In tests that pause time, only `advance_time` moves it. The store's writer is a thread outside the runtime, and a
//! runtime that only waits for it would otherwise advance to its next timer.

use std::time::Duration;

use crate::queue::{
    Arguments, Handle, Lease, MessageView, Msg, Options, QueueActor, Submission, WorkNotifier,
};
use crate::supervisor::ActorSlot;
use relevo_clock::{Clock, Random};
use relevo_domain::{
    AmbiguousPolicy, Class, Content, InstanceNumber, MessageId, MessageOptions, MessageRef, Mode,
    OutboundMessage, Status, Timestamp,
};
use relevo_metrics::Metrics;
use relevo_store::{DataFolder, Store};

/// The instance of most tests.
pub(crate) const ONE: InstanceNumber = InstanceNumber::FIRST;

/// Limit of a hanging test in real time. After it, paused time advances to the timeout of the waiting call.
const REAL_TIMEOUT: Duration = Duration::from_secs(60);
const PAUSED_TIMEOUT: Duration = Duration::from_secs(10_000);

/// A store in a temporary folder and a handle to its queue. The actor is not started.
pub(crate) struct TestQueue {
    pub store: Store,
    pub clock: Clock,
    pub slot: ActorSlot<Msg>,
    pub handle: Handle,
    pub options: Options,
    notifier: WorkNotifier,
    _folder: DataFolder,
    _dir: tempfile::TempDir,
    /// While the receiver waits on a blocking thread, paused time does not advance automatically.
    _time_guard: std::sync::mpsc::Sender<()>,
}

impl TestQueue {
    pub fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let (store, _) = Store::open(&folder, &relevo_store::Options::default(), Metrics::default()).unwrap();
        let (guard, dropped) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || dropped.recv_timeout(REAL_TIMEOUT));
        let (slot, notifier) = (ActorSlot::default(), WorkNotifier::default());
        Self {
            clock: Clock::from_tokio(Timestamp(1_763_800_000_000)),
            handle: Handle::new(slot.clone(), store.clone(), notifier.clone()),
            options: Options::default(),
            store,
            slot,
            notifier,
            _folder: folder,
            _dir: dir,
            _time_guard: guard,
        }
    }

    pub fn arguments(&self, run: u64) -> Arguments {
        Arguments {
            store: self.store.clone(),
            clock: self.clock,
            random: Random::seeded(run),
            options: self.options.clone(),
            run,
            notifier: self.notifier.clone(),
            metrics: Metrics::default(),
        }
    }

    /// Starts the actor without a supervisor, or replaces it.
    pub async fn start(&self) {
        let (actor, _) = ractor::Actor::spawn(None, QueueActor, self.arguments(1)).await.unwrap();
        self.slot.fill(actor);
    }

    /// Kills the actor and waits until its supervisor has cleared the slot.
    pub async fn kill(&self) {
        self.kill_unsupervised().await;
        while self.slot.get().is_some() {
            tokio::task::yield_now().await;
        }
    }

    /// Kills an actor without a supervisor.
    pub async fn kill_unsupervised(&self) {
        self.slot.get().unwrap().kill_and_wait(None).await.unwrap();
    }

    pub async fn enqueue(&self, submission: Submission) -> MessageId {
        self.handle.enqueue(submission).await.unwrap().id()
    }

    /// Leases the only message that is ready.
    pub async fn lease(&self) -> Lease {
        let leases = self.handle.lease(ONE, 10, 10).await.unwrap().leases;
        assert_eq!(leases.len(), 1, "{leases:?}");
        leases.into_iter().next().unwrap()
    }

    pub async fn assert_nothing_to_lease(&self) {
        let leases = self.handle.lease(ONE, 10, 10).await.unwrap().leases;
        assert!(leases.is_empty(), "{leases:?}");
    }

    /// Waits for one lease.
    pub async fn next_lease(&self) -> Lease {
        let mut work = self.handle.subscribe(ONE, Class::Transactional);
        loop {
            if let Some(lease) = self.handle.lease(ONE, 1, 1).await.unwrap().leases.pop() {
                return lease;
            }
            tokio::time::timeout(PAUSED_TIMEOUT, work.changed())
                .await
                .expect("no message was enqueued")
                .unwrap();
        }
    }

    pub fn view(&self, id: MessageId) -> MessageView {
        self.handle.find(ONE, &MessageRef::Ours(id)).unwrap()
    }

    /// Waits until a message has this status.
    pub async fn wait_for_status(&self, id: MessageId, status: Status) -> MessageView {
        let mut work = self.handle.subscribe(ONE, Class::Transactional);
        loop {
            let view = self.view(id);
            if view.status == status {
                return view;
            }
            let notified = tokio::time::timeout(PAUSED_TIMEOUT, work.changed()).await;
            notified.unwrap_or_else(|_| panic!("never {status}: {view:?}")).unwrap();
        }
    }

    pub async fn advance_time(&self, time: Duration) {
        tokio::time::advance(time).await;
    }
}

/// An asynchronous message to a recipient.
pub(crate) fn message(recipient: usize) -> Submission {
    Submission {
        instance: ONE,
        message: OutboundMessage {
            to: format!("57300{recipient:07}").parse().unwrap(),
            content: Content::Text { body: "hola".to_owned(), preview_url: false },
            quote: None,
            options: MessageOptions::default(),
        },
        class: Class::Transactional,
        mode: Mode::Async,
        idempotency: None,
        expires_at: None,
        send_at: None,
        on_ambiguous: AmbiguousPolicy::Hold,
        repeatable: false,
        item: None,
    }
}

/// A synchronous message to a recipient.
pub(crate) fn sync_message(recipient: usize) -> Submission {
    Submission { mode: Mode::Sync, ..message(recipient) }
}

pub(crate) fn provider_id(text: &str) -> relevo_domain::ProviderMessageId {
    text.parse().unwrap()
}
