//! The senders of jobs: which instances send for a job, and which of them sends to which recipient.

use std::sync::Arc;
use std::time::Duration;

use crate::instance;
use relevo_domain::{AmbiguousPolicy, InstanceId, InstanceNumber, InstanceState, LaneId, Reason, ReasonCode};

use super::Error;
use super::job::{JobSender, SenderSelection};

/// An instance, as jobs see it.
#[derive(Debug, Clone, PartialEq)]
pub struct SenderInstance {
    /// Its number, which message ids contain.
    pub number: InstanceNumber,
    /// Its id, which the API uses.
    pub id: InstanceId,
    /// Its current state.
    pub state: InstanceState,
    /// Why it is in that state.
    pub reason: Reason,
    /// Rate limit in messages per second; the instance's share of a job is proportional to it.
    pub rate: f64,
    /// The policy of the instance; `None`: the node's default applies.
    pub on_ambiguous: Option<AmbiguousPolicy>,
    /// Whether WhatsApp deduplicates its messages when they are sent again.
    pub repeatable: bool,
}

/// Lists the current instances. Must not block.
pub type InstanceLister = Arc<dyn Fn() -> Vec<SenderInstance> + Send + Sync>;

/// Lists the instances of the node. `defaults` has the rate of instances without a rate of their own.
pub fn instance_lister(instances: instance::Handle, defaults: instance::Options) -> InstanceLister {
    Arc::new(move || {
        let to_sender = |view: instance::InstanceView| SenderInstance {
            number: view.number,
            rate: view
                .config
                .rate_limit
                .unwrap_or(defaults.rate_limit_of(view.config.provider.kind()))
                .per_second,
            on_ambiguous: view.config.on_ambiguous,
            repeatable: view.config.provider.kind().capabilities().deduplicates_resends,
            state: view.state.state,
            reason: view.state.reason,
            id: view.config.id,
        };
        instances.list().into_iter().map(to_sender).collect()
    })
}

impl SenderInstance {
    /// Whether it sends now.
    fn sends(&self) -> bool {
        self.state == InstanceState::Connected && !self.reason.is(ReasonCode::Throttled)
    }

    fn sender(&self) -> JobSender {
        JobSender { number: self.number, id: self.id.clone() }
    }
}

/// The senders with which a job starts: the named instances, or the fastest connected ones.
pub(super) fn initial_senders(
    selection: &SenderSelection,
    instances: &[SenderInstance],
) -> Result<Vec<JobSender>, Error> {
    match selection {
        SenderSelection::Named(ids) => {
            let find = |id: &InstanceId| {
                let instance = instances.iter().find(|instance| instance.id == *id);
                instance
                    .map(SenderInstance::sender)
                    .ok_or_else(|| instance::Error::Unknown(id.clone()).into())
            };
            let senders = ids.iter().map(find).collect::<Result<Vec<_>, Error>>()?;
            if senders.is_empty() { Err(Error::NoDevices) } else { Ok(senders) }
        }
        SenderSelection::Any { limit } => {
            let mut senders = Vec::new();
            add_connected(&mut senders, usize::from(*limit), instances);
            if senders.is_empty() { Err(Error::NoDevices) } else { Ok(senders) }
        }
    }
}

/// Adds up to `count` connected instances, fastest first. A job has at most 255 senders.
fn add_connected(senders: &mut Vec<JobSender>, count: usize, instances: &[SenderInstance]) {
    let is_new = |instance: &&SenderInstance| {
        instance.state == InstanceState::Connected
            && !senders.iter().any(|sender| sender.number == instance.number)
    };
    let mut free: Vec<_> = instances.iter().filter(is_new).collect();
    free.sort_by(|a, b| b.rate.total_cmp(&a.rate).then_with(|| a.id.cmp(&b.id)));
    let room = usize::from(u8::MAX).saturating_sub(senders.len());
    senders.extend(free.into_iter().take(count.min(room)).map(SenderInstance::sender));
}

/// Whether an instance can send: it is connected, or has been connecting for less than `patience`. `disconnected` is how
/// long it has not been connected.
pub(super) fn is_available(instance: &SenderInstance, disconnected: Duration, patience: Duration) -> bool {
    match instance.state {
        InstanceState::Connected => true,
        InstanceState::Connecting => disconnected < patience,
        _ => false,
    }
}

/// The available instances among the senders. If the job may use any instance, connected ones are added to `senders` in
/// place of unavailable ones.
pub(super) fn sender_pool(
    selection: &SenderSelection,
    senders: &mut Vec<JobSender>,
    instances: &[SenderInstance],
    is_available: impl Fn(&SenderInstance) -> bool,
) -> Vec<SenderInstance> {
    let available = |senders: &[JobSender]| -> Vec<SenderInstance> {
        let find = |sender: &JobSender| instances.iter().find(|instance| instance.number == sender.number);
        senders.iter().filter_map(find).filter(|instance| is_available(instance)).cloned().collect()
    };
    let mut pool = available(senders);
    if let SenderSelection::Any { limit } = selection {
        let limit = usize::from(*limit);
        if pool.len() < limit {
            add_connected(senders, limit - pool.len(), instances);
            pool = available(senders);
        }
        pool.truncate(limit);
    }
    pool
}

/// What a job waits for: its senders with their states and reasons, if none of them sends now. `None` if one does.
pub(super) fn blocked_by(senders: &[JobSender], instances: &[SenderInstance]) -> Option<String> {
    let mut texts = Vec::new();
    for sender in senders {
        match instances.iter().find(|instance| instance.number == sender.number) {
            Some(instance) if instance.sends() => return None,
            Some(SenderInstance { id, state, reason, .. }) => {
                texts.push(format!("{id} is {} ({}): {}", state.as_str(), reason.code, reason.text));
            }
            None => texts.push(format!("{} was deleted", sender.id)),
        }
    }
    Some(format!("none of the job's instances can send now: {}", texts.join("; ")))
}

/// The instance that sends to a recipient. It is the same as long as the pool has it and no other joins; each instance
/// gets recipients in proportion to its rate; when one leaves the pool, only its recipients move. Rendezvous hashing with
/// weights (Schindelhauer and Schomaker, 2005).
pub(super) fn choose(pool: &[SenderInstance], recipient: LaneId) -> Option<&SenderInstance> {
    let distance = |instance: &SenderInstance| {
        let hash = mix(recipient.0 ^ mix(u64::from(instance.number.get())));
        // 53 bits plus one half: never 0 and never 1.
        let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -unit.ln() / instance.rate.max(f64::MIN_POSITIVE)
    };
    pool.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)))
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

    fn instance(name: &str, number: u32, rate: f64, state: InstanceState) -> SenderInstance {
        let number = InstanceNumber::from_be_bytes(number.to_be_bytes()).unwrap();
        SenderInstance {
            number,
            id: name.parse().unwrap(),
            state,
            reason: Reason::new(ReasonCode::Connected, "x"),
            rate,
            on_ambiguous: None,
            repeatable: false,
        }
    }

    fn connected(name: &str, number: u32, rate: f64) -> SenderInstance {
        instance(name, number, rate, InstanceState::Connected)
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
        let rest = [all[0].clone(), all[2].clone()];
        for recipient in (0..5_000).map(LaneId) {
            let before = choose(&all, recipient).unwrap();
            let after = choose(&rest, recipient).unwrap();
            assert!(before.number == after.number || before.id.as_str() == "b");
        }
        assert_eq!(choose(&[], LaneId(1)), None);
    }

    #[test]
    fn job_starts_with_the_fastest_connected_instances() {
        let instances = [
            connected("slow", 1, 1.0),
            connected("fast", 2, 80.0),
            instance("away", 3, 99.0, InstanceState::Disconnected),
            connected("medium", 4, 20.0),
        ];
        let senders = initial_senders(&SenderSelection::Any { limit: 2 }, &instances).unwrap();
        assert_eq!(names(&senders), ["fast", "medium"]);
        let named = SenderSelection::Named(vec!["away".parse().unwrap()]);
        assert_eq!(names(&initial_senders(&named, &instances).unwrap()), ["away"]);
        let unknown = SenderSelection::Named(vec!["unknown".parse().unwrap()]);
        assert!(matches!(
            initial_senders(&unknown, &instances),
            Err(Error::Instance(instance::Error::Unknown(_)))
        ));
        assert!(matches!(
            initial_senders(&SenderSelection::Any { limit: 5 }, &instances[2..3]),
            Err(Error::NoDevices)
        ));
    }

    #[test]
    fn unavailable_senders_are_replaced_unless_named() {
        let mut instances = vec![connected("a", 1, 9.0), connected("b", 2, 8.0), connected("c", 3, 7.0)];
        let any = SenderSelection::Any { limit: 2 };
        let mut senders = initial_senders(&any, &instances).unwrap();
        instances[0].state = InstanceState::LoggedOut;
        let available =
            |instance: &SenderInstance| is_available(instance, Duration::ZERO, Duration::from_secs(30));
        let pool = sender_pool(&any, &mut senders, &instances, available);
        assert_eq!(pool.iter().map(|instance| instance.id.as_str()).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(names(&senders), ["a", "b", "c"], "earlier senders keep their device_id");
        instances[0].state = InstanceState::Connected;
        assert_eq!(
            sender_pool(&any, &mut senders, &instances, available).len(),
            2,
            "the limit holds when a sender returns"
        );

        let named = SenderSelection::Named(vec!["a".parse().unwrap()]);
        let mut senders = initial_senders(&named, &instances).unwrap();
        instances[0].state = InstanceState::Failed;
        assert_eq!(sender_pool(&named, &mut senders, &instances, available), []);
    }

    #[test]
    fn connecting_instance_is_available_until_patience_ends() {
        let instance = instance("a", 1, 1.0, InstanceState::Connecting);
        let patience = Duration::from_secs(30);
        assert!(is_available(&instance, Duration::from_secs(29), patience));
        assert!(!is_available(&instance, patience, patience));
    }

    #[test]
    fn job_is_blocked_while_none_of_its_senders_sends() {
        let mut away = instance("away", 1, 1.0, InstanceState::Paused);
        away.reason = Reason::new(ReasonCode::AuthRejected, "token expired");
        let mut held = connected("held", 2, 1.0);
        held.reason = Reason::new(ReasonCode::Throttled, "slow down");
        let senders = [away.sender(), held.sender()];
        let text = blocked_by(&senders, &[away.clone(), held]).unwrap();
        for part in ["away is paused (auth_rejected): token expired", "held is connected (throttled)"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(blocked_by(&senders, &[away.clone()]).unwrap().contains("held was deleted"));
        assert_eq!(blocked_by(&senders, &[away, connected("held", 2, 1.0)]), None);
    }
}
