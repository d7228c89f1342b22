//! Sets of fields of one object, and their algebra.
//!
//! A set is a tree: below each step are the fields that are reached through it. That a field is in the set says nothing of
//! those above or below it.

use std::cmp::Ordering;

use super::path::Step;

/// Fields of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    /// Sorted by step; none is without a member at or below it.
    nodes: Vec<(Step, Node)>,
}

/// What a set has at and below a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Whether the field itself is in the set.
    pub member: bool,
    /// The fields below it, relative to it.
    pub below: Set,
}

impl Node {
    fn member(below: Set) -> Self {
        Self { member: true, below }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl Set {
    /// The set of the fields that these paths of names lead to.
    pub fn of(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let steps: Vec<Step> = path.iter().map(|name| Step::field(name)).collect();
            set.insert(&steps);
        }
        set
    }

    /// Whether there is no field in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The first steps, in order, with what is at and below each.
    pub fn nodes(&self) -> impl Iterator<Item = (&Step, &Node)> {
        self.nodes.iter().map(|(step, node)| (step, node))
    }

    /// Adds a field. The root is not a field.
    pub fn insert(&mut self, path: &[Step]) {
        let [step, rest @ ..] = path else { return };
        let at = match self.find(step) {
            Ok(at) => at,
            Err(at) => {
                self.nodes.insert(at, (step.clone(), Node::default()));
                at
            }
        };
        match rest {
            [] => self.nodes[at].1.member = true,
            rest => self.nodes[at].1.below.insert(rest),
        }
    }

    /// Sets what is at and below a step.
    pub(super) fn put(&mut self, step: Step, node: Node) {
        if node.is_empty() {
            return;
        }
        match self.find(&step) {
            Ok(at) => self.nodes[at].1 = node,
            Err(at) => self.nodes.insert(at, (step, node)),
        }
    }

    /// Adds what is at and below a step that no earlier one equals, in any order; [`sort`](Self::sort) ends a row of them.
    pub(super) fn push(&mut self, step: Step, node: Node) {
        self.nodes.push((step, node));
    }

    /// Puts what was pushed in order.
    pub(super) fn sort(&mut self) {
        self.nodes.sort_by(|a, b| a.0.cmp(&b.0));
    }

    /// What is at and below a step.
    pub fn get(&self, step: &Step) -> Option<&Node> {
        self.find(step).ok().map(|at| &self.nodes[at].1)
    }

    /// What is at and below a field.
    pub fn get_field(&self, name: &str) -> Option<&Node> {
        let at = self.nodes.binary_search_by(|(step, _)| step.cmp_field(name)).ok()?;
        Some(&self.nodes[at].1)
    }

    /// Whether the field is in the set.
    pub fn contains(&self, path: &[Step]) -> bool {
        match path {
            [] => false,
            [step] => self.get(step).is_some_and(|node| node.member),
            [step, rest @ ..] => self.get(step).is_some_and(|node| node.below.contains(rest)),
        }
    }

    /// What is in either.
    pub fn union(&self, other: &Self) -> Self {
        self.zip(other, &|own, other| match (own, other) {
            (Some(own), Some(other)) => {
                Node { member: own.member || other.member, below: own.below.union(&other.below) }
            }
            (Some(only), None) | (None, Some(only)) => only.clone(),
            (None, None) => Node::default(),
        })
    }

    /// What is in both.
    pub fn intersection(&self, other: &Self) -> Self {
        self.zip(other, &|own, other| match (own, other) {
            (Some(own), Some(other)) => {
                Node { member: own.member && other.member, below: own.below.intersection(&other.below) }
            }
            _ => Node::default(),
        })
    }

    /// What is in this one only. Fields are told apart by their path: a field leaves those below it where they are.
    pub fn difference(&self, other: &Self) -> Self {
        self.zip(other, &|own, other| match (own, other) {
            (Some(own), Some(other)) => {
                Node { member: own.member && !other.member, below: own.below.difference(&other.below) }
            }
            (Some(own), None) => own.clone(),
            _ => Node::default(),
        })
    }

    /// What is in this one and neither in nor below a field of the other.
    pub fn without(&self, other: &Self) -> Self {
        self.zip(other, &|own, other| match (own, other) {
            (Some(_), Some(other)) if other.member => Node::default(),
            (Some(own), Some(other)) => Node { member: own.member, below: own.below.without(&other.below) },
            (Some(own), None) => own.clone(),
            _ => Node::default(),
        })
    }

    /// Calls `each` with the path of each field: those of a level first, then those below it.
    pub fn for_each(&self, each: &mut dyn FnMut(&[Step])) {
        self.visit(&mut Vec::new(), each);
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.nodes.iter().map(|(_, node)| usize::from(node.member) + node.below.len()).sum()
    }

    fn visit(&self, path: &mut Vec<Step>, each: &mut dyn FnMut(&[Step])) {
        let below: [fn(&Node) -> bool; 2] = [|node| node.member, |node| !node.below.is_empty()];
        for (turn, wanted) in below.iter().enumerate() {
            for (step, node) in self.nodes.iter().filter(|(_, node)| wanted(node)) {
                path.push(step.clone());
                match turn {
                    0 => each(path),
                    _ => node.below.visit(path, each),
                }
                path.pop();
            }
        }
    }

    fn find(&self, step: &Step) -> Result<usize, usize> {
        // What comes in order goes to the end.
        match self.nodes.last() {
            Some((last, _)) if last < step => Err(self.nodes.len()),
            _ => self.nodes.binary_search_by(|(own, _)| own.cmp(step)),
        }
    }

    /// Walks both in order and keeps what `combine` leaves of each step.
    fn zip(&self, other: &Self, combine: &dyn Fn(Option<&Node>, Option<&Node>) -> Node) -> Self {
        let mut out = Self { nodes: Vec::with_capacity(self.nodes.len()) };
        let (mut own, mut others) = (self.nodes.iter().peekable(), other.nodes.iter().peekable());
        loop {
            let order = match (own.peek(), others.peek()) {
                (None, None) => return out,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.0.cmp(&b.0),
            };
            let a = if order.is_le() { own.next() } else { None };
            let b = if order.is_ge() { others.next() } else { None };
            let node = combine(a.map(|(_, node)| node), b.map(|(_, node)| node));
            if let (false, Some((step, _))) = (node.is_empty(), a.or(b)) {
                out.nodes.push((step.clone(), node));
            }
        }
    }

    /// Changes each node; those that are left empty go.
    pub(super) fn map_nodes(mut self, change: &mut dyn FnMut(&Step, Node) -> Node) -> Self {
        self.nodes = self
            .nodes
            .into_iter()
            .map(|(step, node)| {
                let node = change(&step, node);
                (step, node)
            })
            .filter(|(_, node)| !node.is_empty())
            .collect();
        self
    }
}

impl From<Set> for Node {
    /// A field that is in the set, with these below it.
    fn from(below: Set) -> Self {
        Self::member(below)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn paths(text: &str) -> Set {
        let mut set = Set::default();
        for path in text.split_whitespace() {
            let steps: Vec<Step> = path.split('.').map(Step::field).collect();
            set.insert(&steps);
        }
        set
    }

    fn listed(set: &Set) -> String {
        let mut all = Vec::new();
        set.for_each(&mut |path| all.push(super::super::path::text(path).trim_start_matches('.').to_owned()));
        all.join(" ")
    }

    #[test]
    fn operations_tell_fields_apart_by_path() {
        let (a, b) = (paths("a a.b c.d c.e f"), paths("a c.d c g.h"));
        assert_eq!(listed(&a.union(&b)), "a c f a.b c.d c.e g.h");
        assert_eq!(listed(&a.intersection(&b)), "a c.d");
        assert_eq!(listed(&a.difference(&b)), "f a.b c.e");
        assert_eq!(listed(&a.without(&b)), "f");
        assert_eq!(a.len(), 5);
    }

    /// Any small set, so that two of them overlap.
    pub(crate) fn any_set() -> impl Strategy<Value = Set> {
        let path = proptest::collection::vec("[abc]", 1..4);
        proptest::collection::vec(path, 0..8).prop_map(|paths| {
            let mut set = Set::default();
            for path in paths {
                let steps: Vec<Step> = path.iter().map(|name| Step::field(name)).collect();
                set.insert(&steps);
            }
            set
        })
    }

    proptest! {
        #[test]
        fn algebra_holds(a in any_set(), b in any_set()) {
            let parts = a.difference(&b).union(&a.intersection(&b));
            prop_assert_eq!(&parts, &a);
            prop_assert_eq!(a.union(&b), b.union(&a));
            prop_assert_eq!(a.intersection(&b), b.intersection(&a));
            prop_assert!(a.difference(&a).is_empty() && a.without(&a).is_empty());
            let mut all = 0;
            a.union(&b).for_each(&mut |path| {
                assert!(a.contains(path) || b.contains(path));
                all += 1;
            });
            prop_assert_eq!(all, a.len() + b.difference(&a).len());
        }
    }
}
