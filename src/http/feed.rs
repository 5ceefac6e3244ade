//! One reader of the event log that stays: what comes next, whenever it comes.

use std::collections::VecDeque;

use tokio::sync::watch;

use crate::events::{Error, Item, Kinds, Log, Places, Wanted};
use crate::webhook::Instances;
use relevo_clock::Clock;
use relevo_domain::{InstanceId, InstanceNumber};

use super::Services;

/// Events that a reader has in memory at once, and about how many bytes of them. There is no other buffer: the log is
/// read as fast as the reader takes.
const PAGE: usize = 64;
const PAGE_BYTES: usize = 256 << 10;

/// Which logs are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Instance(InstanceNumber),
    /// Those of all instances, also of those that are created later.
    All,
}

impl Scope {
    /// The instances of this scope that exist.
    pub fn instances(self, known: &Instances) -> Vec<InstanceNumber> {
        let numbers = known.iter().map(|(number, _)| *number);
        numbers.filter(|number| matches!(self, Scope::All) || self == Scope::Instance(*number)).collect()
    }

    fn instance(self) -> Option<InstanceNumber> {
        match self {
            Scope::Instance(number) => Some(number),
            Scope::All => None,
        }
    }

    /// A place as callers are given it: a sequence of one log, or an opaque word for several.
    pub fn write(self, places: &Places) -> String {
        match self {
            Scope::Instance(number) => places.get(number).unwrap_or(0).to_string(),
            Scope::All => places.encode(),
        }
    }
}

/// A reader with its place.
pub(super) struct Feed {
    scope: Scope,
    kinds: Kinds,
    log: Log,
    clock: Clock,
    tails: watch::Receiver<()>,
    instances: watch::Receiver<Instances>,
    /// Behind what was handed out.
    place: Places,
    /// Read and not handed out yet, and where the reader stands behind all of it.
    page: VecDeque<Item>,
    behind: Option<Places>,
}

/// An event for the reader.
pub(super) struct Told {
    pub item: Item,
    pub name: InstanceId,
    /// Where to go on behind it.
    pub cursor: String,
}

impl Feed {
    pub fn new(services: &Services, scope: Scope, kinds: Kinds, from: Places) -> Self {
        Self {
            scope,
            kinds,
            log: services.events.clone(),
            clock: services.clock,
            tails: services.events.watch(scope.instance()),
            instances: services.instances.names(),
            place: from,
            page: VecDeque::new(),
            behind: None,
        }
    }

    /// The next event, when there is one; `None` when the instance is gone. Nothing is lost when this is not awaited
    /// to its end.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub async fn next(&mut self) -> Result<Option<Told>, Error> {
        loop {
            while let Some(item) = self.page.pop_front() {
                self.place.set(item.instance, item.envelope.sequence);
                if let Some(name) = self.name_of(item.instance) {
                    return Ok(Some(Told { item, name, cursor: self.cursor() }));
                }
            }
            if let Some(behind) = self.behind.take() {
                self.place = behind;
            }
            // Marked as seen before the look, so that nothing slips between.
            self.tails.borrow_and_update();
            let instances = self.scope.instances(&self.instances.borrow_and_update());
            if instances.is_empty() && self.scope != Scope::All {
                return Ok(None);
            }
            self.place.retain(|number| instances.contains(&number));
            if self.log.has_more(&instances, &self.place)? {
                let (kinds, now) = (self.kinds.clone(), self.clock.now());
                let wanted = Wanted { kinds, limit: PAGE, bytes: PAGE_BYTES, now };
                let page = self.log.page(&instances, &self.place, &wanted).await?;
                self.page = page.items.into();
                self.behind = Some(page.next);
                continue;
            }
            tokio::select! {
                Ok(()) = self.tails.changed() => {}
                Ok(()) = self.instances.changed() => {}
                else => return Ok(None),
            }
        }
    }

    /// Where to go on behind what was handed out.
    pub fn cursor(&self) -> String {
        self.scope.write(&self.place)
    }

    fn name_of(&self, instance: InstanceNumber) -> Option<InstanceId> {
        let known = self.instances.borrow();
        known.iter().find(|(number, _)| *number == instance).map(|(_, name)| name.clone())
    }
}
