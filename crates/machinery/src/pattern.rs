//! Patterns of schemas, in the syntax of Go's `regexp` (RE2), whose matching time is linear in the text.
//!
//! Our engine reads the same syntax but for a few signs, which are rewritten, and takes `\d`, `\w` and `\s` to be of all
//! scripts where RE2 means ASCII. A pattern is compiled when it is first needed: most are never.

use std::sync::OnceLock;

use regex::{Regex, RegexBuilder};

/// How large a compiled pattern may be. Without it `((a{100}){100}){100}` would take all memory.
const PROGRAM_BYTES_MAX: usize = 1 << 20;
/// How much memory matching may take for what it learns on the way.
const CACHE_BYTES_MAX: usize = 1 << 18;

/// A pattern.
#[derive(Debug)]
pub struct Pattern {
    source: Box<str>,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    /// A pattern that is compiled when it is needed.
    pub fn new(source: &str) -> Self {
        Self { source: source.into(), compiled: OnceLock::new() }
    }

    /// Why a pattern cannot be used; `None` where it can.
    pub fn check(source: &str) -> Option<String> {
        compile(source).err().map(|error| error.to_string())
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    fn compiled(&self) -> Option<&Regex> {
        self.compiled.get_or_init(|| compile(&self.source).ok()).as_ref()
    }

    /// The parts of a text that match, at most so many.
    pub fn find_all<'t>(&self, text: &'t str, count: Option<usize>) -> Vec<&'t str> {
        let found = self.compiled().into_iter().flat_map(|pattern| pattern.find_iter(text));
        found.take(count.unwrap_or(usize::MAX)).map(|part| part.as_str()).collect()
    }

    /// Whether some part of the text matches. A pattern that cannot be compiled matches nothing, as upstream.
    pub fn matches(&self, text: &str) -> bool {
        self.compiled().is_some_and(|pattern| pattern.is_match(text))
    }
}

fn compile(source: &str) -> Result<Regex, regex::Error> {
    let mut builder = RegexBuilder::new(&rewritten(source));
    builder.size_limit(PROGRAM_BYTES_MAX).dfa_size_limit(CACHE_BYTES_MAX).build()
}

/// The pattern as our engine means the same by it.
fn rewritten(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 8);
    let mut rest = source.chars().peekable();
    // Where the class that is being read began; a bracket right behind that is a sign like any other.
    let mut class: Option<usize> = None;
    while let Some(sign) = rest.next() {
        match (sign, class) {
            ('\\', _) => escape(rest.next(), class.is_some(), &mut out),
            ('[', None) => {
                out.push('[');
                if rest.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                if rest.next_if_eq(&']').is_some() {
                    out.push_str("\\]");
                }
                class = Some(out.len());
            }
            ('[', Some(_)) if rest.peek() == Some(&':') => {
                out.push('[');
                for sign in rest.by_ref() {
                    out.push(sign);
                    if sign == ']' {
                        break;
                    }
                }
            }
            ('[' | '&' | '~', Some(_)) => {
                out.push('\\');
                out.push(sign);
            }
            (']', Some(_)) => {
                out.push(']');
                class = None;
            }
            ('{', None) if !is_repetition(rest.clone()) => out.push_str("\\{"),
            _ => out.push(sign),
        }
    }
    out
}

fn escape(sign: Option<char>, in_class: bool, out: &mut String) {
    let (plain, set) = match sign {
        Some('d') => ("0-9", "[0-9]"),
        Some('w') => ("0-9A-Za-z_", "[0-9A-Za-z_]"),
        Some('s') => ("\\t\\n\\f\\r ", "[\\t\\n\\f\\r ]"),
        Some('D') => ("[^0-9]", "[^0-9]"),
        Some('W') => ("[^0-9A-Za-z_]", "[^0-9A-Za-z_]"),
        Some('S') => ("[^\\t\\n\\f\\r ]", "[^\\t\\n\\f\\r ]"),
        Some('b') if !in_class => ("", "(?-u:\\b)"),
        Some(other) => {
            out.push('\\');
            out.push(other);
            return;
        }
        None => return out.push('\\'),
    };
    out.push_str(if in_class { plain } else { set });
}

/// Whether `{` begins a count: `{2}`, `{2,}`, `{2,3}`.
fn is_repetition(rest: impl Iterator<Item = char>) -> bool {
    let (mut digits, mut commas) = (0, 0);
    for sign in rest {
        match sign {
            '0'..='9' => digits += 1,
            ',' if digits > 0 && commas == 0 => commas = 1,
            '}' => return digits > 0,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_what_go_means() {
        let table = [
            (r"^\d+$", "12", true),
            (r"^\d+$", "١٢", false),
            (r"^[\w-]+$", "a_b-1", true),
            (r"^[^\s]+$", "a b", false),
            (r"^[[]x]$", "[x]", true),
            (r"^[]a]+$", "]a", true),
            (r"^[a&&b]+$", "a&b", true),
            (r"^[[:alpha:]]+$", "abc", true),
            (r"^{name}$", "{name}", true),
            (r"^a{2,3}$", "aaaa", false),
            (r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$", "a.b", true),
            (r"^\$\{[^}]+\}$", "${x}", true),
            (r"a\/b", "a/b", true),
            ("b", "abc", true),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(Pattern::check(pattern), None, "{pattern}");
            assert_eq!(Pattern::new(pattern).matches(text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn is_bounded() {
        assert!(Pattern::check("(((a{100}){100}){100}){100}").is_some());
        assert!(Pattern::check("(").is_some());
        assert!(!Pattern::new("(").matches("("), "what cannot be compiled matches nothing");
    }
}
