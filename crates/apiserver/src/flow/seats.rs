//! Who runs and who waits: seats shared out among priority levels, and within a level fairly among flows.
//!
//! A pure structure: no clock, no task, no metric. Each level keeps `min` seats for itself; what others do not use beyond
//! that it may borrow up to `max`. So however much one level is asked for, another gets its `min` at once, and all together
//! never run more than the total. Within a level, flows are dealt to a few of its queues each (shuffle sharding), and the
//! queue that has had the least service goes first. KEP-1040 describes both; unlike upstream, seats are lent for one request
//! at a time and not for ten seconds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What a request is taken to cost until it is known, in microseconds of a seat.
const ESTIMATE: i64 = 1_000;

/// What a level may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LevelLimits {
    /// Whether its requests always run, and count for nothing.
    pub(crate) exempt: bool,
    /// Its seats when everybody wants theirs. At least 1.
    pub(crate) nominal: u32,
    /// Seats that it never lends.
    pub(crate) min: u32,
    /// Seats that it may have at most.
    pub(crate) max: u32,
    /// Where its requests wait; `None` where they are refused instead.
    pub(crate) queuing: Option<Queuing>,
}

/// The queues of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queuing {
    /// How many.
    pub(crate) queues: usize,
    /// How many of them one flow may use.
    pub(crate) hand: usize,
    /// How many requests may wait in one.
    pub(crate) length_max: usize,
}

/// What becomes of a request that arrives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It runs.
    Runs(Place),
    /// It waits; its waiter will be handed a place.
    Waits(Place, u64),
    /// It is refused, for upstream's reason.
    Refused(&'static str),
}

/// A level and a queue of it: what a request that runs or waits gives back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) level: Arc<str>,
    pub(crate) queue: usize,
}

/// All levels. `W` is told that its request may run.
#[derive(Debug)]
pub(crate) struct Seats<W> {
    total: u32,
    levels: BTreeMap<Arc<str>, Level<W>>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Level<W> {
    limits: LevelLimits,
    running: u32,
    waiting: u32,
    /// The service that the queue which was served last had had: where idle queues begin again.
    served: i64,
    queues: Vec<Queue<W>>,
    /// Not in the configuration any more; kept until its last request has ended.
    gone: bool,
}

#[derive(Debug)]
struct Queue<W> {
    waiting: VecDeque<(u64, W)>,
    running: u32,
    /// Service had, in microseconds of a seat.
    served: i64,
}

impl<W> Seats<W> {
    /// `total` seats for all levels together.
    pub(crate) fn new(total: u32) -> Self {
        Self { total, levels: BTreeMap::new(), next_ticket: 0 }
    }

    /// Takes over a new configuration. What runs and waits goes on; gives those that may run now.
    pub(crate) fn configure(&mut self, levels: &BTreeMap<Arc<str>, LevelLimits>) -> Vec<(Place, W)> {
        for (name, level) in &mut self.levels {
            level.gone = !levels.contains_key(name);
        }
        for (name, limits) in levels {
            let level = self.levels.entry(name.clone()).or_insert_with(|| Level::new(limits.clone()));
            // Queues never become fewer, so that places stay valid; a smaller deal uses the first ones.
            let queues = limits.queuing.map_or(1, |queuing| queuing.queues.max(1));
            while level.queues.len() < queues {
                level.queues.push(Queue::new());
            }
            level.limits = limits.clone();
        }
        self.levels.retain(|_, level| !level.gone || level.running + level.waiting > 0);
        self.dispatch()
    }

    /// A request of a flow arrives. `waiter` is called only where it must wait.
    pub(crate) fn arrive(&mut self, level: &Arc<str>, flow: u64, waiter: impl FnOnce() -> W) -> Arrival {
        let free = self.has_seat(level);
        let Some(state) = self.levels.get_mut(level) else { return Arrival::Refused("concurrency-limit") };
        let queue = state.choose(flow);
        let place = Place { level: level.clone(), queue };
        if state.limits.exempt || (free && state.waiting == 0) {
            state.start(queue);
            return Arrival::Runs(place);
        }
        let Some(queuing) = state.limits.queuing else { return Arrival::Refused("concurrency-limit") };
        if state.queues[queue].waiting.len() >= queuing.length_max {
            return Arrival::Refused("queue-full");
        }
        self.next_ticket += 1;
        state.enqueue(queue, self.next_ticket, waiter());
        Arrival::Waits(place, self.next_ticket)
    }

    /// A request that ran has ended, after so many microseconds. Gives those that may run now.
    pub(crate) fn leave(&mut self, place: &Place, micros: i64) -> Vec<(Place, W)> {
        let Some(level) = self.levels.get_mut(&place.level) else { return Vec::new() };
        level.running -= 1;
        let queue = &mut level.queues[place.queue];
        queue.running -= 1;
        queue.served += micros - ESTIMATE;
        if level.gone && level.running + level.waiting == 0 {
            self.levels.remove(&place.level);
        }
        self.dispatch()
    }

    /// A request waits no longer. Whether it was still waiting: if not, its waiter has a place that it must give back.
    pub(crate) fn give_up(&mut self, place: &Place, ticket: u64) -> bool {
        let Some(level) = self.levels.get_mut(&place.level) else { return false };
        let queue = &mut level.queues[place.queue].waiting;
        let Some(at) = queue.iter().position(|(waiting, _)| *waiting == ticket) else { return false };
        queue.remove(at);
        level.waiting -= 1;
        true
    }

    /// How many requests of a level run and wait.
    #[cfg(test)]
    fn counts(&self, level: &str) -> (u32, u32) {
        self.levels.get(level).map_or((0, 0), |level| (level.running, level.waiting))
    }

    /// Whether one more request of a level may run: on a seat that the level never lends, or on one that nobody has and
    /// nobody keeps.
    fn has_seat(&self, name: &Arc<str>) -> bool {
        let Some(level) = self.levels.get(name) else { return false };
        if level.running < level.limits.min {
            return true;
        }
        let limited = || self.levels.values().filter(|level| !level.limits.exempt);
        let taken: u32 = limited().map(|other| other.running.max(other.limits.min)).sum();
        level.running < level.limits.max && taken < self.total
    }

    /// Lets those run that there are seats for: levels first that have the least of what is theirs.
    fn dispatch(&mut self) -> Vec<(Place, W)> {
        let mut started = Vec::new();
        loop {
            let ready = self.levels.iter().filter(|(name, level)| level.waiting > 0 && self.has_seat(name));
            let share = |level: &Level<W>| u64::from(level.running) * 1_000 / u64::from(level.limits.nominal.max(1));
            let Some(name) = ready.min_by_key(|(_, level)| share(level)).map(|(name, _)| name.clone()) else {
                return started;
            };
            let next = self.levels.get_mut(&name).and_then(Level::start_next);
            let (queue, waiter) = next.expect("a level with somebody waiting has a queue that is not empty");
            started.push((Place { level: name, queue }, waiter));
        }
    }
}

impl<W> Level<W> {
    fn new(limits: LevelLimits) -> Self {
        Self { limits, running: 0, waiting: 0, served: 0, queues: Vec::new(), gone: false }
    }

    /// The shortest of the queues that are dealt to a flow.
    fn choose(&self, flow: u64) -> usize {
        let Some(Queuing { queues, hand, .. }) = self.limits.queuing else { return 0 };
        let load = |queue: &usize| {
            let queue = &self.queues[*queue];
            (queue.waiting.len() + queue.running as usize, queue.served)
        };
        deal(flow, queues.max(1), hand.max(1)).into_iter().min_by_key(load).unwrap_or(0)
    }

    fn start(&mut self, queue: usize) {
        self.wake(queue);
        let queue = &mut self.queues[queue];
        self.served = self.served.max(queue.served);
        queue.served += ESTIMATE;
        queue.running += 1;
        self.running += 1;
    }

    fn enqueue(&mut self, queue: usize, ticket: u64, waiter: W) {
        self.wake(queue);
        self.queues[queue].waiting.push_back((ticket, waiter));
        self.waiting += 1;
    }

    /// A queue that did nothing for a while has no claim on what it did not use.
    fn wake(&mut self, queue: usize) {
        let queue = &mut self.queues[queue];
        if queue.running == 0 && queue.waiting.is_empty() {
            queue.served = queue.served.max(self.served);
        }
    }

    /// Starts the first request of the queue that has had the least service.
    fn start_next(&mut self) -> Option<(usize, W)> {
        let waiting = self.queues.iter().enumerate().filter(|(_, queue)| !queue.waiting.is_empty());
        let (next, _) = waiting.min_by_key(|(_, queue)| queue.served)?;
        let (_, waiter) = self.queues[next].waiting.pop_front()?;
        self.waiting -= 1;
        let queue = &mut self.queues[next];
        self.served = self.served.max(queue.served);
        queue.served += ESTIMATE;
        queue.running += 1;
        self.running += 1;
        Some((next, waiter))
    }
}

impl<W> Queue<W> {
    fn new() -> Self {
        Self { waiting: VecDeque::new(), running: 0, served: 0 }
    }
}

/// `hand` different queues of `queues`, always the same for the same flow: two flows rarely share all of theirs.
fn deal(flow: u64, queues: usize, hand: usize) -> Vec<usize> {
    let (mut rest, mut dealt) = (flow, Vec::with_capacity(hand.min(queues)));
    for round in 0..hand.min(queues) {
        let among = (queues - round) as u64;
        // The n-th of the queues that are not dealt yet.
        let mut card = usize::try_from(rest % among).unwrap_or_default();
        rest /= among;
        let mut sorted: Vec<usize> = dealt.clone();
        sorted.sort_unstable();
        for earlier in sorted {
            card += usize::from(earlier <= card);
        }
        dealt.push(card);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(nominal: u32, min: u32, queuing: Option<Queuing>) -> LevelLimits {
        LevelLimits { exempt: false, nominal, min, max: 100, queuing }
    }

    const QUEUING: Option<Queuing> = Some(Queuing { queues: 16, hand: 4, length_max: 5 });

    fn seats(levels: &[(&str, LevelLimits)]) -> Seats<u64> {
        let mut seats = Seats::new(10);
        let levels = levels.iter().map(|(name, limits)| (Arc::from(*name), limits.clone())).collect();
        assert!(seats.configure(&levels).is_empty());
        seats
    }

    fn runs(arrival: Arrival) -> Place {
        match arrival {
            Arrival::Runs(place) => place,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_greedy_level_borrows_but_never_what_others_keep() {
        let mut seats = seats(&[("low", limits(5, 1, QUEUING)), ("high", limits(5, 3, QUEUING))]);
        let (low, high): (Arc<str>, Arc<str>) = ("low".into(), "high".into());
        let places: Vec<_> = (0..7).map(|flow| runs(seats.arrive(&low, flow, || 0))).collect();
        assert!(matches!(seats.arrive(&low, 9, || 9), Arrival::Waits(..)), "three seats are kept for the others");
        for flow in 0..3 {
            runs(seats.arrive(&high, flow, || 0));
        }
        assert!(matches!(seats.arrive(&high, 5, || 5), Arrival::Waits(..)));
        // Who has less of what is theirs goes first: high has 3 of 5, low 6 of 5.
        let started = seats.leave(&places[0], 10);
        assert_eq!(started.iter().map(|(place, waiter)| (&*place.level, *waiter)).collect::<Vec<_>>(), [("high", 5)]);
        assert_eq!((seats.counts("low"), seats.counts("high")), ((6, 1), (4, 0)));
    }

    #[test]
    fn a_greedy_flow_waits_for_itself() {
        let mut seats = seats(&[("only", limits(10, 10, Some(Queuing { queues: 64, hand: 4, length_max: 50 })))]);
        let only: Arc<str> = "only".into();
        let mut running: Vec<_> = (0..10).map(|_| runs(seats.arrive(&only, 1, || 0))).collect();
        // A hundred more requests of flow 1, then one of flow 987654.
        for n in 0..100 {
            assert!(matches!(seats.arrive(&only, 1, || n), Arrival::Waits(..)));
        }
        assert!(matches!(seats.arrive(&only, 987_654, || 1_000), Arrival::Waits(..)));
        let mut before = 0;
        loop {
            let place = running.remove(0);
            let started = seats.leave(&place, 5_000);
            if started.iter().any(|(_, waiter)| *waiter == 1_000) {
                break;
            }
            before += 1;
            running.extend(started.into_iter().map(|(place, _)| place));
        }
        assert!(before <= 4, "the modest flow waited for {before} of the greedy one's 100");
    }

    #[test]
    fn queues_are_bounded_and_left_in_order() {
        let mut seats = seats(&[("only", limits(1, 1, Some(Queuing { queues: 1, hand: 1, length_max: 2 })))]);
        seats.total = 1;
        let only: Arc<str> = "only".into();
        let first = runs(seats.arrive(&only, 1, || 0));
        let Arrival::Waits(place, ticket) = seats.arrive(&only, 1, || 1) else { panic!() };
        assert!(matches!(seats.arrive(&only, 1, || 2), Arrival::Waits(..)));
        assert_eq!(seats.arrive(&only, 1, || 3), Arrival::Refused("queue-full"));
        assert!(seats.give_up(&place, ticket));
        assert!(!seats.give_up(&place, ticket));
        let started = seats.leave(&first, 0);
        assert_eq!(started.iter().map(|(_, waiter)| *waiter).collect::<Vec<_>>(), [2]);
        assert!(!seats.give_up(&place, ticket + 1), "it runs already");
    }

    #[test]
    fn levels_that_do_not_queue_refuse_and_exempt_ones_never_do() {
        let mut seats = seats(&[
            ("no-queue", LevelLimits { max: 1, ..limits(1, 1, None) }),
            ("exempt", LevelLimits { exempt: true, ..limits(0, 0, None) }),
        ]);
        let (no_queue, exempt): (Arc<str>, Arc<str>) = ("no-queue".into(), "exempt".into());
        let place = runs(seats.arrive(&no_queue, 1, || 0));
        assert_eq!(seats.arrive(&no_queue, 1, || 0), Arrival::Refused("concurrency-limit"));
        for _ in 0..100 {
            runs(seats.arrive(&exempt, 1, || 0));
        }
        // A level that is taken out of the configuration lives until its last request ends.
        seats.configure(&BTreeMap::new());
        assert_eq!(seats.counts("no-queue"), (1, 0));
        seats.leave(&place, 0);
        assert!(!seats.levels.contains_key("no-queue"));
    }

    #[test]
    fn hands_are_distinct_and_stable() {
        for flow in [0, 7, u64::MAX, 0x1234_5678_9abc_def0] {
            let mut hand = deal(flow, 16, 6);
            assert_eq!(hand, deal(flow, 16, 6));
            hand.sort_unstable();
            hand.dedup();
            assert_eq!(hand.len(), 6);
            assert!(hand.iter().all(|queue| *queue < 16));
        }
    }
}
