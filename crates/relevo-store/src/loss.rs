//! What a damaged database has lost, in the words of the refusal.

use std::collections::BTreeMap;
use std::fmt;

use relevo_domain::Timestamp;

use super::Space;
use super::contents::{CommitRecord, Contents};
use super::witness::Witness;

/// Why a database is not complete, and what is known about what is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    cause: String,
    /// Number of entries that cannot be found, by what they are called.
    missing: BTreeMap<&'static str, u64>,
    /// Number of entries that were in the database.
    expected: Option<u64>,
    since: LossPeriod,
}

/// From when the lost changes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LossPeriod {
    /// The commits after the first one, up to the last one, each with its number and time.
    Commits {
        kept: (u64, Timestamp),
        last: (u64, Timestamp),
    },
    /// The damage can concern entries of any age; the last commit is known.
    AnyBefore(Timestamp),
    Unknown,
}

impl Loss {
    /// `found`: the entries that can be read, and their record.
    pub(super) fn new(
        cause: impl Into<String>,
        witness: Option<&Witness>,
        found: &Contents,
        record: Option<&CommitRecord>,
    ) -> Self {
        let mut missing = BTreeMap::new();
        let found_counts: BTreeMap<u8, u64> = found.counts().collect();
        for (space, count) in witness.map(|witness| &witness.counts).into_iter().flatten() {
            let found = found_counts.get(space).copied().unwrap_or(0);
            if *count > found {
                *missing.entry(Space::noun(*space)).or_default() += count - found;
            }
        }
        let since = match (record, witness) {
            (Some(record), Some(witness)) if record.number < witness.number => {
                LossPeriod::Commits { kept: (record.number, record.at), last: (witness.number, witness.at) }
            }
            (_, Some(witness)) => LossPeriod::AnyBefore(witness.at),
            (Some(record), None) => LossPeriod::AnyBefore(record.at),
            (None, None) => LossPeriod::Unknown,
        };
        let expected = witness.map(Witness::entries).or(record.map(|record| record.entries));
        Self { cause: cause.into(), missing, expected, since }
    }
}

/// Several lines, for a person who reads the log or the terminal.
impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.\n  Missing: ", self.cause)?;
        match (self.expected, self.missing.values().sum::<u64>()) {
            (None, _) => write!(f, "unknown, because the folder has no witness")?,
            (Some(expected), 0) => write!(f, "changes of some of its {expected} entries")?,
            (Some(expected), missing) => {
                write!(f, "at least {missing} of {expected} entries (")?;
                for (index, (noun, count)) in self.missing.iter().enumerate() {
                    write!(f, "{}{noun}: {count}", if index == 0 { "" } else { ", " })?;
                }
                write!(f, ")")?;
            }
        }
        match self.since {
            LossPeriod::Commits { kept, last } => write!(
                f,
                ".\n  Since: {}; the commits after {} are lost, up to {} of {}",
                kept.1, kept.0, last.0, last.1
            )?,
            LossPeriod::AnyBefore(last) => {
                write!(
                    f,
                    ".\n  Since: unknown; entries of any age can be concerned. The last commit is of {last}"
                )?;
            }
            LossPeriod::Unknown => write!(f, ".\n  Since: unknown; entries of any age can be concerned")?,
        }
        write!(
            f,
            ".\n  Nothing in the data folder has been changed. Restore the whole folder from a backup, or start once with \
             --accept-loss: the node then sets the database aside, takes over what can be read of it, and continues \
             without the rest. See docs/damage.md"
        )
    }
}
