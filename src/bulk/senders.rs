//! The instances as jobs see them: which may send, how much, and who gets which recipient.

use std::sync::Arc;
use std::time::Duration;

use crate::instance;
use relevo_domain::{AmbiguousPolicy, InstanceId, InstanceNumber, InstanceState, LaneId};

use super::Error;
use super::job::{JobSender, SenderSelection};

/// An instance that may send for jobs.
#[derive(Debug, Clone, PartialEq)]
pub struct SenderInstance {
    pub number: InstanceNumber,
    pub id: InstanceId,
    pub state: InstanceState,
    /// Messages a second: its share of a job.
    pub rate: f64,
    /// Its own policy, where it has one.
    pub on_ambiguous: Option<AmbiguousPolicy>,
    /// WhatsApp recognises its messages when they are sent again.
    pub repeatable: bool,
}

/// Tells the instances that there are, at the moment it is asked. Must not block.
pub type InstanceLister = Arc<dyn Fn() -> Vec<SenderInstance> + Send + Sync>;

/// Reads the instances of the node. `usual` tells the rate of those that have none of their own.
pub fn instance_lister(instances: instance::Handle, usual: instance::Options) -> InstanceLister {
    Arc::new(move || {
        let device = |view: instance::InstanceView| SenderInstance {
            number: view.number,
            rate: view.config.rate_limit.unwrap_or(usual.rate_limit_of(view.config.provider)).per_second,
            on_ambiguous: view.config.on_ambiguous,
            repeatable: view.config.provider.capabilities().deduplicates_resends,
            state: view.state.state,
            id: view.config.id,
        };
        instances.list().into_iter().map(device).collect()
    })
}

impl SenderInstance {
    fn sender(&self) -> JobSender {
        JobSender { number: self.number, id: self.id.clone() }
    }
}

/// The senders with which a job begins.
pub(super) fn initial_senders(
    wanted: &SenderSelection,
    devices: &[SenderInstance],
) -> Result<Vec<JobSender>, Error> {
    match wanted {
        SenderSelection::Named(ids) => {
            let find = |id: &InstanceId| {
                let device = devices.iter().find(|device| device.id == *id);
                device.map(SenderInstance::sender).ok_or_else(|| instance::Error::Unknown(id.clone()).into())
            };
            let senders = ids.iter().map(find).collect::<Result<Vec<_>, Error>>()?;
            if senders.is_empty() { Err(Error::NoDevices) } else { Ok(senders) }
        }
        SenderSelection::Any { limit } => {
            let mut senders = Vec::new();
            add_connected(&mut senders, usize::from(*limit), devices);
            if senders.is_empty() { Err(Error::NoDevices) } else { Ok(senders) }
        }
    }
}

/// Adds connected instances, the fastest first, until `wanted` were added.
fn add_connected(senders: &mut Vec<JobSender>, wanted: usize, devices: &[SenderInstance]) {
    let is_new = |device: &&SenderInstance| {
        device.state == InstanceState::Connected
            && !senders.iter().any(|sender| sender.number == device.number)
    };
    let mut free: Vec<_> = devices.iter().filter(is_new).collect();
    free.sort_by(|one, other| other.rate.total_cmp(&one.rate).then_with(|| one.id.cmp(&other.id)));
    let room = usize::from(u8::MAX).saturating_sub(senders.len());
    senders.extend(free.into_iter().take(wanted.min(room)).map(SenderInstance::sender));
}

/// Whether an instance is worth waiting for: `unconnected` is how long it has not been connected.
pub(super) fn is_available(device: &SenderInstance, unconnected: Duration, patience: Duration) -> bool {
    match device.state {
        InstanceState::Connected => true,
        InstanceState::Connecting => unconnected < patience,
        _ => false,
    }
}

/// Who may send now: the living among the senders. Where a job asked for any, others are added for those that died.
pub(super) fn sender_pool(
    wanted: &SenderSelection,
    senders: &mut Vec<JobSender>,
    devices: &[SenderInstance],
    is_alive: impl Fn(&SenderInstance) -> bool,
) -> Vec<SenderInstance> {
    let living = |senders: &[JobSender]| -> Vec<SenderInstance> {
        let find = |sender: &JobSender| devices.iter().find(|device| device.number == sender.number);
        senders.iter().filter_map(find).filter(|device| is_alive(device)).cloned().collect()
    };
    let mut pool = living(senders);
    if let SenderSelection::Any { limit } = wanted {
        let limit = usize::from(*limit);
        if pool.len() < limit {
            add_connected(senders, limit - pool.len(), devices);
            pool = living(senders);
        }
        pool.truncate(limit);
    }
    pool
}

/// The instance that a recipient's rows go through: the same one as long as it lives, each in proportion to its rate;
/// when one goes, only its recipients move. Rendezvous hashing with weights (Schindelhauer and Schomaker, 2005).
pub(super) fn choose(pool: &[SenderInstance], recipient: LaneId) -> Option<&SenderInstance> {
    let distance = |device: &SenderInstance| {
        let hash = mix(recipient.0 ^ mix(u64::from(device.number.get())));
        // 53 bits, in the middle of their step: never 0 and never 1.
        let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -unit.ln() / device.rate.max(f64::MIN_POSITIVE)
    };
    pool.iter().min_by(|one, other| distance(one).total_cmp(&distance(other)))
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, number: u32, rate: f64, state: InstanceState) -> SenderInstance {
        let number = InstanceNumber::from_be_bytes(number.to_be_bytes()).unwrap();
        SenderInstance {
            number,
            id: name.parse().unwrap(),
            state,
            rate,
            on_ambiguous: None,
            repeatable: false,
        }
    }

    fn connected(name: &str, number: u32, rate: f64) -> SenderInstance {
        device(name, number, rate, InstanceState::Connected)
    }

    fn names(senders: &[JobSender]) -> Vec<&str> {
        senders.iter().map(|sender| sender.id.as_str()).collect()
    }

    #[test]
    fn recipients_are_shared_by_rate_and_stay_with_their_sender() {
        let pool = [connected("a", 1, 80.0), connected("b", 2, 20.0)];
        let choices = |pool: &[SenderInstance]| -> Vec<u32> {
            (0..20_000).map(|n| choose(pool, LaneId(n)).unwrap().number.get()).collect()
        };
        let before = choices(&pool);
        assert_eq!(before, choices(&pool));
        let share = before.iter().filter(|&&number| number == 1).count();
        assert!((15_500..16_500).contains(&share), "{share}");
    }

    #[test]
    fn only_recipients_of_an_unavailable_instance_move() {
        let all = [connected("a", 1, 80.0), connected("b", 2, 80.0), connected("c", 3, 40.0)];
        let living = [all[0].clone(), all[2].clone()];
        for recipient in (0..5_000).map(LaneId) {
            let before = choose(&all, recipient).unwrap();
            let after = choose(&living, recipient).unwrap();
            assert!(before.number == after.number || before.id.as_str() == "b");
        }
        assert_eq!(choose(&[], LaneId(1)), None);
    }

    #[test]
    fn job_starts_with_the_fastest_connected_instances() {
        let devices = [
            connected("slow", 1, 1.0),
            connected("fast", 2, 80.0),
            device("away", 3, 99.0, InstanceState::Disconnected),
            connected("medium", 4, 20.0),
        ];
        let senders = initial_senders(&SenderSelection::Any { limit: 2 }, &devices).unwrap();
        assert_eq!(names(&senders), ["fast", "medium"]);
        let named = SenderSelection::Named(vec!["away".parse().unwrap()]);
        assert_eq!(names(&initial_senders(&named, &devices).unwrap()), ["away"]);
        let unknown = SenderSelection::Named(vec!["nobody".parse().unwrap()]);
        assert!(matches!(
            initial_senders(&unknown, &devices),
            Err(Error::Instance(instance::Error::Unknown(_)))
        ));
        assert!(matches!(
            initial_senders(&SenderSelection::Any { limit: 5 }, &devices[2..3]),
            Err(Error::NoDevices)
        ));
    }

    #[test]
    fn unavailable_senders_are_replaced_unless_named() {
        let mut devices = vec![connected("a", 1, 9.0), connected("b", 2, 8.0), connected("c", 3, 7.0)];
        let any = SenderSelection::Any { limit: 2 };
        let mut senders = initial_senders(&any, &devices).unwrap();
        devices[0].state = InstanceState::LoggedOut;
        let alive = |device: &SenderInstance| is_available(device, Duration::ZERO, Duration::from_secs(30));
        let now = sender_pool(&any, &mut senders, &devices, alive);
        assert_eq!(now.iter().map(|device| device.id.as_str()).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(names(&senders), ["a", "b", "c"], "who sent keeps its place");
        devices[0].state = InstanceState::Connected;
        assert_eq!(
            sender_pool(&any, &mut senders, &devices, alive).len(),
            2,
            "the limit holds when one comes back"
        );

        let named = SenderSelection::Named(vec!["a".parse().unwrap()]);
        let mut senders = initial_senders(&named, &devices).unwrap();
        devices[0].state = InstanceState::Failed;
        assert_eq!(sender_pool(&named, &mut senders, &devices, alive), []);
    }

    #[test]
    fn connecting_instance_is_available_until_patience_ends() {
        let device = device("a", 1, 1.0, InstanceState::Connecting);
        let patience = Duration::from_secs(30);
        assert!(is_available(&device, Duration::from_secs(29), patience));
        assert!(!is_available(&device, patience, patience));
    }
}
