//! The fixture of the tests: a supervisor of jobs on a real queue and real files, with simulated instances.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use ractor::{Actor, ActorRef};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::bulk::{
    Arguments, BulkSupervisor, Dependencies, Handle, JobDraft, JobKind, JobProgress, JobStatus, JobView, Msg,
    NewJob, OnSuppressed, Options, Plan, RowResult, RowStatus, SenderInstance, SenderSelection,
};
use crate::queue::tests::fixture::{ONE, TestQueue, provider_id};
use crate::queue::{self, Lease};
use crate::supervisor::ActorSlot;
use relevo_clock::Random;
use relevo_domain::{
    AmbiguousPolicy, Class, Content, Failure, InstanceNumber, InstanceState, Reason, ReasonCode,
    RetryDecision,
};

/// What a simulated instance does with a leased message.
pub enum SendResult {
    Sent,
    Failed,
    Ambiguous,
}

/// Decides what a simulated instance does with a lease.
pub type SendBehaviour = Arc<dyn Fn(&Lease) -> SendResult + Send + Sync>;

/// For each attempted row, the instances that attempted it, in order.
pub type Attempts = Arc<Mutex<BTreeMap<u32, Vec<InstanceNumber>>>>;

pub struct BulkFixture {
    pub queue: TestQueue,
    pub dir: tempfile::TempDir,
    pub instances: Arc<Mutex<Vec<SenderInstance>>>,
    pub suppressed: Arc<Mutex<HashSet<String>>>,
    pub attempts: Attempts,
    pub options: Options,
    pub handle: Handle,
    supervisor: ActorRef<Msg>,
}

pub fn two() -> InstanceNumber {
    ONE.next().unwrap()
}

pub fn sender_instance(name: &str, number: InstanceNumber) -> SenderInstance {
    SenderInstance {
        number,
        id: name.parse().unwrap(),
        state: InstanceState::Connected,
        reason: Reason::new(ReasonCode::Connected, "connected"),
        rate: 80.0,
        on_ambiguous: None,
        repeatable: false,
    }
}

/// A test fails if it leaves a draft, or the folder of a job that does not exist.
impl Drop for BulkFixture {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for entry in std::fs::read_dir(self.dir.path().join("jobs")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let job = name.parse::<Uuid>();
            assert!(job.is_ok_and(|id| self.handle.get(id).is_ok()), "jobs/{name} is left");
        }
    }
}

impl BulkFixture {
    pub async fn open() -> Self {
        Self::with_options(Options::default()).await
    }

    pub async fn with_options(options: Options) -> Self {
        Self::with_queue(TestQueue::open(), options).await
    }

    pub async fn with_queue(queue: TestQueue, options: Options) -> Self {
        queue.start().await;
        let dir = tempfile::tempdir().unwrap();
        let instances =
            Arc::new(Mutex::new(vec![sender_instance("one", ONE), sender_instance("two", two())]));
        let suppressed = Arc::default();
        let (handle, supervisor) =
            start_supervisor(&queue, dir.path(), &options, &instances, &suppressed).await;
        let attempts = Attempts::default();
        Self { queue, dir, instances, suppressed, attempts, options, handle, supervisor }
    }

    /// Kills the supervisor with all job actors and starts another one on the same data.
    pub async fn crash(&mut self) {
        self.supervisor.kill_and_wait(None).await.unwrap();
        // A no-op request: when it completes, the queue has processed all requests of the killed actors.
        self.queue.handle.withdraw_items(Vec::new()).await.unwrap();
        let started =
            start_supervisor(&self.queue, self.dir.path(), &self.options, &self.instances, &self.suppressed)
                .await;
        (self.handle, self.supervisor) = started;
    }

    pub fn set_state(&self, number: InstanceNumber, state: InstanceState) {
        let mut instances = self.instances.lock().unwrap();
        instances
            .iter_mut()
            .filter(|instance| instance.number == number)
            .for_each(|instance| instance.state = state);
    }

    pub fn draft(&self, phones: impl IntoIterator<Item = String>) -> JobDraft {
        let mut list = self.handle.list_draft().unwrap();
        phones.into_iter().for_each(|phone| list.push(&phone, None).unwrap());
        list.finish().unwrap()
    }

    pub async fn create(&self, job: NewJob, rows: u32) -> Uuid {
        let rows = self.draft((0..rows).map(phone));
        self.handle.create(job, rows).await.unwrap().id
    }

    /// Runs a simulated instance until the end of the test.
    pub fn run_instance(
        &self,
        number: InstanceNumber,
        behaviour: impl Fn(&Lease) -> SendResult + Send + Sync + 'static,
    ) -> JoinHandle<()> {
        let (queue, attempts) = (self.queue.handle.clone(), self.attempts.clone());
        tokio::spawn(instance_loop(queue, number, attempts, Arc::new(behaviour)))
    }

    pub fn run_both_instances(&self) {
        self.run_instance(ONE, |_| SendResult::Sent);
        self.run_instance(two(), |_| SendResult::Sent);
    }

    pub fn progress(&self, job: Uuid) -> watch::Receiver<JobProgress> {
        self.handle.watch(job).unwrap()
    }

    pub async fn wait_until(&self, job: Uuid, reached: impl Fn(&JobProgress) -> bool) -> JobProgress {
        let mut progress = self.progress(job);
        let limit = std::time::Duration::from_secs(60);
        let found = tokio::time::timeout(limit, progress.wait_for(|progress| reached(progress))).await;
        match found {
            Ok(found) => found.unwrap().clone(),
            Err(_) => panic!("progress not reached: {:?}", self.view(job)),
        }
    }

    pub async fn wait_completed(&self, job: Uuid) -> JobProgress {
        self.wait_until(job, |progress| progress.status == JobStatus::Completed).await
    }

    pub fn view(&self, job: Uuid) -> JobView {
        self.handle.get(job).unwrap()
    }

    pub async fn results(&self, job: Uuid) -> Vec<RowResult> {
        let (mut from, mut rows) = (0, Vec::new());
        loop {
            let page = self.handle.results(job, from, 300).await.unwrap();
            rows.extend(page.rows);
            match page.next {
                Some(next) => from = next,
                None => return rows,
            }
        }
    }

    pub async fn statuses(&self, job: Uuid) -> Vec<RowStatus> {
        self.results(job).await.iter().map(|row| row.status).collect()
    }

    /// Number of attempts of each attempted row.
    pub fn attempt_counts(&self) -> Vec<usize> {
        self.attempts.lock().unwrap().values().map(Vec::len).collect()
    }
}

async fn start_supervisor(
    queue: &TestQueue,
    data: &std::path::Path,
    options: &Options,
    instances: &Arc<Mutex<Vec<SenderInstance>>>,
    suppressed: &Arc<Mutex<HashSet<String>>>,
) -> (Handle, ActorRef<Msg>) {
    let (instances, suppressed) = (instances.clone(), suppressed.clone());
    let slot = ActorSlot::default();
    let (arguments, handle) = Arguments::new(
        options.clone(),
        data,
        Dependencies {
            store: queue.store.clone(),
            clock: queue.clock,
            queue: queue.handle.clone(),
            instances: Arc::new(move || instances.lock().unwrap().clone()),
            is_suppressed: Arc::new(move |to| Ok(suppressed.lock().unwrap().contains(&to.to_string()))),
            on_ambiguous: AmbiguousPolicy::Hold,
        },
        slot.clone(),
    )
    .unwrap();
    let (supervisor, _) = Actor::spawn(None, BulkSupervisor, arguments).await.unwrap();
    slot.fill(supervisor.clone());
    (handle, supervisor)
}

async fn instance_loop(
    queue: queue::Handle,
    number: InstanceNumber,
    attempts: Attempts,
    behaviour: SendBehaviour,
) {
    let mut notifications = queue.subscribe(number, Class::Bulk);
    loop {
        let leases = queue.lease(number, 50, 50).await.unwrap().leases;
        if leases.is_empty() && notifications.changed().await.is_err() {
            return;
        }
        for lease in leases {
            let row = lease.id.item().unwrap().row;
            attempts.lock().unwrap().entry(row).or_default().push(number);
            let id = provider_id(&format!("wamid.{row}"));
            match behaviour(&lease) {
                SendResult::Sent => queue.record_sent(lease, id).unwrap(),
                SendResult::Failed => {
                    let failure = Failure::permanent("undeliverable").with_code(131_026);
                    let decision = RetryDecision::Bury(relevo_domain::BuryReason::Permanent);
                    queue.apply_decision(lease, decision, failure).unwrap();
                }
                SendResult::Ambiguous => {
                    let wait = std::time::Duration::from_secs(3600);
                    queue
                        .apply_decision(lease, RetryDecision::Hold { wait }, Failure::ambiguous("timeout"))
                        .unwrap();
                }
            }
        }
    }
}

pub fn phone(row: u32) -> String {
    format!("57300{row:07}")
}

pub fn job() -> NewJob {
    NewJob {
        id: Random::system().uuid(),
        kind: JobKind::List,
        file_name: None,
        plan: Plan::Common(Content::Text { body: "hola".to_owned(), preview_url: false }),
        senders: SenderSelection::Any { limit: 5 },
        send_at: None,
        window: None,
        suppressed: OnSuppressed::Skip,
    }
}
