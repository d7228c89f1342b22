//! Words of an expression, with their places in characters.

use super::error::Issues;

/// A word.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Word {
    End,
    Ident(Box<str>),
    /// An identifier in back quotes.
    Escaped(Box<str>),
    /// A whole number as it was written.
    Int(Box<str>),
    Uint(Box<str>),
    Float(Box<str>),
    String(Box<str>),
    Bytes(Box<[u8]>),
    /// A sign or an operator.
    Sign(&'static str),
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) word: Word,
    pub(super) offset: u32,
    pub(super) text: Box<str>,
}

const SIGNS: [&str; 26] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*",
    "/", "%", "=", "&",
];

/// All words of a text, the end last. What cannot be read is complained about and left out.
pub(super) fn words(source: &str, issues: &mut Issues) -> Vec<Token> {
    let mut lexer = Lexer { rest: source, offset: 0, issues };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_space();
        let (before, offset) = (lexer.rest, lexer.offset);
        let Some(word) = lexer.word() else {
            let sign = lexer.rest.chars().next().unwrap_or(' ');
            lexer.issues.add(Some(offset), format!("Syntax error: token recognition error at: '{sign}'"));
            lexer.take(sign.len_utf8());
            continue;
        };
        let text = before[..before.len() - lexer.rest.len()].into();
        let ended = word == Word::End;
        tokens.push(Token { word, offset, text });
        if ended {
            return tokens;
        }
    }
}

struct Lexer<'s, 'i> {
    rest: &'s str,
    offset: u32,
    issues: &'i mut Issues,
}

impl<'s> Lexer<'s, '_> {
    fn take(&mut self, bytes: usize) -> &'s str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.offset += taken.chars().count() as u32;
        self.rest = rest;
        taken
    }

    fn skip_space(&mut self) {
        loop {
            let space = self.rest.len() - self.rest.trim_start_matches(['\t', ' ', '\r', '\n', '\u{c}']).len();
            self.take(space);
            if !self.rest.starts_with("//") {
                return;
            }
            let line = self.rest.find('\n').unwrap_or(self.rest.len());
            self.take(line);
        }
    }

    fn word(&mut self) -> Option<Word> {
        let Some(first) = self.rest.chars().next() else { return Some(Word::End) };
        let second = self.rest[first.len_utf8()..].chars().next().unwrap_or(' ');
        match first {
            '0'..='9' => Some(self.number()),
            '.' if second.is_ascii_digit() => Some(self.number()),
            '"' | '\'' => self.string(0),
            'r' | 'R' | 'b' | 'B' if self.quote_after_prefix().is_some() => self.string(self.quote_after_prefix()?),
            '`' => self.escaped(),
            'a'..='z' | 'A'..='Z' | '_' => {
                let ends =
                    self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(self.rest.len());
                Some(Word::Ident(self.take(ends).into()))
            }
            _ => {
                let sign = SIGNS
                    .iter()
                    .find(|sign| self.rest.starts_with(**sign))
                    .filter(|sign| !["=", "&"].contains(sign))?;
                self.take(sign.len());
                Some(Word::Sign(sign))
            }
        }
    }

    /// How long the prefix of a string literal is: `r`, `b`, `br`.
    fn quote_after_prefix(&self) -> Option<usize> {
        let bytes = self.rest.as_bytes();
        let quote = |at: usize| bytes.get(at).is_some_and(|sign| matches!(sign, b'"' | b'\''));
        match bytes {
            [b'r' | b'R' | b'b' | b'B', ..] if quote(1) => Some(1),
            [b'b' | b'B', b'r' | b'R', ..] if quote(2) => Some(2),
            _ => None,
        }
    }

    fn escaped(&mut self) -> Option<Word> {
        let inner = &self.rest[1..];
        let ends = inner.find('`').filter(|ends| *ends > 0)?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "_.-/ ".contains(c);
        if !inner[..ends].chars().all(fits) {
            return None;
        }
        let taken = self.take(ends + 2);
        Some(Word::Escaped(taken[1..=ends].into()))
    }

    fn number(&mut self) -> Word {
        let bytes = self.rest.as_bytes();
        let digits = |from: usize| bytes[from..].iter().take_while(|sign| sign.is_ascii_digit()).count();
        if self.rest.starts_with("0x") {
            let hex = bytes[2..].iter().take_while(|sign| sign.is_ascii_hexdigit()).count();
            if hex > 0 {
                return self.whole(2 + hex);
            }
        }
        let whole = digits(0);
        let mut ends = whole;
        let mut float = false;
        if bytes.get(ends) == Some(&b'.') && digits(ends + 1) > 0 {
            ends += 1 + digits(ends + 1);
            float = true;
        }
        if matches!(bytes.get(ends), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(ends + 1), Some(b'+' | b'-')));
            let exponent = if ends + 1 + sign < bytes.len() { digits(ends + 1 + sign) } else { 0 };
            if exponent > 0 {
                ends += 1 + sign + exponent;
                float = true;
            }
        }
        if float { Word::Float(self.take(ends).into()) } else { self.whole(ends) }
    }

    fn whole(&mut self, ends: usize) -> Word {
        let digits: Box<str> = self.take(ends).into();
        if self.rest.starts_with(['u', 'U']) {
            self.take(1);
            return Word::Uint(digits);
        }
        Word::Int(digits)
    }

    fn string(&mut self, prefix: usize) -> Option<Word> {
        let start = self.offset;
        let marks = &self.rest[..prefix];
        let raw = marks.contains(['r', 'R']);
        let bytes = marks.contains(['b', 'B']);
        let body = &self.rest[prefix..];
        let quote = [r#"""""#, "'''", "\"", "'"].into_iter().find(|quote| body.starts_with(*quote))?;
        let inner = &body[quote.len()..];
        let ends = end_of_string(inner, quote, raw)?;
        let content = &inner[..ends];
        self.take(prefix + 2 * quote.len() + ends);
        match unescape(content, raw, bytes) {
            Ok(content) if bytes => Some(Word::Bytes(content.into())),
            Ok(content) => Some(Word::String(String::from_utf8_lossy(&content).into())),
            Err(why) => {
                self.issues.add(Some(start), why);
                Some(Word::String("".into()))
            }
        }
    }
}

fn end_of_string(inner: &str, quote: &str, raw: bool) -> Option<usize> {
    let mut signs = inner.char_indices();
    while let Some((at, sign)) = signs.next() {
        if inner[at..].starts_with(quote) {
            return Some(at);
        }
        match sign {
            '\\' if !raw => {
                signs.next()?;
            }
            '\n' | '\r' if quote.len() == 1 => return None,
            _ => {}
        }
    }
    None
}

/// The content of a string or bytes literal, its escapes resolved.
fn unescape(content: &str, raw: bool, bytes: bool) -> Result<Vec<u8>, String> {
    let content = content.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = Vec::with_capacity(content.len());
    let mut rest = content.as_str();
    while let Some(sign) = rest.chars().next() {
        rest = &rest[sign.len_utf8()..];
        if sign != '\\' || raw {
            out.extend_from_slice(sign.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let escape = rest.chars().next().ok_or("unable to unescape string, found '\\' as last character")?;
        rest = &rest[escape.len_utf8()..];
        if let Some(plain) = plain_escape(escape) {
            out.push(plain);
            continue;
        }
        let (digits, radix, skipped) = match escape {
            'x' | 'X' => (2, 16, 0),
            'u' if !bytes => (4, 16, 0),
            'U' if !bytes => (8, 16, 0),
            '0'..='3' => (2, 8, 1),
            _ => return Err("unable to unescape string".to_owned()),
        };
        let given = rest.get(..digits).filter(|given| given.chars().all(|c| c.is_digit(radix)));
        let given = given.ok_or("unable to unescape string")?;
        rest = &rest[digits..];
        let first = if skipped == 1 { escape.to_digit(8).unwrap_or(0) * 64 } else { 0 };
        let value = u32::from_str_radix(given, radix).map_err(|_| "unable to unescape string")? + first;
        if bytes {
            out.push(value as u8);
        } else {
            let sign = char::from_u32(value).ok_or("invalid unicode code point")?;
            out.extend_from_slice(sign.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Ok(out)
}

fn plain_escape(sign: char) -> Option<u8> {
    Some(match sign {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' | '\'' | '"' | '?' | '`' => sign as u8,
        _ => return None,
    })
}
