//! What is wrong with an expression, shown as cel-go shows it: place, words, the line, and a mark below it.

use std::fmt;

/// More complaints say nothing new: one wrong name used a thousand times would be a thousand of them.
const ERRORS_MAX: usize = 100;
/// Longer lines are not shown.
const SNIPPET_MAX: usize = 16384;

/// One complaint, at an offset in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Complaint {
    offset: Option<u32>,
    message: String,
}

/// All that is wrong with an expression. Displays as cel-go's issues do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Issues {
    text: Box<str>,
    complaints: Vec<Complaint>,
    count: usize,
}

impl Issues {
    pub(super) fn new(source: &str) -> Self {
        Self { text: source.into(), complaints: Vec::new(), count: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Notes a complaint at an offset in characters; without one it is about the whole.
    pub(super) fn add(&mut self, offset: Option<u32>, message: impl Into<String>) {
        self.count += 1;
        if self.complaints.len() < ERRORS_MAX {
            self.complaints.push(Complaint { offset, message: message.into() });
        }
    }
}

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut placed: Vec<_> = self.complaints.iter().map(|of| (place(&self.text, of.offset), of)).collect();
        placed.sort_by_key(|((line, column), _)| (*line, *column));
        for (at, ((line, column), complaint)) in placed.into_iter().enumerate() {
            let newline = if at > 0 { "\n" } else { "" };
            write!(f, "{newline}ERROR: <input>:{line}:{}: {}", column + 1, complaint.message)?;
            snippet(f, &self.text, line, column)?;
        }
        if self.count > self.complaints.len() {
            write!(f, "\n{} more errors were truncated", self.count - self.complaints.len())?;
        }
        Ok(())
    }
}

/// Line, from 1, and column, from 0; `-1:-1` for the whole.
fn place(source: &str, offset: Option<u32>) -> (i64, i64) {
    let Some(offset) = offset else { return (-1, -1) };
    let (mut line, mut column) = (1, 0);
    for sign in source.chars().take(offset as usize) {
        if sign == '\n' {
            line += 1;
            column = 0;
        } else {
            column += 1;
        }
    }
    (line, column)
}

fn snippet(f: &mut fmt::Formatter<'_>, source: &str, line: i64, column: i64) -> fmt::Result {
    let Some(text) = usize::try_from(line - 1).ok().and_then(|line| source.split('\n').nth(line)) else {
        return Ok(());
    };
    if text.len() > SNIPPET_MAX {
        return Ok(());
    }
    write!(f, "\n | {}\n | ", text.replace('\t', " "))?;
    let mut signs = text.chars();
    for _ in 0..column {
        match signs.next() {
            Some(sign) if sign.len_utf8() > 1 => f.write_str("\u{ff0e}")?,
            Some(_) => f.write_str(".")?,
            None => break,
        }
    }
    f.write_str(if signs.next().is_some_and(|sign| sign.len_utf8() > 1) { "\u{ff3e}" } else { "^" })
}
