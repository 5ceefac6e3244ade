//! Metrics that register themselves: each type can be created only together with its entry in a [`Registry`].

use std::time::Duration;

use prometheus_client::metrics::counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram;
use prometheus_client::registry::{Registry, Unit};

/// Label names with their values.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// From a tenth of a millisecond to a minute and a half, by a factor of about two and a half.
const SECONDS_BUCKETS: [f64; 15] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 90.0];

/// From one to a thousand.
const COUNT_BUCKETS: [f64; 7] = [1.0, 4.0, 16.0, 64.0, 256.0, 512.0, 1024.0];

/// A registered counter with `N` labels.
#[derive(Debug)]
pub(crate) struct Counter<const N: usize> {
    labels: [&'static str; N],
    family: Family<Labels, counter::Counter>,
}

impl<const N: usize> Counter<N> {
    pub fn register(
        registry: &mut Registry,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
    ) -> Self {
        let family = Family::default();
        registry.register(name, help, family.clone());
        Self { labels, family }
    }

    /// Counts one; `values` are the values of the labels in the order of registration.
    pub fn increment(&self, values: [&str; N]) {
        self.add(values, 1);
    }

    pub fn add(&self, values: [&str; N], count: u64) {
        let labels = self.labels.into_iter().zip(values.map(str::to_owned)).collect();
        self.family.get_or_create(&labels).inc_by(count);
    }
}

/// A registered histogram of durations; its name gets the suffix `_seconds`.
#[derive(Debug)]
pub(crate) struct Seconds(histogram::Histogram);

impl Seconds {
    pub fn register(registry: &mut Registry, name: &'static str, help: &'static str) -> Self {
        let histogram = histogram::Histogram::new(SECONDS_BUCKETS);
        registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        Self(histogram)
    }

    pub fn observe(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }
}

/// A registered histogram of counts.
#[derive(Debug)]
pub(crate) struct Counts(histogram::Histogram);

impl Counts {
    pub fn register(registry: &mut Registry, name: &'static str, help: &'static str) -> Self {
        let histogram = histogram::Histogram::new(COUNT_BUCKETS);
        registry.register(name, help, histogram.clone());
        Self(histogram)
    }

    pub fn observe(&self, count: usize) {
        self.0.observe(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    }
}
