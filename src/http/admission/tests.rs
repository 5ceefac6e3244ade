//! A seeded model of the admission: random connections against the guarantees of the module.

use proptest::prelude::*;

use super::*;

const PLACES: usize = 6;
const RESERVE: usize = 2;
const PER_PEER: usize = 3;

const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

fn limits() -> Limits {
    Limits {
        places: PLACES,
        reserve: RESERVE,
        per_peer: NonZeroUsize::new(PER_PEER),
        head_timeout: HEAD_TIMEOUT,
        idle_timeout: IDLE_TIMEOUT,
        write_timeout: WRITE_TIMEOUT,
    }
}

fn peer(number: u8) -> PeerNetwork {
    IpAddr::from([192, 0, 2, number]).into()
}

#[derive(Debug, Clone)]
enum AdmissionStep {
    /// A connection of a peer; 0 has no limit.
    Open(u8),
    Receive(usize),
    Begin(usize),
    Prove(usize),
    End(usize),
    Block(usize),
    Write(usize),
    Close(usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<AdmissionStep>> {
    let any = any::<usize>;
    let step = prop_oneof![
        6 => (0..5_u8).prop_map(AdmissionStep::Open),
        2 => any().prop_map(AdmissionStep::Receive),
        4 => any().prop_map(AdmissionStep::Begin),
        4 => any().prop_map(AdmissionStep::Prove),
        2 => any().prop_map(AdmissionStep::End),
        1 => any().prop_map(AdmissionStep::Block),
        1 => any().prop_map(AdmissionStep::Write),
        2 => any().prop_map(AdmissionStep::Close),
        4 => (0..9000_u64).prop_map(AdmissionStep::Wait),
    ];
    prop::collection::vec(step, 0..300)
}

/// A connection as the model knows it.
#[derive(Debug, Clone)]
struct ModelConnection {
    id: ConnectionId,
    peer: Option<PeerNetwork>,
    phase: Phase,
    since: Instant,
    blocked: Option<Instant>,
}

impl ModelConnection {
    fn may_be_replaced(&self, now: Instant) -> bool {
        self.phase != Phase::Proven && now >= self.since + GRACE
    }
}

struct AdmissionModel {
    admission: Admission,
    open: Vec<ModelConnection>,
    now: Instant,
}

impl AdmissionModel {
    fn run(steps: Vec<AdmissionStep>) {
        let mut model = Self { admission: Admission::new(limits()), open: Vec::new(), now: Instant::now() };
        for step in steps {
            match step {
                AdmissionStep::Open(number) => {
                    model.open(Some(number).filter(|number| *number > 0).map(peer))
                }
                AdmissionStep::Wait(millis) => model.wait(millis),
                _ if model.open.is_empty() => {}
                AdmissionStep::Receive(index) => model.receive(index),
                AdmissionStep::Begin(index) => model.begin(index),
                AdmissionStep::Prove(index) => model.prove(index),
                AdmissionStep::End(index) => model.end(index),
                AdmissionStep::Block(index) => model.block(index),
                AdmissionStep::Write(index) => model.write(index),
                AdmissionStep::Close(index) => {
                    let index = index % model.open.len();
                    let id = model.open.remove(index).id;
                    model.admission.close(id);
                }
            }
            model.check();
        }
    }

    fn at(&mut self, index: usize) -> &mut ModelConnection {
        let index = index % self.open.len();
        &mut self.open[index]
    }

    fn open(&mut self, peer: Option<PeerNetwork>) {
        let now = self.now;
        let of_peer = self.open.iter().filter(|known| peer.is_some() && known.peer == peer).count();
        let waiting = |known: &&ModelConnection| known.may_be_replaced(now);
        let is_full = self.open.len() >= PLACES + RESERVE;
        match self.admission.open(peer, now) {
            Opening::Serve { id, closes } => {
                if let Some(victim) = closes {
                    let victim = self.open.iter().find(|known| known.id == victim).unwrap().clone();
                    assert!(victim.may_be_replaced(now), "{victim:?} was closed for another one");
                    let own = of_peer >= PER_PEER;
                    assert!(!own || victim.peer == peer, "a peer at its limit replaced {victim:?}");
                    let longer =
                        self.open.iter().filter(waiting).filter(|known| known.since < victim.since).count();
                    // Of another place, or of another peer.
                    assert!(own || longer <= RESERVE, "{longer} connections have waited longer");
                    self.open.retain(|known| known.id != victim.id);
                }
                self.open.push(ModelConnection { id, peer, phase: Phase::Head, since: now, blocked: None });
            }
            Opening::Wait { until } => {
                assert!(is_full && of_peer < PER_PEER);
                assert_eq!(self.open.iter().filter(waiting).count(), 0, "one of them could be closed");
                let unproven = self.open.iter().filter(|known| known.phase != Phase::Proven);
                assert_eq!(until, unproven.map(|known| known.since + GRACE).min());
            }
            Opening::Refuse => {
                assert!(of_peer >= PER_PEER);
                let own = self.open.iter().filter(|known| known.peer == peer);
                assert_eq!(own.filter(waiting).count(), 0, "one of its own could be closed");
            }
        }
    }

    fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        let now = self.now;
        let over = |since: Instant, limit| now.duration_since(since) >= limit;
        let mut expected: Vec<_> = self
            .open
            .iter()
            .filter(|known| {
                known.blocked.is_some_and(|since| over(since, WRITE_TIMEOUT))
                    || (known.phase == Phase::Head && over(known.since, HEAD_TIMEOUT))
                    || (known.phase == Phase::Idle && over(known.since, IDLE_TIMEOUT))
            })
            .map(|known| known.id)
            .collect();
        let mut expired: Vec<_> = self.admission.remove_expired(now).into_iter().map(|(id, _)| id).collect();
        expected.sort();
        expired.sort();
        assert_eq!(expired, expected);
        self.open.retain(|known| !expired.contains(&known.id));
    }

    fn receive(&mut self, index: usize) {
        let now = self.now;
        let known = self.at(index);
        if known.phase == Phase::Idle {
            (known.phase, known.since) = (Phase::Head, now);
        }
        let id = known.id;
        self.admission.bytes_received(id, now);
    }

    fn begin(&mut self, index: usize) {
        let now = self.now;
        let known = self.at(index);
        (known.phase, known.since) = (Phase::Request, now);
        let id = known.id;
        if let RequestAdmission::Any { closes: Some(victim) } = self.admission.request_began(id, now) {
            let victim = self.open.iter().find(|known| known.id == victim).unwrap();
            assert!(victim.id != id && victim.may_be_replaced(now), "{victim:?}");
            let victim = victim.id;
            self.open.retain(|known| known.id != victim);
        }
    }

    fn prove(&mut self, index: usize) {
        if self.at(index).phase == Phase::Request {
            self.at(index).phase = Phase::Proven;
            let id = self.at(index).id;
            self.admission.request_proven(id);
        }
    }

    fn end(&mut self, index: usize) {
        let now = self.now;
        let known = self.at(index);
        (known.phase, known.since) = (Phase::Idle, now);
        let id = known.id;
        self.admission.request_ended(id, now);
    }

    fn block(&mut self, index: usize) {
        let now = self.now;
        let known = self.at(index);
        known.blocked.get_or_insert(now);
        let id = known.id;
        self.admission.write_blocked(id, now);
    }

    fn write(&mut self, index: usize) {
        let now = self.now;
        let known = self.at(index);
        known.blocked = None;
        if known.phase == Phase::Idle {
            known.since = now;
        }
        let id = known.id;
        self.admission.bytes_written(id, now);
    }

    fn check(&self) {
        let admission = &self.admission;
        assert_eq!(admission.connections.len(), self.open.len());
        let regular =
            admission.connections.values().filter(|entry| entry.place == PlaceKind::Regular).count();
        assert_eq!(admission.regular, regular);
        assert!(regular <= PLACES && self.open.len() - regular <= RESERVE, "{admission:?}");
        for number in 1..5 {
            let count = self.open.iter().filter(|known| known.peer == Some(peer(number))).count();
            assert_eq!(admission.peers.get(&peer(number)).copied().unwrap_or(0), count);
            assert!(count <= PER_PEER);
        }
    }
}

proptest! {
    #[test]
    fn admission_keeps_its_guarantees(steps in steps()) {
        AdmissionModel::run(steps);
    }
}

fn serve(admission: &mut Admission, peer: Option<PeerNetwork>, now: Instant) -> ConnectionId {
    match admission.open(peer, now) {
        Opening::Serve { id, .. } => id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn reserve_serves_probes_until_a_place_is_free() {
    let (mut admission, now) = (Admission::new(limits()), Instant::now());
    let busy: Vec<_> = (0..PLACES)
        .map(|_| {
            let id = serve(&mut admission, None, now);
            admission.request_began(id, now);
            admission.request_proven(id);
            id
        })
        .collect();
    let later = now + GRACE;
    let reserved = serve(&mut admission, None, later);
    assert_eq!(admission.request_began(reserved, later), RequestAdmission::ReserveOnly);
    admission.request_ended(reserved, later);
    admission.request_ended(busy[0], later);
    // It has just been answered, and may send its next request at once.
    assert_eq!(admission.request_began(reserved, later), RequestAdmission::ReserveOnly);
    let closes = Some(busy[0]);
    assert_eq!(admission.request_began(reserved, later + GRACE), RequestAdmission::Any { closes });
}

#[test]
fn flood_of_silent_connections_delays_a_client_by_the_grace_only() {
    let (mut admission, now) = (Admission::new(limits()), Instant::now());
    for _ in 0..PLACES + RESERVE {
        serve(&mut admission, None, now);
    }
    assert_eq!(admission.open(None, now), Opening::Wait { until: Some(now + GRACE) });
    let later = now + GRACE;
    for _ in 0..PLACES {
        let Opening::Serve { closes, .. } = admission.open(None, later) else { panic!() };
        assert!(closes.is_some());
    }
}

#[test]
fn forwarded_requests_share_the_limit_of_their_client() {
    let (mut admission, client) = (Admission::new(limits()), peer(1));
    assert!((0..PER_PEER).all(|_| admission.forwarded_request_began(client)));
    assert!(!admission.forwarded_request_began(client));
    assert!(admission.forwarded_request_began(peer(2)));
    admission.release(client);
    assert!(admission.forwarded_request_began(client));
}
