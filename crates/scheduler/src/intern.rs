//! Text as small numbers, so that comparing labels, taints and images of thousands of nodes compares integers.
//!
//! Only what nodes carry is interned; each use is counted and the last release frees the number. So the table is bounded by
//! the nodes that exist, not by those that ever did.

use std::collections::HashMap;
use std::sync::Arc;

/// A text's number. Equal numbers are equal texts while both are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(u32);

/// The texts in use.
#[derive(Debug, Default)]
pub struct Interner {
    numbers: HashMap<Arc<str>, Symbol>,
    texts: Vec<(Arc<str>, u32)>,
    free: Vec<Symbol>,
}

impl Interner {
    /// The number of a text, held once more.
    pub fn acquire(&mut self, text: &str) -> Symbol {
        if let Some(&symbol) = self.numbers.get(text) {
            self.texts[symbol.0 as usize].1 += 1;
            return symbol;
        }
        let text: Arc<str> = text.into();
        let symbol = match self.free.pop() {
            Some(symbol) => {
                self.texts[symbol.0 as usize] = (text.clone(), 1);
                symbol
            }
            None => {
                self.texts.push((text.clone(), 1));
                Symbol(self.texts.len() as u32 - 1)
            }
        };
        self.numbers.insert(text, symbol);
        symbol
    }

    /// Gives up one hold.
    pub fn release(&mut self, symbol: Symbol) {
        let (text, holds) = &mut self.texts[symbol.0 as usize];
        *holds -= 1;
        if *holds == 0 {
            self.numbers.remove(text);
            self.free.push(symbol);
        }
    }

    /// The number of a text that somebody holds.
    pub fn find(&self, text: &str) -> Option<Symbol> {
        self.numbers.get(text).copied()
    }

    /// How many texts are held.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The text of a number that somebody holds.
    pub fn text(&self, symbol: Symbol) -> &str {
        &self.texts[symbol.0 as usize].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shared_and_freed() {
        let mut interner = Interner::default();
        let (a, b, again) = (interner.acquire("a"), interner.acquire("b"), interner.acquire("a"));
        assert_eq!((a == again, a == b, interner.text(b)), (true, false, "b"));
        interner.release(a);
        assert_eq!(interner.find("a"), Some(a));
        interner.release(again);
        assert_eq!(interner.find("a"), None);
        assert_eq!(interner.acquire("c"), a, "a freed number is used again");
    }
}
