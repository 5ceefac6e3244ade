//! The instances as jobs see them: which may send, how much, and who gets which recipient.

use std::sync::Arc;
use std::time::Duration;

use crate::instance;
use relevo_domain::{AmbiguousPolicy, InstanceId, InstanceNumber, InstanceState, LaneId};

use super::Error;
use super::job::{Sender, Senders};

/// An instance that may send for jobs.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
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
pub type Probe = Arc<dyn Fn() -> Vec<Device> + Send + Sync>;

/// Reads the instances of the node. `usual` tells the rate of those that have none of their own.
pub fn probe(instances: instance::Handle, usual: instance::Options) -> Probe {
    Arc::new(move || {
        let device = |view: instance::InstanceView| Device {
            number: view.number,
            rate: view.config.rate_limit.unwrap_or(usual.rate_limit_of(view.config.provider)).per_second,
            on_ambiguous: view.config.on_ambiguous,
            repeatable: view.config.provider.recognises_repeats(),
            state: view.state.state,
            id: view.config.id,
        };
        instances.list().into_iter().map(device).collect()
    })
}

impl Device {
    fn sender(&self) -> Sender {
        Sender { number: self.number, id: self.id.clone() }
    }
}

/// The senders with which a job begins.
pub(super) fn at_start(wanted: &Senders, devices: &[Device]) -> Result<Vec<Sender>, Error> {
    match wanted {
        Senders::Named(ids) => {
            let find = |id: &InstanceId| {
                let device = devices.iter().find(|device| device.id == *id);
                device.map(Device::sender).ok_or_else(|| instance::Error::Unknown(id.clone()).into())
            };
            let senders = ids.iter().map(find).collect::<Result<Vec<_>, Error>>()?;
            if senders.is_empty() { Err(Error::NoDevices) } else { Ok(senders) }
        }
        Senders::Any { limit } => {
            let mut senders = Vec::new();
            fill(&mut senders, usize::from(*limit), devices);
            if senders.is_empty() { Err(Error::NoDevices) } else { Ok(senders) }
        }
    }
}

/// Adds connected instances, the fastest first, until `wanted` were added.
fn fill(senders: &mut Vec<Sender>, wanted: usize, devices: &[Device]) {
    let is_new = |device: &&Device| {
        device.state == InstanceState::Connected
            && !senders.iter().any(|sender| sender.number == device.number)
    };
    let mut free: Vec<_> = devices.iter().filter(is_new).collect();
    free.sort_by(|one, other| other.rate.total_cmp(&one.rate).then_with(|| one.id.cmp(&other.id)));
    let room = usize::from(u8::MAX).saturating_sub(senders.len());
    senders.extend(free.into_iter().take(wanted.min(room)).map(Device::sender));
}

/// Whether an instance is worth waiting for: `unconnected` is how long it has not been connected.
pub(super) fn is_alive(device: &Device, unconnected: Duration, patience: Duration) -> bool {
    match device.state {
        InstanceState::Connected => true,
        InstanceState::Connecting => unconnected < patience,
        _ => false,
    }
}

/// Who may send now: the living among the senders. Where a job asked for any, others are added for those that died.
pub(super) fn pool(
    wanted: &Senders,
    senders: &mut Vec<Sender>,
    devices: &[Device],
    is_alive: impl Fn(&Device) -> bool,
) -> Vec<Device> {
    let living = |senders: &[Sender]| -> Vec<Device> {
        let find = |sender: &Sender| devices.iter().find(|device| device.number == sender.number);
        senders.iter().filter_map(find).filter(|device| is_alive(device)).cloned().collect()
    };
    let mut pool = living(senders);
    if let Senders::Any { limit } = wanted {
        let limit = usize::from(*limit);
        if pool.len() < limit {
            fill(senders, limit - pool.len(), devices);
            pool = living(senders);
        }
        pool.truncate(limit);
    }
    pool
}

/// The instance that a recipient's rows go through: the same one as long as it lives, each in proportion to its rate;
/// when one goes, only its recipients move. Rendezvous hashing with weights (Schindelhauer and Schomaker, 2005).
pub(super) fn choose(pool: &[Device], recipient: LaneId) -> Option<&Device> {
    let distance = |device: &Device| {
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

    fn device(name: &str, number: u32, rate: f64, state: InstanceState) -> Device {
        let number = InstanceNumber::from_be_bytes(number.to_be_bytes()).unwrap();
        Device { number, id: name.parse().unwrap(), state, rate, on_ambiguous: None, repeatable: false }
    }

    fn connected(name: &str, number: u32, rate: f64) -> Device {
        device(name, number, rate, InstanceState::Connected)
    }

    fn names(senders: &[Sender]) -> Vec<&str> {
        senders.iter().map(|sender| sender.id.as_str()).collect()
    }

    #[test]
    fn shares_follow_the_rates_and_recipients_stay() {
        let pool = [connected("a", 1, 80.0), connected("b", 2, 20.0)];
        let choices = |pool: &[Device]| -> Vec<u32> {
            (0..20_000).map(|n| choose(pool, LaneId(n)).unwrap().number.get()).collect()
        };
        let before = choices(&pool);
        assert_eq!(before, choices(&pool));
        let share = before.iter().filter(|&&number| number == 1).count();
        assert!((15_500..16_500).contains(&share), "{share}");
    }

    #[test]
    fn only_the_recipients_of_a_dead_instance_move() {
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
    fn a_job_begins_with_the_fastest_that_are_connected() {
        let devices = [
            connected("slow", 1, 1.0),
            connected("fast", 2, 80.0),
            device("away", 3, 99.0, InstanceState::Disconnected),
            connected("medium", 4, 20.0),
        ];
        let senders = at_start(&Senders::Any { limit: 2 }, &devices).unwrap();
        assert_eq!(names(&senders), ["fast", "medium"]);
        let named = Senders::Named(vec!["away".parse().unwrap()]);
        assert_eq!(names(&at_start(&named, &devices).unwrap()), ["away"]);
        let unknown = Senders::Named(vec!["nobody".parse().unwrap()]);
        assert!(matches!(at_start(&unknown, &devices), Err(Error::Instance(instance::Error::Unknown(_)))));
        assert!(matches!(at_start(&Senders::Any { limit: 5 }, &devices[2..3]), Err(Error::NoDevices)));
    }

    #[test]
    fn others_step_in_for_the_dead_and_named_ones_are_not_replaced() {
        let mut devices = vec![connected("a", 1, 9.0), connected("b", 2, 8.0), connected("c", 3, 7.0)];
        let any = Senders::Any { limit: 2 };
        let mut senders = at_start(&any, &devices).unwrap();
        devices[0].state = InstanceState::LoggedOut;
        let alive = |device: &Device| is_alive(device, Duration::ZERO, Duration::from_secs(30));
        let now = pool(&any, &mut senders, &devices, alive);
        assert_eq!(now.iter().map(|device| device.id.as_str()).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(names(&senders), ["a", "b", "c"], "who sent keeps its place");
        devices[0].state = InstanceState::Connected;
        assert_eq!(pool(&any, &mut senders, &devices, alive).len(), 2, "the limit holds when one comes back");

        let named = Senders::Named(vec!["a".parse().unwrap()]);
        let mut senders = at_start(&named, &devices).unwrap();
        devices[0].state = InstanceState::Failed;
        assert_eq!(pool(&named, &mut senders, &devices, alive), []);
    }

    #[test]
    fn an_instance_that_connects_is_waited_for_a_while() {
        let device = device("a", 1, 1.0, InstanceState::Connecting);
        let patience = Duration::from_secs(30);
        assert!(is_alive(&device, Duration::from_secs(29), patience));
        assert!(!is_alive(&device, patience, patience));
    }
}
