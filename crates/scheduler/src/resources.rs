//! Amounts of resources as integers: milli-CPUs, bytes, counts.

use std::collections::BTreeMap;

use machinery::Quantity;

/// What a container without a CPU request counts as when nodes are scored, so that a node full of such pods is not empty.
const NONZERO_MILLI_CPU: i64 = 100;
/// Likewise for memory.
const NONZERO_MEMORY: i64 = 200 * 1024 * 1024;

/// A `ResourceList` as the API writes it.
pub type ResourceList = BTreeMap<Box<str>, Box<str>>;

/// Amounts of the resources that every node has, and of others by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral: i64,
    /// Extended resources and huge pages, sorted by name.
    pub extended: Vec<(Box<str>, i64)>,
}

impl Amounts {
    /// Reads a list. What is no quantity counts as nothing: the API server lets none through.
    pub fn read(list: &ResourceList) -> Self {
        let mut amounts = Self::default();
        for (name, text) in list {
            let quantity = Quantity::parse(text).unwrap_or(Quantity::ZERO);
            amounts.set(name, quantity);
        }
        amounts
    }

    fn set(&mut self, name: &str, quantity: Quantity) {
        match name {
            "cpu" => self.milli_cpu = quantity.milli_value(),
            "memory" => self.memory = quantity.value(),
            "ephemeral-storage" => self.ephemeral = quantity.value(),
            "pods" => {}
            _ => *self.extended_mut(name) = quantity.value(),
        }
    }

    /// The list with what a container without CPU or memory requests counts as in scores.
    pub fn nonzero(list: &ResourceList) -> Self {
        let mut amounts = Self::read(list);
        if !list.contains_key("cpu") {
            amounts.milli_cpu = NONZERO_MILLI_CPU;
        }
        if !list.contains_key("memory") {
            amounts.memory = NONZERO_MEMORY;
        }
        amounts
    }

    /// Adds the other's amounts.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes the larger of both amounts.
    pub fn max(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, f: fn(i64, i64) -> i64) {
        self.milli_cpu = f(self.milli_cpu, other.milli_cpu);
        self.memory = f(self.memory, other.memory);
        self.ephemeral = f(self.ephemeral, other.ephemeral);
        for (name, amount) in &other.extended {
            let mine = self.extended_mut(name);
            *mine = f(*mine, *amount);
        }
    }

    /// Overrides the amounts that `list` names.
    pub fn override_with(&mut self, list: &ResourceList) {
        for (name, text) in list {
            if let Ok(quantity) = Quantity::parse(text) {
                self.set(name, quantity);
            }
        }
    }

    fn extended_mut(&mut self, name: &str) -> &mut i64 {
        let at = match self.extended.binary_search_by(|(known, _)| (**known).cmp(name)) {
            Ok(at) => at,
            Err(at) => {
                self.extended.insert(at, (name.into(), 0));
                at
            }
        };
        &mut self.extended[at].1
    }
}
