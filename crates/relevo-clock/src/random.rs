//! The source of random values.

use std::sync::{Arc, Mutex, PoisonError};

use rand::distr::{Distribution, StandardUniform};
use rand::rngs::{StdRng, SysError};
use rand::{Rng as _, RngExt as _, SeedableRng as _, TryRng as _};
use uuid::{Builder, Uuid};

/// A source of random values: of the system, or in tests a sequence that a seed determines. Cheap to clone; clones of a
/// seeded source continue one sequence.
#[derive(Debug, Clone)]
pub struct Random(RandomSource);

#[derive(Debug, Clone)]
enum RandomSource {
    System,
    Seeded(Arc<Mutex<StdRng>>),
}

impl Random {
    /// The generator of the thread, which the operating system seeds. It is cryptographically secure.
    pub fn system() -> Self {
        Self(RandomSource::System)
    }

    /// The sequence of `seed`, for tests.
    pub fn seeded(seed: u64) -> Self {
        Self(RandomSource::Seeded(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))))
    }

    /// A random value. Numbers are uniform over their type, floating-point numbers over 0 to 1 (exclusive).
    pub fn value<T>(&self) -> T
    where
        StandardUniform: Distribution<T>,
    {
        match &self.0 {
            RandomSource::System => thread_generator().random(),
            RandomSource::Seeded(sequence) => locked(sequence).random(),
        }
    }

    /// A random UUID: version 4 of RFC 9562 §5.4.
    pub fn uuid(&self) -> Uuid {
        Builder::from_random_bytes(self.value()).into_uuid()
    }

    /// A new generator, for libraries that take one.
    pub fn generator(&self) -> StdRng {
        StdRng::from_seed(self.value())
    }

    /// Bytes for a key that is kept: they come from the operating system itself.
    ///
    /// # Errors
    ///
    /// The operating system has no random bytes.
    pub fn key_bytes<const N: usize>(&self) -> Result<[u8; N], SysError> {
        let mut bytes = [0; N];
        match &self.0 {
            RandomSource::System => fill_from_system(&mut bytes)?,
            RandomSource::Seeded(sequence) => locked(sequence).fill_bytes(&mut bytes),
        }
        Ok(bytes)
    }
}

fn locked(sequence: &Mutex<StdRng>) -> std::sync::MutexGuard<'_, StdRng> {
    sequence.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::disallowed_methods, reason = "the only use of the generator of the thread")]
fn thread_generator() -> impl rand::Rng {
    rand::rng()
}

#[expect(clippy::disallowed_types, reason = "the only use of the generator of the operating system")]
fn fill_from_system(bytes: &mut [u8]) -> Result<(), SysError> {
    let mut system: rand::rngs::SysRng = rand::rngs::SysRng;
    system.try_fill_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_determines_the_sequence() {
        let sequence = |seed| {
            let random = Random::seeded(seed);
            let value: u64 = random.value();
            (value, random.uuid(), random.key_bytes::<32>().unwrap(), random.generator().random::<u64>())
        };
        assert_eq!(sequence(7), sequence(7));
        assert_ne!(sequence(7), sequence(8));
    }

    #[test]
    fn clones_continue_one_sequence() {
        let (random, whole) = (Random::seeded(7), Random::seeded(7));
        let clone = random.clone();
        let parts: [u64; 2] = [random.value(), clone.value()];
        assert_eq!(parts, [(); 2].map(|()| whole.value::<u64>()));
        assert_ne!(parts[0], parts[1]);
    }

    #[test]
    fn system_values_differ() {
        let random = Random::system();
        assert_ne!(random.value::<u128>(), random.value::<u128>());
        assert_ne!(random.key_bytes::<32>().unwrap(), random.key_bytes::<32>().unwrap());
        assert_eq!(random.uuid().get_version_num(), 4);
    }
}
