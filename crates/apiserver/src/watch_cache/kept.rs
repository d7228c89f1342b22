//! Lists that are asked for again while nothing changes, as when all clients of a resource come back together: their items,
//! joined as they are sent, are kept from the second time on and shared by all answers.
//!
//! Only large lists, since joining a small one costs little. They go when their resource has changed, when others need the
//! room, and when nobody has asked for a minute or two.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::{POISON, ResourceCache};

/// Smaller lists are not kept.
const LIST_MIN: usize = 256 << 10;
/// Larger ones neither.
const LIST_MAX: usize = 8 << 20;
/// All that are kept together.
const BYTES_MAX: usize = 16 << 20;
/// Lists of which is known that they were asked for.
const LISTS_MAX: usize = 64;

/// Which list: all objects of a resource, or those of a namespace, since a revision at which it changed last.
#[derive(Debug, Clone)]
pub struct ListOf {
    /// The resource.
    pub cache: Arc<ResourceCache>,
    /// The namespace; all of them where there is none.
    pub namespace: Option<Arc<str>>,
    /// When the resource last changed.
    pub changed: u64,
}

impl ListOf {
    fn same_place(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.cache, &other.cache) && self.namespace == other.namespace
    }
}

/// A list's items, with what stands between them.
#[derive(Debug, Clone)]
pub struct Joined {
    /// In order.
    pub pieces: Arc<[Bytes]>,
    /// How long they are together.
    pub length: usize,
}

#[derive(Debug)]
enum State {
    /// It was asked for.
    Asked,
    /// Somebody keeps it while it is sent.
    Being,
    Kept(Joined),
}

#[derive(Debug)]
struct List {
    of: ListOf,
    state: State,
    used: bool,
}

/// The lists that are kept, the last used last.
#[derive(Debug, Default)]
pub struct KeptLists(Mutex<Vec<List>>);

impl KeptLists {
    /// A list that is kept.
    pub fn find(&self, of: &ListOf) -> Option<Joined> {
        let mut lists = self.lists();
        let at = lists.iter().position(|list| list.of.same_place(of) && list.of.changed == of.changed)?;
        let State::Kept(joined) = &lists[at].state else { return None };
        let joined = joined.clone();
        let mut list = lists.remove(at);
        list.used = true;
        lists.push(list);
        Some(joined)
    }

    /// Notes that a list of this length was asked for. Where that is not the first time, gives what keeps it.
    pub fn asked(self: &Arc<Self>, of: ListOf, length: usize) -> Option<Keeping> {
        if !(LIST_MIN..=LIST_MAX).contains(&length) {
            return None;
        }
        let mut lists = self.lists();
        if let Some(at) = lists.iter().position(|list| list.of.same_place(&of)) {
            let list = &mut lists[at];
            if list.of.changed == of.changed {
                let first = matches!(list.state, State::Asked);
                if first {
                    (list.state, list.used) = (State::Being, true);
                }
                return first.then(|| Keeping { kept: self.clone(), of, pieces: Vec::new(), length: 0, done: false });
            }
            lists.remove(at);
        }
        if lists.len() == LISTS_MAX {
            lists.remove(0);
        }
        lists.push(List { of, state: State::Asked, used: true });
        None
    }

    /// Lets go of what nobody has asked for since it last was called.
    pub(crate) fn age(&self) {
        self.lists().retain_mut(|list| std::mem::take(&mut list.used));
    }

    fn put(&self, of: &ListOf, state: State) {
        let mut lists = self.lists();
        let Some(at) = lists.iter().position(|list| list.of.same_place(of) && list.of.changed == of.changed) else {
            return;
        };
        lists[at].state = state;
        let bytes = |list: &List| if let State::Kept(joined) = &list.state { joined.length } else { 0 };
        while lists.iter().map(bytes).sum::<usize>() > BYTES_MAX {
            lists.remove(0);
        }
    }

    fn lists(&self) -> MutexGuard<'_, Vec<List>> {
        self.0.lock().expect(POISON)
    }
}

/// Keeps a list while it is sent for the first time. One that is not sent to its end is not kept.
#[derive(Debug)]
pub struct Keeping {
    kept: Arc<KeptLists>,
    of: ListOf,
    pieces: Vec<Bytes>,
    length: usize,
    done: bool,
}

impl Keeping {
    /// The next piece.
    pub fn piece(&mut self, piece: &Bytes) {
        self.length += piece.len();
        self.pieces.push(piece.clone());
    }

    /// There are no more.
    pub fn end(mut self) {
        self.done = true;
        let joined = Joined { pieces: std::mem::take(&mut self.pieces).into(), length: self.length };
        self.kept.put(&self.of, State::Kept(joined));
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        if !self.done {
            self.kept.put(&self.of, State::Asked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cache: &Arc<ResourceCache>, namespace: &str, changed: u64) -> ListOf {
        ListOf { cache: cache.clone(), namespace: Some(namespace.into()), changed }
    }

    fn config_maps() -> Arc<ResourceCache> {
        Arc::new(ResourceCache::new(api::resources::CONFIG_MAPS.into()))
    }

    /// Sends a list in two pieces, and says whether it is kept now.
    fn send(kept: &Arc<KeptLists>, of: &ListOf, length: usize) -> bool {
        if let Some(mut keeping) = kept.asked(of.clone(), length) {
            let piece = Bytes::from(vec![0; length / 2]);
            keeping.piece(&piece);
            keeping.piece(&piece);
            keeping.end();
        }
        kept.find(of).is_some()
    }

    #[test]
    fn a_list_is_kept_from_the_second_time_on_until_it_changes_or_is_not_used() {
        let (kept, cache) = (Arc::new(KeptLists::default()), config_maps());
        let first = of(&cache, "a", 7);
        assert_eq!((send(&kept, &first, LIST_MIN), send(&kept, &first, LIST_MIN)), (false, true));
        let joined = kept.find(&first).unwrap();
        assert_eq!((joined.pieces.len(), joined.length), (2, LIST_MIN));
        for other in [of(&cache, "b", 7), of(&cache, "a", 8), of(&config_maps(), "a", 7)] {
            assert!(kept.find(&other).is_none(), "{other:?}");
        }
        let changed = of(&cache, "a", 8);
        assert_eq!((send(&kept, &changed, LIST_MIN), send(&kept, &changed, LIST_MIN)), (false, true));
        assert!(kept.find(&first).is_none(), "what was before is let go of");
        kept.age();
        assert!(kept.find(&changed).is_some());
        kept.age();
        kept.age();
        assert!(kept.find(&changed).is_none());
    }

    #[test]
    fn what_is_not_sent_to_its_end_is_not_kept() {
        let (kept, cache) = (Arc::new(KeptLists::default()), config_maps());
        let list = of(&cache, "a", 7);
        assert!(kept.asked(list.clone(), LIST_MIN).is_none());
        let mut keeping = kept.asked(list.clone(), LIST_MIN).unwrap();
        keeping.piece(&Bytes::from_static(b"[1,"));
        assert!(kept.asked(list.clone(), LIST_MIN).is_none(), "one keeps it");
        drop(keeping);
        assert!(kept.find(&list).is_none());
        assert!(send(&kept, &list, LIST_MIN), "the next keeps it");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (kept, cache) = (Arc::new(KeptLists::default()), config_maps());
        for length in [LIST_MIN - 1, LIST_MAX + 1] {
            let list = of(&cache, "size", 7);
            assert_eq!((send(&kept, &list, length), send(&kept, &list, length)), (false, false));
        }
        for at in 0..2 * LISTS_MAX {
            send(&kept, &of(&cache, &format!("asked-{at}"), 7), LIST_MAX);
        }
        assert_eq!(kept.lists().len(), LISTS_MAX);
        for at in 0..4 {
            let list = of(&cache, &format!("kept-{at}"), 7);
            send(&kept, &list, LIST_MAX);
            assert!(send(&kept, &list, LIST_MAX));
        }
        let bytes: usize =
            (0..4).filter_map(|at| kept.find(&of(&cache, &format!("kept-{at}"), 7))).map(|it| it.length).sum();
        assert_eq!(bytes, BYTES_MAX, "the last two");
    }
}
