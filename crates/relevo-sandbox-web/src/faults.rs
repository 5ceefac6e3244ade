//! Scripted faults: the fault, the matching devices, and the number of repetitions.

use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// Maximum number of armed rules.
pub const MAX_RULES: usize = 1000;

/// A fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A login is refused with this reason: 401 logged out, 402 banned for `expires_in_s` seconds, 403 banned,
    /// 405 outdated, 409 replaced, 503 not available. Source: the client's `ConnectFailureReason`.
    RefuseLogin {
        /// The reason.
        reason: u16,
        /// Duration of the ban.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_in_s: Option<u64>,
    },
    /// A login is answered with `<stream:error>` of this code: 515 to reconnect, 503, …
    BreakLogin {
        /// The code.
        code: u16,
    },
    /// A login is received and never answered.
    IgnoreLogin,
    /// A message is refused with this code: 463 for recipients that the account may not write to, …
    Nack {
        /// The code.
        code: u16,
    },
    /// The connection is cut when a message arrives; the message is not accepted.
    CutBefore,
    /// A message is accepted and delivered, and the connection is cut instead of an acknowledgement.
    CutUnacked,
    /// A message is accepted, delivered and acknowledged; then the connection is cut.
    CutAfter,
    /// A message is accepted and delivered, and its acknowledgement is delayed.
    DelayAck {
        /// The delay in milliseconds.
        ms: u64,
    },
    /// A message is accepted and delivered, and never acknowledged.
    LoseAck,
    /// When a message arrives, the connection stops reading and answering; the message is not accepted.
    Mute,
    /// A message is delivered twice to this device.
    DeliverTwice,
    /// A message is delivered to this device after the next one.
    DeliverLate,
    /// A message is delivered to this device with a corrupt ciphertext.
    DeliverGarbled,
}

/// The stage at which a fault applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultStage {
    /// A linked device logs in.
    Login,
    /// A linked device sends a message.
    Message,
    /// A linked device receives a message.
    Delivery,
}

impl Fault {
    fn stage(&self) -> FaultStage {
        match self {
            Self::RefuseLogin { .. } | Self::BreakLogin { .. } | Self::IgnoreLogin => FaultStage::Login,
            Self::Nack { .. }
            | Self::CutBefore
            | Self::CutUnacked
            | Self::CutAfter
            | Self::DelayAck { .. }
            | Self::LoseAck
            | Self::Mute => FaultStage::Message,
            Self::DeliverTwice | Self::DeliverLate | Self::DeliverGarbled => FaultStage::Delivery,
        }
    }
}

/// Selects devices. Absent fields match everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceMatch {
    /// The phone number of the account, digits only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    /// The number of the linked device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<u16>,
    /// Only every n-th of the otherwise matching occasions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<NonZeroU32>,
}

/// A fault for matching devices, `times` times (without limit when absent).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// The devices to which the fault applies.
    #[serde(rename = "match", default)]
    pub matching: DeviceMatch,
    /// The fault.
    pub fault: Fault,
    /// Number of applications.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<NonZeroU32>,
}

impl FaultRule {
    /// A rule that applies the fault once, to the devices of one account.
    pub fn once(phone: impl Into<String>, fault: Fault) -> Self {
        let matching = DeviceMatch { phone: Some(phone.into()), ..DeviceMatch::default() };
        Self { matching, fault, times: Some(NonZeroU32::MIN) }
    }

    /// A rule that applies the fault until it is disarmed, to the devices of one account.
    pub fn always(phone: impl Into<String>, fault: Fault) -> Self {
        Self { times: None, ..Self::once(phone, fault) }
    }
}

/// An armed rule in the format of the control plane.
#[derive(Debug, Serialize)]
pub struct ArmedRule {
    pub id: u64,
    #[serde(flatten)]
    pub rule: FaultRule,
    /// Number of matches, before `every`.
    pub seen: u32,
    /// Number of applications.
    pub struck: u32,
}

impl ArmedRule {
    fn try_trigger(&mut self, stage: FaultStage, phone: &str, device: u16) -> bool {
        let matching = &self.rule.matching;
        let is_exhausted = self.rule.times.is_some_and(|times| self.struck >= times.get());
        if is_exhausted
            || self.rule.fault.stage() != stage
            || matching.phone.as_deref().is_some_and(|number| number != phone)
            || matching.device.is_some_and(|number| number != device)
        {
            return false;
        }
        self.seen = self.seen.saturating_add(1);
        if matching.every.is_some_and(|every| !self.seen.is_multiple_of(every.get())) {
            return false;
        }
        self.struck = self.struck.saturating_add(1);
        true
    }
}

#[derive(Debug, Default)]
struct Inner {
    last_id: u64,
    armed: Vec<ArmedRule>,
}

/// The armed rules. The first matching rule applies.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Inner>);

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Arms a rule after the existing ones; `None` when there are [`MAX_RULES`].
    pub fn arm(&self, rule: FaultRule) -> Option<u64> {
        let mut inner = self.lock();
        if inner.armed.len() >= MAX_RULES {
            return None;
        }
        inner.last_id += 1;
        let id = inner.last_id;
        inner.armed.push(ArmedRule { id, rule, seen: 0, struck: 0 });
        Some(id)
    }

    /// Disarms the rule with this id, or all rules. Returns the number of disarmed rules.
    pub fn disarm(&self, id: Option<u64>) -> usize {
        let mut inner = self.lock();
        let before = inner.armed.len();
        inner.armed.retain(|armed| id.is_some_and(|id| armed.id != id));
        before - inner.armed.len()
    }

    /// How often the rule with this id was applied; 0 when there is none.
    pub fn trigger_count(&self, id: u64) -> u32 {
        self.lock().armed.iter().find(|armed| armed.id == id).map_or(0, |armed| armed.struck)
    }

    /// The armed rules in the format of the control plane.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(&self.lock().armed).unwrap_or_default()
    }

    /// The fault that applies to a device at this stage.
    pub fn trigger(&self, stage: FaultStage, phone: &str, device: u16) -> Option<Fault> {
        let mut inner = self.lock();
        let armed = inner
            .armed
            .iter_mut()
            .find_map(|armed| armed.try_trigger(stage, phone, device).then_some(armed))?;
        Some(armed.rule.fault.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_triggers_for_matching_devices_up_to_times() {
        let faults = Faults::default();
        faults.arm(FaultRule::once("1", Fault::LoseAck)).unwrap();
        assert_eq!(faults.trigger(FaultStage::Message, "2", 1), None);
        assert_eq!(faults.trigger(FaultStage::Login, "1", 1), None);
        assert_eq!(faults.trigger(FaultStage::Message, "1", 1), Some(Fault::LoseAck));
        assert_eq!(faults.trigger(FaultStage::Message, "1", 1), None);
    }

    #[test]
    fn every_counts_matching_calls() {
        let faults = Faults::default();
        let rule = r#"{"match":{"device":3,"every":2},"fault":{"nack":{"code":463}}}"#;
        faults.arm(serde_json::from_str(rule).unwrap()).unwrap();
        let struck: Vec<bool> =
            (0..4).map(|_| faults.trigger(FaultStage::Message, "1", 3).is_some()).collect();
        assert_eq!(struck, [false, true, false, true]);
        assert_eq!(faults.disarm(None), 1);
    }

    #[test]
    fn rule_with_unknown_field_is_refused() {
        assert!(serde_json::from_str::<FaultRule>(r#"{"fault":"deliver_thrice"}"#).is_err());
        assert!(serde_json::from_str::<FaultRule>(r#"{"fault":"mute","time":1}"#).is_err());
    }
}
