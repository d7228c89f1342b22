//! One watch: the objects at its start, what has happened since, then each change as it comes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::sync::mpsc;
use tokio::time::Sleep;

use super::watchers::{Delivery, Pace, Place, QUEUE_MAX, Watcher, Watchers};
use super::{Change, Entry, EventKind, Expired, Filter, ResourceCache, Snapshot};

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With an `ADDED` event for every object there is, and then a bookmark that says so if `bookmark`.
    State {
        /// Whether the end of the initial events is marked.
        bookmark: bool,
    },
    /// With the first change after this revision.
    After(u64),
}

/// What a watch yields.
#[derive(Debug)]
pub enum WatchEvent {
    /// An object that was there when the watch began.
    Initial(Entry),
    /// A change, and what it is to this watcher.
    Change(EventKind, Arc<Change>),
    /// Everything up to this revision has been seen.
    Bookmark {
        /// The revision.
        revision: u64,
        /// Whether this ends the initial events.
        initial_events_end: bool,
    },
    /// The watcher fell behind what is remembered: it must list again. Nothing follows.
    Expired(Expired),
}

/// A watcher's place in the resource's cache; unhooked when dropped.
pub(crate) struct Hook {
    cache: Arc<ResourceCache>,
    filter: Arc<Filter>,
    place: Place,
    pace: Pace,
    bookmarks: bool,
    id: u64,
    queue: mpsc::Receiver<Delivery>,
}

impl Hook {
    pub(crate) fn new(
        cache: Arc<ResourceCache>,
        filter: Arc<Filter>,
        pace: Pace,
        bookmarks: bool,
        watchers: &mut Watchers,
        from_sequence: u64,
    ) -> Self {
        let place = filter.place(cache.resource());
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let id = watchers.new_id();
        let watcher = Watcher { id, filter: filter.clone(), from_sequence, bookmarks, queue: sender };
        watchers.add(pace, place.clone(), watcher);
        Self { cache, filter, place, pace, bookmarks, id, queue }
    }

    pub(crate) fn backlog<'a>(&self, changes: impl Iterator<Item = &'a Arc<Change>>) -> VecDeque<Delivery> {
        let seen = |change: &Arc<Change>| self.filter.kind(change).map(|kind| Delivery::Change(kind, change.clone()));
        changes.filter_map(seen).collect()
    }

    /// Takes up again after the queue was full; gives what was missed.
    fn again(&mut self, sequence: u64) -> Option<VecDeque<Delivery>> {
        let (mut watchers, missed, from_sequence) = self.cache.catch_up(sequence)?;
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let id = watchers.new_id();
        let watcher =
            Watcher { id, filter: self.filter.clone(), from_sequence, bookmarks: self.bookmarks, queue: sender };
        watchers.add(self.pace, self.place.clone(), watcher);
        drop(watchers);
        let backlog = self.backlog(missed.iter());
        (self.id, self.queue) = (id, queue);
        Some(backlog)
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.cache.unhook(self.pace, &self.place, self.id);
    }
}

/// A running watch. Ends after its time, with a bookmark where those are wanted.
pub struct Watching {
    hook: Hook,
    initial: VecDeque<Entry>,
    /// The bookmark that ends the initial events is still to be sent.
    initial_end_due: bool,
    backlog: VecDeque<Delivery>,
    /// Everything up to here has been yielded.
    revision: u64,
    /// The first change that has not been yielded or passed over.
    sequence: u64,
    deadline: Pin<Box<Sleep>>,
    ended: bool,
}

impl Watching {
    pub(crate) fn new(
        hook: Hook,
        snapshot: Option<&Snapshot>,
        start: Start,
        backlog: VecDeque<Delivery>,
        (revision, sequence): (u64, u64),
        lasting: Duration,
    ) -> Self {
        let matching = |entry: &&Entry| hook.filter.matches(&entry.object);
        let initial: VecDeque<Entry> = snapshot
            .iter()
            .flat_map(|snapshot| snapshot.entries(hook.filter.namespace.as_deref()))
            .filter(matching)
            .cloned()
            .collect();
        Self {
            hook,
            initial,
            initial_end_due: start == Start::State { bookmark: true },
            backlog,
            revision,
            sequence,
            deadline: Box::pin(tokio::time::sleep(lasting)),
            ended: false,
        }
    }

    fn deliver(&mut self, delivery: Delivery) -> WatchEvent {
        match delivery {
            Delivery::Change(kind, change) => {
                self.revision = change.revision;
                self.sequence = change.sequence + 1;
                WatchEvent::Change(kind, change)
            }
            Delivery::Bookmark(revision) => {
                self.revision = revision;
                WatchEvent::Bookmark { revision, initial_events_end: false }
            }
        }
    }

    fn finish(&mut self) -> Option<WatchEvent> {
        self.ended = true;
        let bookmark = WatchEvent::Bookmark { revision: self.revision, initial_events_end: false };
        self.hook.bookmarks.then_some(bookmark)
    }
}

impl Stream for Watching {
    type Item = WatchEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WatchEvent>> {
        let this = self.get_mut();
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            if let Some(entry) = this.initial.pop_front() {
                if this.initial.is_empty() {
                    this.initial = VecDeque::new();
                }
                return Poll::Ready(Some(WatchEvent::Initial(entry)));
            }
            if std::mem::take(&mut this.initial_end_due) {
                return Poll::Ready(Some(WatchEvent::Bookmark { revision: this.revision, initial_events_end: true }));
            }
            if let Some(delivery) = this.backlog.pop_front() {
                return Poll::Ready(Some(this.deliver(delivery)));
            }
            match this.hook.queue.poll_recv(context) {
                Poll::Ready(Some(delivery)) => return Poll::Ready(Some(this.deliver(delivery))),
                Poll::Ready(None) => match this.hook.again(this.sequence) {
                    Some(backlog) => this.backlog = backlog,
                    None if this.hook.cache.is_closed() => return Poll::Ready(this.finish()),
                    None => {
                        this.ended = true;
                        let oldest = this.hook.cache.oldest();
                        return Poll::Ready(Some(WatchEvent::Expired(Expired { asked: this.revision, oldest })));
                    }
                },
                Poll::Pending => {
                    std::task::ready!(this.deadline.as_mut().poll(context));
                    return Poll::Ready(this.finish());
                }
            }
        }
    }
}
