//! Fields that an applied configuration would take from other managers.

use std::fmt;

use super::managers::Manager;
use super::path::{Step, text};
use super::set::Set;

/// A field that another manager owns.
#[derive(Debug, Clone, PartialEq)]
pub struct Conflict {
    /// Who owns it, in the words of messages.
    pub manager: String,
    /// Which field.
    pub path: Vec<Step>,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conflicts(pub Vec<Conflict>);

impl Conflicts {
    /// Adds the fields that a manager would lose.
    pub fn add(&mut self, manager: &Manager, fields: &Set) {
        if fields.is_empty() {
            return;
        }
        let described = manager.described();
        fields.for_each(&mut |path| {
            self.0.push(Conflict { manager: described.clone(), path: path.to_vec() });
        });
    }

    /// Those that are not about these fields.
    pub fn without(self, allowed: &Set) -> Self {
        Self(self.0.into_iter().filter(|conflict| !allowed.contains(&conflict.path)).collect())
    }

    /// For each: what it is, and the field.
    pub fn causes(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().map(|conflict| (format!("conflict with {}", conflict.manager), text(&conflict.path)))
    }
}

impl fmt::Display for Conflicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = &self.0[..] {
            let path = text(&only.path);
            return write!(f, "Apply failed with 1 conflict: conflict with {}: {path}", only.manager);
        }
        write!(f, "Apply failed with {} conflicts: ", self.0.len())?;
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by(|a, b| a.manager.cmp(&b.manager));
        for (at, of_one) in all.chunk_by(|a, b| a.manager == b.manager).enumerate() {
            let line = if at == 0 { "" } else { "\n" };
            write!(f, "{line}conflicts with {}:", of_one[0].manager)?;
            of_one.iter().try_for_each(|conflict| write!(f, "\n- {}", text(&conflict.path)))?;
        }
        Ok(())
    }
}
