//! Metrics: what a component counts while it works, in Prometheus' text format when somebody asks.
//!
//! A family is a `static`, and each crate lists its families in a slice `METRICS`; there is no registration. Counting is an
//! atomic addition: no lock, and no allocation but for the first use of a combination of label values. The names are
//! upstream's, so that dashboards and alerts written for Kubernetes work.

mod cell;
mod text;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;

pub use cell::{Cell, Counter, Gauge, Held, Histogram};
pub use text::Text;

/// Something that `/metrics` shows.
pub trait Family: Sync {
    /// Writes all its series.
    fn write(&self, text: &mut Text);
}

/// Counters under `N` labels.
pub type Counters<const N: usize> = Vector<Counter, N>;
/// Gauges under `N` labels.
pub type Gauges<const N: usize> = Vector<Gauge, N>;
/// Histograms under `N` labels.
pub type Histograms<const N: usize> = Vector<Histogram, N>;

/// Places for series unless a family asks for more.
const SLOTS: usize = 256;
/// How far from its place a series may lie. Beyond that the table counts as full, which bounds each look-up.
const PROBES_MAX: usize = 64;
/// The label values of what found no place: the number of series is bounded, whatever the values are made from.
const OVERFLOW: &str = "overflow";

/// One family: a cell for every combination of label values that was used.
pub struct Vector<C, const N: usize> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; N],
    buckets: &'static [f64],
    slots: usize,
    /// Open addressing, filled and never emptied, so that reading needs no lock.
    table: OnceLock<Table<C, N>>,
    overflow: OnceLock<Box<C>>,
}

type Table<C, const N: usize> = Box<[OnceLock<Box<Series<C, N>>>]>;

struct Series<C, const N: usize> {
    values: [Box<str>; N],
    cell: C,
}

impl<const N: usize> Counters<N> {
    /// A family of counters; the name ends in `_total`.
    pub const fn counters(name: &'static str, help: &'static str, labels: [&'static str; N]) -> Self {
        Self::family(name, help, labels, &[])
    }
}

impl<const N: usize> Gauges<N> {
    /// A family of gauges.
    pub const fn gauges(name: &'static str, help: &'static str, labels: [&'static str; N]) -> Self {
        Self::family(name, help, labels, &[])
    }
}

impl<const N: usize> Histograms<N> {
    /// A family of histograms with these upper bounds, ascending; the last bucket, without bound, is added.
    pub const fn histograms(
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
        buckets: &'static [f64],
    ) -> Self {
        Self::family(name, help, labels, buckets)
    }
}

impl<C: Cell, const N: usize> Vector<C, N> {
    const fn family(
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
        buckets: &'static [f64],
    ) -> Self {
        Self { name, help, labels, buckets, slots: SLOTS, table: OnceLock::new(), overflow: OnceLock::new() }
    }

    /// With places for up to about half as many series.
    pub const fn slots(mut self, slots: usize) -> Self {
        self.slots = slots;
        self
    }

    /// The cell under these label values, in the order of the labels. Whoever counts often keeps it.
    pub fn with(&self, values: [&str; N]) -> &C {
        let table = self.table.get_or_init(|| (0..self.slots.max(1)).map(|_| OnceLock::new()).collect());
        let start = hash(&values) as usize % table.len();
        for probe in 0..PROBES_MAX.min(table.len()) {
            let slot = &table[(start + probe) % table.len()];
            // Another thread may fill the slot first, with other values: then the next one is tried.
            let series =
                slot.get_or_init(|| Box::new(Series { values: values.map(Box::from), cell: C::new(self.buckets) }));
            if series.values.iter().zip(&values).all(|(known, value)| **known == **value) {
                return &series.cell;
            }
        }
        self.overflow.get_or_init(|| Box::new(C::new(self.buckets)))
    }
}

impl<C: Cell, const N: usize> Family for Vector<C, N> {
    fn write(&self, text: &mut Text) {
        let filled = self.table.get().into_iter().flatten().filter_map(OnceLock::get);
        let mut series: Vec<([&str; N], &C)> =
            filled.map(|series| (std::array::from_fn(|at| &*series.values[at]), &series.cell)).collect();
        series.extend(self.overflow.get().map(|cell| ([OVERFLOW; N], &**cell)));
        if series.is_empty() {
            return;
        }
        series.sort_by_key(|(values, _)| *values);
        text.family(self.name, self.help, C::KIND);
        for (values, cell) in series {
            let labels: [(&str, &str); N] = std::array::from_fn(|at| (self.labels[at], values[at]));
            cell.write(self.name, &labels, text);
        }
    }
}

fn hash<const N: usize>(values: &[&str; N]) -> u64 {
    let mut hasher = DefaultHasher::new();
    values.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shown(families: &[&dyn Family]) -> String {
        let mut text = Text::default();
        families.iter().for_each(|family| family.write(&mut text));
        text.into_string()
    }

    #[test]
    fn families_are_written_as_prometheus_reads_them() {
        let requests = Counters::counters("requests_total", "Requests.", ["verb", "code"]);
        requests.with(["GET", "200"]).add(2);
        requests.with(["GET", "200"]).inc();
        requests.with(["A \"b\"\n", "500"]).inc();
        let running = Gauges::gauges("running", "What\nruns.", []);
        let held = running.with([]).hold();
        running.with([]).add(2);
        drop(held);
        let took = Histograms::histograms("took_seconds", "Time.", ["x"], &[0.1, 1.0]);
        took.with(["y"]).observe(Duration::from_millis(50));
        took.with(["y"]).observe(Duration::from_secs(1));
        took.with(["y"]).observe(Duration::from_secs(9));
        let unused = Counters::counters("unused_total", "Nothing.", ["verb"]);
        let text = shown(&[&requests, &running, &took, &unused]);
        let expected = r#"# HELP requests_total Requests.
# TYPE requests_total counter
requests_total{verb="A \"b\"\n",code="500"} 1
requests_total{verb="GET",code="200"} 3
# HELP running What\nruns.
# TYPE running gauge
running 2
# HELP took_seconds Time.
# TYPE took_seconds histogram
took_seconds_bucket{x="y",le="0.1"} 1
took_seconds_bucket{x="y",le="1"} 2
took_seconds_bucket{x="y",le="+Inf"} 3
took_seconds_sum{x="y"} 10.05
took_seconds_count{x="y"} 3
"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn more_series_than_places_are_counted_together() {
        let many = Counters::counters("many_total", "Many.", ["n"]).slots(8);
        for n in 0..100 {
            many.with([&n.to_string()]).inc();
        }
        let text = shown(&[&many]);
        assert_eq!(text.lines().count(), 2 + 8 + 1, "{text}");
        assert!(text.contains("many_total{n=\"overflow\"} 92"), "{text}");
    }

    #[test]
    fn threads_that_use_a_series_first_at_once_share_it() {
        static SHARED: Counters<1> = Counters::counters("shared_total", "Shared.", ["n"]).slots(16);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..1000 {
                        SHARED.with([&(round % 5).to_string()]).inc();
                    }
                });
            }
        });
        for n in 0..5 {
            assert_eq!(SHARED.with([&n.to_string()]).get(), 800);
        }
    }
}
