//! A supervisor with jobs on a real queue and real files. The instances are played by the test.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use ractor::{Actor, ActorRef};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::bulk::{
    Arguments, Around, BulkSupervisor, Device, Draft, Handle, JobView, Kind, Msg, NewJob, OnSuppressed,
    Options, Plan, Progress, RowResult, Senders, Status,
};
use crate::queue::tests::bench::{Bench, ONE, provider_id};
use crate::queue::{self, Lease};
use crate::supervision::Slot;
use relevo_domain::{AmbiguousPolicy, Class, Content, Failure, InstanceNumber, InstanceState, Verdict};

/// What an instance does with a message that it was given.
pub enum Fate {
    Sent,
    Failed,
    Unknown,
}

pub type Play = Arc<dyn Fn(&Lease) -> Fate + Send + Sync>;

/// Who sent what: for each row that was attempted, by which instances, in order.
pub type Attempts = Arc<Mutex<BTreeMap<u32, Vec<InstanceNumber>>>>;

pub struct World {
    pub bench: Bench,
    pub dir: tempfile::TempDir,
    pub devices: Arc<Mutex<Vec<Device>>>,
    pub suppressed: Arc<Mutex<HashSet<String>>>,
    pub attempts: Attempts,
    pub options: Options,
    pub handle: Handle,
    supervisor: ActorRef<Msg>,
}

pub fn two() -> InstanceNumber {
    ONE.next().unwrap()
}

pub fn device(name: &str, number: InstanceNumber) -> Device {
    Device {
        number,
        id: name.parse().unwrap(),
        state: InstanceState::Connected,
        rate: 80.0,
        on_ambiguous: None,
        repeatable: false,
    }
}

impl World {
    pub async fn open() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        let bench = Bench::open();
        bench.start().await;
        let dir = tempfile::tempdir().unwrap();
        let devices = Arc::new(Mutex::new(vec![device("one", ONE), device("two", two())]));
        let suppressed = Arc::default();
        let (handle, supervisor) = run(&bench, dir.path(), &options, &devices, &suppressed).await;
        let attempts = Attempts::default();
        Self { bench, dir, devices, suppressed, attempts, options, handle, supervisor }
    }

    /// Kills the supervisor with all jobs in the middle of whatever they do, and starts another on what is there.
    pub async fn crash(&mut self) {
        self.supervisor.kill_and_wait(None).await.unwrap();
        // What was on its way to the queue arrives before its dead sender's successor looks.
        self.bench.handle.withdraw_items(Vec::new()).await.unwrap();
        let started = run(&self.bench, self.dir.path(), &self.options, &self.devices, &self.suppressed).await;
        (self.handle, self.supervisor) = started;
    }

    pub fn set(&self, number: InstanceNumber, state: InstanceState) {
        let mut devices = self.devices.lock().unwrap();
        devices.iter_mut().filter(|device| device.number == number).for_each(|device| device.state = state);
    }

    pub fn rows(&self, phones: impl IntoIterator<Item = String>) -> Draft {
        let mut list = self.handle.list_draft().unwrap();
        phones.into_iter().for_each(|phone| list.push(&phone, None).unwrap());
        list.finish().unwrap()
    }

    pub async fn create(&self, job: NewJob, rows: u32) -> Uuid {
        let rows = self.rows((0..rows).map(phone));
        self.handle.create(job, rows).await.unwrap().id
    }

    /// An instance that plays its part until the end of the test.
    pub fn play(
        &self,
        number: InstanceNumber,
        play: impl Fn(&Lease) -> Fate + Send + Sync + 'static,
    ) -> JoinHandle<()> {
        let (queue, attempts) = (self.bench.handle.clone(), self.attempts.clone());
        tokio::spawn(instance(queue, number, attempts, Arc::new(play)))
    }

    pub fn play_both(&self) {
        self.play(ONE, |_| Fate::Sent);
        self.play(two(), |_| Fate::Sent);
    }

    pub fn progress(&self, job: Uuid) -> watch::Receiver<Progress> {
        self.handle.watch(job).unwrap()
    }

    pub async fn until(&self, job: Uuid, reached: impl Fn(&Progress) -> bool) -> Progress {
        let mut progress = self.progress(job);
        let limit = std::time::Duration::from_secs(60);
        let found = tokio::time::timeout(limit, progress.wait_for(|progress| reached(progress))).await;
        match found {
            Ok(found) => found.unwrap().clone(),
            Err(_) => panic!("never: {:?}", self.view(job)),
        }
    }

    pub async fn until_completed(&self, job: Uuid) -> Progress {
        self.until(job, |progress| progress.status == Status::Completed).await
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

    /// How often each row was attempted.
    pub fn times(&self) -> Vec<usize> {
        self.attempts.lock().unwrap().values().map(Vec::len).collect()
    }
}

async fn run(
    bench: &Bench,
    data: &std::path::Path,
    options: &Options,
    devices: &Arc<Mutex<Vec<Device>>>,
    suppressed: &Arc<Mutex<HashSet<String>>>,
) -> (Handle, ActorRef<Msg>) {
    let (devices, suppressed) = (devices.clone(), suppressed.clone());
    let slot = Slot::default();
    let (arguments, handle) = Arguments::new(
        options.clone(),
        data,
        Around {
            store: bench.store.clone(),
            clock: bench.clock,
            queue: bench.handle.clone(),
            devices: Arc::new(move || devices.lock().unwrap().clone()),
            suppressed: Arc::new(move |who| Ok(suppressed.lock().unwrap().contains(&who.to_string()))),
            on_ambiguous: AmbiguousPolicy::Hold,
        },
        slot.clone(),
    )
    .unwrap();
    let (supervisor, _) = Actor::spawn(None, BulkSupervisor, arguments).await.unwrap();
    slot.fill(supervisor.clone());
    (handle, supervisor)
}

async fn instance(queue: queue::Handle, number: InstanceNumber, attempts: Attempts, play: Play) {
    let mut nudges = queue.subscribe(number, Class::Bulk);
    loop {
        let leases = queue.lease(number, 50, 50).await.unwrap().leases;
        if leases.is_empty() && nudges.changed().await.is_err() {
            return;
        }
        for lease in leases {
            let row = lease.id.item().unwrap().row;
            attempts.lock().unwrap().entry(row).or_default().push(number);
            let id = provider_id(&format!("wamid.{row}"));
            match play(&lease) {
                Fate::Sent => queue.sent(lease, id).unwrap(),
                Fate::Failed => {
                    let failure = Failure::permanent("undeliverable").with_code(131_026);
                    let verdict = Verdict::Bury(relevo_domain::BuryReason::Permanent);
                    queue.judged(lease, verdict, failure).unwrap();
                }
                Fate::Unknown => {
                    let wait = std::time::Duration::from_secs(3600);
                    queue.judged(lease, Verdict::Hold { wait }, Failure::ambiguous("timeout")).unwrap();
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
        id: Uuid::new_v4(),
        kind: Kind::List,
        file_name: None,
        plan: Plan::Common(Content::Text { body: "hola".to_owned(), preview_url: false }),
        senders: Senders::Any { limit: 5 },
        send_at: None,
        window: None,
        suppressed: OnSuppressed::Skip,
    }
}
