//! Lists of JSON that are sets or maps by their schema: their order does not matter, and adding them up unites them.

use super::declared::{ListOf, Merge};
use super::eval::{EvalError, Meter};
use super::functions::shown;
use super::value::{List, Value};

/// Where an item stands in a list.
pub(super) fn position<'a>(list: &List<'a>, item: &Value<'a>, meter: &Meter) -> Result<Option<usize>, EvalError> {
    for (at, known) in list.iter().enumerate() {
        if known?.same(item, meter)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

fn merge<'a>(list: &List<'a>) -> Option<&'a ListOf> {
    match list {
        List::Json(_, Some(of)) if !matches!(of.merge, Merge::Atomic) => Some(of),
        _ => None,
    }
}

/// Whether two lists hold the same; in any order, where the first is a set or a map.
pub(super) fn same<'a>(one: &List<'a>, other: &List<'a>, meter: &Meter) -> Result<bool, EvalError> {
    if one.len() != other.len() {
        return Ok(false);
    }
    match merge(one) {
        None => {
            for at in 0..one.len() {
                if !one.get(at)?.same(&other.get(at)?, meter)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Some(of) => {
            meter.steps(2 * one.len())?;
            let known = Index::of(one, of)?;
            for item in other.iter() {
                let item = item?;
                let found = known.find(&item)?;
                let Some(at) = found else { return Ok(false) };
                if matches!(of.merge, Merge::Map(_)) && !one.get(at)?.same(&item, meter)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
    }
}

/// What `one + other` is where the first is a set or a map: what is known already stays in its place, replaced in a map.
pub(super) fn union<'a>(one: &List<'a>, other: &List<'a>) -> Result<Option<Vec<Value<'a>>>, EvalError> {
    let Some(of) = merge(one) else { return Ok(None) };
    let mut items = one.to_vec()?;
    let mut known = Index::of(one, of)?;
    for item in other.iter() {
        let item = item?;
        match known.find(&item)? {
            Some(at) if matches!(of.merge, Merge::Map(_)) => items[at] = item,
            Some(_) => {}
            None => {
                known.add(&item, items.len())?;
                items.push(item);
            }
        }
    }
    Ok(Some(items))
}

/// Where the elements of a set or a map stand, by what tells them apart.
struct Index<'a> {
    of: &'a ListOf,
    known: std::collections::HashMap<String, usize>,
}

impl<'a> Index<'a> {
    fn of(list: &List<'a>, of: &'a ListOf) -> Result<Self, EvalError> {
        let mut index = Self { of, known: std::collections::HashMap::with_capacity(list.len()) };
        for (at, item) in list.iter().enumerate() {
            index.add(&item?, at)?;
        }
        Ok(index)
    }

    fn key(&self, item: &Value<'a>) -> Result<String, EvalError> {
        let part = |value: &Value<'a>| format!("{}:{};", value.type_name(), shown(value));
        match (&self.of.merge, item) {
            (Merge::Map(keys), Value::Map(table)) => {
                let mut key = String::new();
                for name in keys {
                    let said = super::escape::escape(name).unwrap_or_default();
                    key.push_str(&table.field(&said)?.map_or_else(|| "-;".to_owned(), |value| part(&value)));
                }
                Ok(key)
            }
            (_, item) => Ok(part(item)),
        }
    }

    fn find(&self, item: &Value<'a>) -> Result<Option<usize>, EvalError> {
        Ok(self.known.get(&self.key(item)?).copied())
    }

    fn add(&mut self, item: &Value<'a>, at: usize) -> Result<(), EvalError> {
        let key = self.key(item)?;
        self.known.insert(key, at);
        Ok(())
    }
}
