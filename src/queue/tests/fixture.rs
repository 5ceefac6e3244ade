//! A queue on a real store, for tests of what happens around it.
//!
//! Time stands still in tests that pause it: the writer's thread is a foreign one, and a runtime that has nothing to
//! do but wait for it would otherwise jump to its next timer. Here only `advance` moves it.

use std::time::Duration;

use crate::queue::{
    Arguments, Handle, Lease, MessageView, Msg, Options, QueueActor, Submission, WorkNotifier,
};
use crate::supervisor::ActorSlot;
use relevo_clock::Clock;
use relevo_domain::{
    AmbiguousPolicy, Class, Content, InstanceNumber, MessageId, MessageOptions, MessageRef, Mode,
    OutboundMessage, Status, Timestamp,
};
use relevo_metrics::Metrics;
use relevo_store::{DataFolder, Store};

pub(crate) const ONE: InstanceNumber = InstanceNumber::FIRST;

/// A test that hangs is let go after this long, in real time; paused time then runs to the limit of whoever waits.
const REAL_TIMEOUT: Duration = Duration::from_secs(60);
const PAUSED_TIMEOUT: Duration = Duration::from_secs(10_000);

/// A store in a folder of its own, and a queue's place on it. Nobody runs the queue yet.
pub(crate) struct TestQueue {
    pub store: Store,
    pub clock: Clock,
    pub slot: ActorSlot<Msg>,
    pub handle: Handle,
    pub options: Options,
    notifier: WorkNotifier,
    _folder: DataFolder,
    _dir: tempfile::TempDir,
    /// While its other end waits on a blocking thread, paused time does not move by itself.
    _time_guard: std::sync::mpsc::Sender<()>,
}

impl TestQueue {
    pub fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let (store, _) = Store::open(&folder, &relevo_store::Options::default(), Metrics::default()).unwrap();
        let (still, ended) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || ended.recv_timeout(REAL_TIMEOUT));
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
            _time_guard: still,
        }
    }

    pub fn arguments(&self, run: u64) -> Arguments {
        Arguments {
            store: self.store.clone(),
            clock: self.clock,
            options: self.options.clone(),
            run,
            notifier: self.notifier.clone(),
            metrics: Metrics::default(),
        }
    }

    /// Starts a queue that nobody supervises, or replaces it.
    pub async fn start(&self) {
        let (actor, _) = ractor::Actor::spawn(None, QueueActor, self.arguments(1)).await.unwrap();
        self.slot.fill(actor);
    }

    /// Kills the queue's actor and waits until its supervisor took it off its place.
    pub async fn kill(&self) {
        self.kill_unsupervised().await;
        while self.slot.get().is_some() {
            tokio::task::yield_now().await;
        }
    }

    /// Kills the queue's actor, whom nobody will replace.
    pub async fn kill_unsupervised(&self) {
        self.slot.get().unwrap().kill_and_wait(None).await.unwrap();
    }

    pub async fn enqueue(&self, submission: Submission) -> MessageId {
        self.handle.enqueue(submission).await.unwrap().id()
    }

    /// The one lease there is.
    pub async fn lease(&self) -> Lease {
        let leases = self.handle.lease(ONE, 10, 10).await.unwrap().leases;
        assert_eq!(leases.len(), 1, "{leases:?}");
        leases.into_iter().next().unwrap()
    }

    pub async fn assert_nothing_to_lease(&self) {
        let leases = self.handle.lease(ONE, 10, 10).await.unwrap().leases;
        assert!(leases.is_empty(), "{leases:?}");
    }

    /// Waits for one lease; for work that somebody else is about to bring.
    pub async fn next_lease(&self) -> Lease {
        let mut nudges = self.handle.subscribe(ONE, Class::Transactional);
        loop {
            if let Some(lease) = self.handle.lease(ONE, 1, 1).await.unwrap().leases.pop() {
                return lease;
            }
            tokio::time::timeout(PAUSED_TIMEOUT, nudges.changed()).await.expect("no work came").unwrap();
        }
    }

    pub fn view(&self, id: MessageId) -> MessageView {
        self.handle.find(ONE, &MessageRef::Ours(id)).unwrap()
    }

    /// Waits until a message stands there.
    pub async fn wait_for_status(&self, id: MessageId, status: Status) -> MessageView {
        let mut nudges = self.handle.subscribe(ONE, Class::Transactional);
        loop {
            let view = self.view(id);
            if view.status == status {
                return view;
            }
            let moved = tokio::time::timeout(PAUSED_TIMEOUT, nudges.changed()).await;
            moved.unwrap_or_else(|_| panic!("never {status}: {view:?}")).unwrap();
        }
    }

    pub async fn advance_time(&self, time: Duration) {
        tokio::time::advance(time).await;
    }
}

/// A message to a recipient, to be sent when its turn comes.
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

/// The same, with a caller who waits.
pub(crate) fn sync_message(recipient: usize) -> Submission {
    Submission { mode: Mode::Sync, ..message(recipient) }
}

pub(crate) fn provider_id(text: &str) -> relevo_domain::ProviderMessageId {
    text.parse().unwrap()
}
