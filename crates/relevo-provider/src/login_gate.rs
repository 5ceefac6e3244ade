//! Coordination of linked devices that log in: one client at a time per instance, a few logins at a time per node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use relevo_domain::InstanceNumber;

/// Maximum number of devices that log in at the same time.
const MAX_CONCURRENT_LOGINS: usize = 8;

/// Locks the keys of each instance for one client at a time, also while one actor replaces another, and limits
/// concurrent logins, so that many devices that start together (after a restart of the node or of WhatsApp) log in a
/// few at a time. Cheap to clone; clones share their state.
#[derive(Debug, Clone)]
pub struct LoginGate {
    key_locks: Arc<Mutex<HashMap<InstanceNumber, KeyLock>>>,
    permits: Arc<Semaphore>,
}

type KeyLock = Arc<tokio::sync::Mutex<()>>;

/// Permission to log in, held until it is dropped.
#[derive(Debug)]
pub struct LoginPermit {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Default for LoginGate {
    fn default() -> Self {
        Self { key_locks: Arc::default(), permits: Arc::new(Semaphore::new(MAX_CONCURRENT_LOGINS)) }
    }
}

impl LoginGate {
    /// Waits for a permit to log in. Permits are granted in the order of the requests.
    pub async fn acquire(&self) -> LoginPermit {
        // `acquire_owned` fails only on a closed semaphore, and this one is never closed.
        LoginPermit { _permit: Arc::clone(&self.permits).acquire_owned().await.ok() }
    }

    /// Waits for the exclusive use of an instance's keys. The returned guard releases them when it is dropped.
    pub async fn lock_keys(&self, instance: InstanceNumber) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.key_locks.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(instance).or_default())
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn login_gate_limits_concurrent_logins() {
        let gate = LoginGate::default();
        let mut permits = Vec::new();
        for _ in 0..MAX_CONCURRENT_LOGINS {
            permits.push(gate.acquire().await);
        }
        let mut next = Box::pin(gate.acquire());
        assert!(next.as_mut().now_or_never().is_none());
        permits.pop();
        assert!(next.now_or_never().is_some());
    }

    #[tokio::test]
    async fn key_lock_is_exclusive_per_instance() {
        let gate = LoginGate::default();
        let second = InstanceNumber::FIRST.next().unwrap();
        let guard = gate.lock_keys(InstanceNumber::FIRST).await;
        assert!(gate.lock_keys(InstanceNumber::FIRST).now_or_never().is_none());
        assert!(gate.lock_keys(second).now_or_never().is_some());
        drop(guard);
        assert!(gate.lock_keys(InstanceNumber::FIRST).now_or_never().is_some());
    }
}
