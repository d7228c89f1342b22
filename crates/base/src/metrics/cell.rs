//! What one series holds.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::Text;

/// A value that is counted into.
pub trait Cell: Send + Sync + 'static {
    /// The family's type in the text format.
    const KIND: &'static str;
    /// Nothing counted yet.
    fn new(buckets: &'static [f64]) -> Self;
    /// Writes its samples.
    fn write(&self, name: &str, labels: &[(&str, &str)], text: &mut Text);
}

/// Only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Cell for Counter {
    const KIND: &'static str = "counter";

    fn new(_: &'static [f64]) -> Self {
        Self::default()
    }

    fn write(&self, name: &str, labels: &[(&str, &str)], text: &mut Text) {
        text.sample(name, labels, self.get() as f64);
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Changes it.
    pub fn add(&self, by: i64) {
        self.0.fetch_add(by, Relaxed);
    }

    /// Sets it.
    pub fn set(&self, to: i64) {
        self.0.store(to, Relaxed);
    }

    /// The value.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }

    /// One more for as long as what is returned lives.
    pub fn hold(&self) -> Held<'_> {
        self.add(1);
        Held(self)
    }
}

/// One of a gauge's count.
#[derive(Debug)]
pub struct Held<'a>(&'a Gauge);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

impl Cell for Gauge {
    const KIND: &'static str = "gauge";

    fn new(_: &'static [f64]) -> Self {
        Self::default()
    }

    fn write(&self, name: &str, labels: &[(&str, &str)], text: &mut Text) {
        text.sample(name, labels, self.get() as f64);
    }
}

/// How often values fell under which bound.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One for each bound, and one for what is above all; each without those below it.
    counts: Box<[AtomicU64]>,
    /// The bits of a double.
    sum: AtomicU64,
}

impl Histogram {
    /// Counts a duration in, in seconds.
    pub fn observe(&self, took: Duration) {
        self.observe_value(took.as_secs_f64());
    }

    /// Counts a value in.
    pub fn observe_value(&self, value: f64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[bucket].fetch_add(1, Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // The closure always gives a value, so this cannot fail.
        let _ = self.sum.fetch_update(Relaxed, Relaxed, add);
    }

    /// How many values were counted in.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }
}

impl Cell for Histogram {
    const KIND: &'static str = "histogram";

    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0.0_f64.to_bits()) }
    }

    fn write(&self, name: &str, labels: &[(&str, &str)], text: &mut Text) {
        let mut below = 0;
        for (at, count) in self.counts.iter().enumerate() {
            below += count.load(Relaxed);
            let bound = self.bounds.get(at).map_or("+Inf".to_owned(), f64::to_string);
            let labelled: Vec<_> = labels.iter().copied().chain([("le", &*bound)]).collect();
            text.sample(&format!("{name}_bucket"), &labelled, below as f64);
        }
        text.sample(&format!("{name}_sum"), labels, f64::from_bits(self.sum.load(Relaxed)));
        text.sample(&format!("{name}_count"), labels, below as f64);
    }
}
