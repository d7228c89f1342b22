//! Elements of nftables sets before and after, and the changes that lead from one to the other. Pure.

use std::collections::{BTreeMap, BTreeSet};

use linux::net::nft::{Change, Elements, Set, Value};

/// The number of a set in a list of sets, and the element's key.
pub(crate) type Key = (usize, Vec<u8>);

/// What each element was and what it is to be.
pub(crate) type Difference = BTreeMap<Key, (Option<Value>, Option<Value>)>;

/// The difference between two states.
pub(crate) fn between(before: &BTreeMap<Key, Value>, after: &BTreeMap<Key, Value>) -> Difference {
    let mut difference = Difference::new();
    for (key, value) in before.iter().filter(|(key, value)| after.get(*key) != Some(value)) {
        difference.insert(key.clone(), (Some(value.clone()), after.get(key).cloned()));
    }
    for (key, value) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
        difference.insert(key.clone(), (None, Some(value.clone())));
    }
    difference
}

/// The changes that carry a difference out: what goes first, since an element's value is not changed in place.
pub(crate) fn changes(difference: Difference, sets: &[&Set]) -> Vec<Change> {
    let mut removed: BTreeMap<usize, BTreeSet<Vec<u8>>> = BTreeMap::new();
    let mut added: BTreeMap<usize, Elements> = BTreeMap::new();
    for ((set, key), (before, after)) in difference {
        if before == after {
            continue;
        }
        if before.is_some() {
            removed.entry(set).or_default().insert(key.clone());
        }
        if let Some(value) = after {
            added.entry(set).or_default().insert(key, value);
        }
    }
    let remove = |(set, keys): (usize, _)| Change::RemoveElements { set: sets[set].clone(), keys };
    let add = |(set, elements): (usize, _)| Change::AddElements { set: sets[set].clone(), elements };
    removed.into_iter().map(remove).chain(added.into_iter().map(add)).collect()
}

/// The keys whose values differ, each with what it is to be.
pub(crate) fn of_one(before: &BTreeMap<Key, Value>, after: &BTreeMap<Key, Value>) -> Vec<(Key, Option<Value>)> {
    between(before, after).into_iter().map(|(key, (_, after))| (key, after)).collect()
}
