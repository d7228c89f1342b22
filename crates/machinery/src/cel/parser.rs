//! The grammar of CEL. What a stranger sends is bounded: in length, in nesting, and in how much its macros make of it.
//!
//! Nodes stand where cel-go puts them (an operator at its sign, a call at its bracket), since messages show those places.
//! After the first error of syntax nothing more is read.

use super::ast::{Entry, Expr, Kind};
use super::error::Issues;
use super::lexer::{Token, Word, words};
use super::macros;
use super::value::{Text, Value};

/// Longer expressions are refused unread.
const CHARS_MAX: usize = 100_000;
/// Deeper trees are refused: everything that walks them recurses, on a stack of two megabytes.
const DEPTH_MAX: u16 = 200;
/// Deeper brackets are refused: reading them recurses more than once each.
const NESTING_MAX: u16 = 100;
/// Macros that copy what they are applied to would double a tree with each of their kind.
const NODES_MAX: usize = 100_000;

/// How strongly `&&` and `||` bind among binary operators.
const LOGICAL: u8 = 1;

const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "package",
    "namespace",
    "null",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// Whether a name may stand alone.
pub(super) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// A parsed expression: the tree and the place of each node, in characters.
pub(super) struct Parsed {
    pub(super) expr: Expr,
    pub(super) offsets: Vec<u32>,
}

/// Reads an expression.
pub(super) fn parse(source: &str) -> Result<Parsed, Issues> {
    let mut issues = Issues::new(source);
    let chars = source.chars().count();
    if chars > CHARS_MAX {
        issues.add(None, format!("expression code point size exceeds limit: size: {chars}, limit {CHARS_MAX}"));
        return Err(issues);
    }
    let tokens = words(source, &mut issues);
    let mut parser = Parser { tokens, at: 0, nesting: 0, nodes: Nodes { offsets: vec![0], heights: vec![0], issues } };
    let expr = parser
        .expression()
        .and_then(|expr| if parser.peek() == &Word::End { Ok(expr) } else { parser.unexpected("<EOF>", true) });
    let Nodes { offsets, issues, .. } = parser.nodes;
    match expr {
        Ok(expr) if issues.is_empty() => Ok(Parsed { expr, offsets }),
        _ => Err(issues),
    }
}

/// The error has been noted; nothing more is to be read.
pub(super) struct Stop;

type Read<T> = Result<T, Stop>;

/// The nodes that were made: where each stands and how high the tree below it is.
pub(super) struct Nodes {
    offsets: Vec<u32>,
    heights: Vec<u16>,
    pub(super) issues: Issues,
}

impl Nodes {
    /// Makes a node.
    pub(super) fn make(&mut self, offset: u32, kind: Kind) -> Read<Expr> {
        let height = 1 + self.children(&kind);
        if height > DEPTH_MAX {
            self.issues.add(None, format!("expression recursion limit exceeded: {DEPTH_MAX}"));
            return Err(Stop);
        }
        let id = self.number(offset, height)?;
        Ok(Expr { id, kind })
    }

    /// A number for something that stands at an offset.
    fn number(&mut self, offset: u32, height: u16) -> Read<u32> {
        if self.offsets.len() >= NODES_MAX {
            self.issues.add(None, format!("expression has too many parts: limit {NODES_MAX}"));
            return Err(Stop);
        }
        self.offsets.push(offset);
        self.heights.push(height);
        Ok(self.offsets.len() as u32 - 1)
    }

    fn height(&self, expr: &Expr) -> u16 {
        self.heights[expr.id as usize]
    }

    fn children(&self, kind: &Kind) -> u16 {
        let entries = |entry: &Entry| self.height(&entry.key).max(self.height(&entry.value));
        let highest = match kind {
            Kind::Literal(_) | Kind::Ident(_) => None,
            Kind::Select { operand, .. } => Some(self.height(operand)),
            Kind::Call { target, args, .. } => args.iter().chain(target.as_deref()).map(|expr| self.height(expr)).max(),
            Kind::List { items, .. } => items.iter().map(|expr| self.height(expr)).max(),
            Kind::Map(given) => given.iter().map(entries).max(),
            Kind::Message { fields, .. } => fields.iter().map(|(_, entry)| self.height(&entry.value)).max(),
            Kind::Fold(fold) => {
                let parts = [&fold.range, &fold.init, &fold.condition, &fold.step, &fold.result];
                parts.into_iter().map(|expr| self.height(expr)).max()
            }
        };
        highest.unwrap_or(0)
    }

    /// Where a node stands.
    pub(super) fn offset(&self, expr: &Expr) -> u32 {
        self.offsets[expr.id as usize]
    }

    /// A copy of a tree with numbers of its own.
    pub(super) fn copy(&mut self, expr: &Expr) -> Read<Expr> {
        let kind = match &expr.kind {
            Kind::Select { operand, field, test } => {
                Kind::Select { operand: Box::new(self.copy(operand)?), field: field.clone(), test: *test }
            }
            Kind::Call { target, function, args } => Kind::Call {
                target: target.as_ref().map(|target| self.copy(target).map(Box::new)).transpose()?,
                function: function.clone(),
                args: args.iter().map(|arg| self.copy(arg)).collect::<Read<_>>()?,
            },
            Kind::List { items, optional } => Kind::List {
                items: items.iter().map(|item| self.copy(item)).collect::<Read<_>>()?,
                optional: optional.clone(),
            },
            Kind::Map(entries) => Kind::Map(entries.iter().map(|entry| self.copy_entry(entry)).collect::<Read<_>>()?),
            Kind::Message { name, fields } => Kind::Message {
                name: name.clone(),
                fields: fields
                    .iter()
                    .map(|(field, entry)| Ok((field.clone(), self.copy_entry(entry)?)))
                    .collect::<Read<_>>()?,
            },
            Kind::Fold(fold) => {
                let mut copied = fold.clone();
                for part in
                    [&mut copied.range, &mut copied.init, &mut copied.condition, &mut copied.step, &mut copied.result]
                {
                    *part = self.copy(part)?;
                }
                Kind::Fold(copied)
            }
            Kind::Literal(_) | Kind::Ident(_) => expr.kind.clone(),
        };
        self.make(self.offset(expr), kind)
    }

    fn copy_entry(&mut self, entry: &Entry) -> Read<Entry> {
        Ok(Entry {
            id: self.number(self.offsets[entry.id as usize], 0)?,
            key: self.copy(&entry.key)?,
            value: self.copy(&entry.value)?,
            optional: entry.optional,
        })
    }

    /// Notes an error and puts something in the place of what was wrong.
    pub(super) fn wrong(&mut self, offset: u32, message: impl Into<String>) -> Read<Expr> {
        self.issues.add(Some(offset), message);
        self.make(offset, Kind::Literal(Value::Null))
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    nesting: u16,
    nodes: Nodes,
}

/// What an expression may begin with.
const BEGINNINGS: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, \
                          BYTES, IDENTIFIER}";

impl Parser {
    fn peek(&self) -> &Word {
        &self.tokens[self.at].word
    }

    fn offset(&self) -> u32 {
        self.tokens[self.at].offset
    }

    fn next(&mut self) -> Token {
        let token = self.tokens[self.at].clone();
        if token.word != Word::End {
            self.at += 1;
        }
        token
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.peek(), Word::Sign(found) if *found == sign)
    }

    /// Takes a sign if it is next: where it stood.
    fn take(&mut self, sign: &str) -> Option<u32> {
        self.is(sign).then(|| self.next().offset)
    }

    fn expect(&mut self, sign: &str) -> Read<u32> {
        match self.take(sign) {
            Some(offset) => Ok(offset),
            None if self.peek() == &Word::End => {
                let offset = self.offset();
                self.nodes.issues.add(Some(offset), format!("Syntax error: missing '{sign}' at '<EOF>'"));
                Err(Stop)
            }
            None => self.unexpected(&format!("'{sign}'"), false),
        }
    }

    /// Notes that something else was expected.
    fn unexpected<T>(&mut self, expected: &str, extra: bool) -> Read<T> {
        let token = &self.tokens[self.at];
        let found = if token.word == Word::End { "<EOF>" } else { &token.text };
        // Upstream's parser says that a word is extra where reading on without it would do.
        let last = self.tokens.get(self.at + 1).is_some_and(|next| next.word == Word::End);
        let kind = if extra && last { "extraneous" } else { "mismatched" };
        let message = format!("Syntax error: {kind} input '{found}' expecting {expected}");
        self.nodes.issues.add(Some(token.offset), message);
        Err(Stop)
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<T> {
        self.nesting += 1;
        if self.nesting > NESTING_MAX {
            self.nodes.issues.add(None, format!("expression recursion limit exceeded: {NESTING_MAX}"));
            return Err(Stop);
        }
        let read = read(self);
        self.nesting -= 1;
        read
    }

    fn expression(&mut self) -> Read<Expr> {
        self.nested(Self::conditional)
    }

    fn conditional(&mut self) -> Read<Expr> {
        let condition = self.binary()?;
        let Some(offset) = self.take("?") else { return Ok(condition) };
        let yes = self.binary()?;
        self.expect(":")?;
        let no = self.expression()?;
        self.call(offset, "_?_:_", vec![condition, yes, no])
    }

    /// Everything between `?` and the single operands. In one frame, so that nesting takes little of the stack: operands
    /// are joined as soon as a weaker operator follows, `&&` and `||` at the end, since their chains become balanced trees.
    fn binary(&mut self) -> Read<Expr> {
        let mut operands = vec![self.unary()?];
        let mut waiting: Vec<(u8, &str, u32)> = Vec::new();
        // The terms of `||`, each a list of the terms of `&&` with the places of its signs.
        let mut any: Vec<(Vec<Option<Expr>>, Vec<u32>)> = vec![(Vec::new(), Vec::new())];
        let mut ors = Vec::new();
        loop {
            let next = self.operator();
            let strength = next.map_or(0, |(strength, _)| strength);
            while let Some((_, function, offset)) = waiting.pop_if(|(before, ..)| *before >= strength) {
                let right = operands.pop().expect("each operator has two operands");
                let left = operands.pop().expect("each operator has two operands");
                operands.push(self.call(offset, function, vec![left, right])?);
            }
            let Some((strength, function)) = next else { break };
            let offset = self.next().offset;
            if strength > LOGICAL {
                waiting.push((strength, function, offset));
            } else {
                let all = any.last_mut().expect("there is always a last one");
                all.0.push(operands.pop());
                if function == "_&&_" {
                    all.1.push(offset);
                } else {
                    any.push((Vec::new(), Vec::new()));
                    ors.push(offset);
                }
            }
            operands.push(self.unary()?);
        }
        any.last_mut().expect("there is always a last one").0.push(operands.pop());
        let mut terms = Vec::with_capacity(any.len());
        for (mut all, ands) in any {
            terms.push(Some(self.balanced("_&&_", &mut all, &ands)?));
        }
        self.balanced("_||_", &mut terms, &ors)
    }

    /// The operator that is next, and how strongly it binds.
    fn operator(&self) -> Option<(u8, &'static str)> {
        let sign = match self.peek() {
            Word::Sign(sign) => *sign,
            Word::Ident(name) if &**name == "in" => "in",
            _ => return None,
        };
        Some(match sign {
            "||" | "&&" => (LOGICAL, if sign == "&&" { "_&&_" } else { "_||_" }),
            "<" => (2, "_<_"),
            "<=" => (2, "_<=_"),
            ">" => (2, "_>_"),
            ">=" => (2, "_>=_"),
            "==" => (2, "_==_"),
            "!=" => (2, "_!=_"),
            "in" => (2, "@in"),
            "+" => (3, "_+_"),
            "-" => (3, "_-_"),
            "*" => (4, "_*_"),
            "/" => (4, "_/_"),
            "%" => (4, "_%_"),
            _ => return None,
        })
    }

    fn balanced(&mut self, function: &str, terms: &mut [Option<Expr>], signs: &[u32]) -> Read<Expr> {
        if signs.is_empty() {
            return Ok(terms[0].take().expect("each term is used once"));
        }
        let middle = signs.len() / 2;
        let (before, behind) = terms.split_at_mut(middle + 1);
        let left = self.balanced(function, before, &signs[..middle])?;
        let right = self.balanced(function, behind, &signs[middle + 1..])?;
        self.call(signs[middle], function, vec![left, right])
    }

    fn unary(&mut self) -> Read<Expr> {
        let (sign, function) = if self.is("!") {
            ("!", "!_")
        } else if self.is("-") && !self.is_negative_number() {
            ("-", "-_")
        } else {
            return self.member();
        };
        let first = self.offset();
        let mut count = 0;
        while self.is(sign) && !(sign == "-" && count > 0 && self.is_negative_number()) {
            self.next();
            count += 1;
        }
        let operand = self.member()?;
        if count % 2 == 0 { Ok(operand) } else { self.call(first, function, vec![operand]) }
    }

    fn is_negative_number(&self) -> bool {
        let next = self.tokens.get(self.at + 1).map(|token| &token.word);
        self.is("-") && matches!(next, Some(Word::Int(_) | Word::Float(_)))
    }

    fn member(&mut self) -> Read<Expr> {
        let mut of = self.primary()?;
        loop {
            if let Some(dot) = self.take(".") {
                of = self.selection(of, dot)?;
            } else if let Some(bracket) = self.take("[") {
                let optional = self.take("?").is_some();
                let index = self.expression()?;
                self.expect("]")?;
                of = self.call(bracket, if optional { "_[?_]" } else { "_[_]" }, vec![of, index])?;
            } else {
                return Ok(of);
            }
        }
    }

    fn selection(&mut self, of: Expr, dot: u32) -> Read<Expr> {
        let optional = self.take("?").is_some();
        let token = self.next();
        let field = match &token.word {
            Word::Ident(name) if !["in", "true", "false", "null"].contains(&&**name) => name.clone(),
            Word::Escaped(name) => name.clone(),
            _ => {
                self.at -= usize::from(token.word != Word::End);
                return self.unexpected("{'?', IDENTIFIER, ESC_IDENTIFIER}", false);
            }
        };
        if optional {
            let field = self.nodes.make(token.offset, Kind::Literal(Value::String(Text::from(&*field))))?;
            return self.call(dot, "_?._", vec![of, field]);
        }
        if let (true, Word::Ident(_)) = (self.is("("), &token.word) {
            let bracket = self.next().offset;
            let args = self.list(")")?;
            return self.function(bracket, Some(of), &field, args);
        }
        self.nodes.make(dot, Kind::Select { operand: Box::new(of), field, test: false })
    }

    fn primary(&mut self) -> Read<Expr> {
        let token = self.next();
        let offset = token.offset;
        let literal = match token.word {
            Word::Sign("(") => {
                let inner = self.expression()?;
                self.expect(")")?;
                return Ok(inner);
            }
            Word::Sign("[") => return self.list_literal(offset),
            Word::Sign("{") => return self.map_literal(offset),
            Word::Sign(".") => {
                let token = self.next();
                let Word::Ident(name) = token.word else {
                    self.at -= usize::from(token.word != Word::End);
                    return self.unexpected("IDENTIFIER", false);
                };
                return self.name(offset, format!(".{name}"));
            }
            Word::Sign("-") => return self.number(offset, true),
            Word::Int(_) | Word::Uint(_) | Word::Float(_) => {
                self.at -= 1;
                return self.number(offset, false);
            }
            Word::String(text) => Value::String(Text::from(&*text)),
            Word::Bytes(bytes) => Value::Bytes(bytes.into_vec().into()),
            Word::Ident(name) => match &*name {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                "null" => Value::Null,
                "in" => {
                    self.at -= 1;
                    return self.unexpected(BEGINNINGS, false);
                }
                _ => return self.name(offset, name.into()),
            },
            Word::End | Word::Sign(_) | Word::Escaped(_) => {
                self.at -= usize::from(token.word != Word::End);
                return self.unexpected(BEGINNINGS, false);
            }
        };
        self.nodes.make(offset, Kind::Literal(literal))
    }

    fn number(&mut self, offset: u32, negative: bool) -> Read<Expr> {
        let token = self.next();
        let value = match &token.word {
            Word::Int(digits) => whole(digits, negative).map(Value::Int).ok_or("invalid int literal"),
            Word::Uint(digits) => {
                let (digits, radix) = radix(digits);
                u64::from_str_radix(digits, radix).map(Value::Uint).map_err(|_| "invalid uint literal")
            }
            Word::Float(digits) => {
                let sign = if negative { "-" } else { "" };
                let value = format!("{sign}{digits}").parse().ok().filter(|value: &f64| value.is_finite());
                value.map(Value::Double).ok_or("invalid double literal")
            }
            _ => {
                self.at -= usize::from(token.word != Word::End);
                return self.unexpected(BEGINNINGS, false);
            }
        };
        match value {
            Ok(value) => self.nodes.make(offset, Kind::Literal(value)),
            Err(why) => self.nodes.wrong(offset, why),
        }
    }

    /// A name, a call of a function, or a message.
    fn name(&mut self, offset: u32, name: String) -> Read<Expr> {
        if let Some(fields) = self.message_fields() {
            let ends = self.at + fields;
            let mut whole = name;
            while self.at < ends {
                whole.push_str(&self.next().text);
            }
            let bracket = self.expect("{")?;
            return self.message(bracket, whole);
        }
        if is_reserved(name.trim_start_matches('.')) {
            let wrong = self.nodes.wrong(offset, format!("reserved identifier: {name}"));
            if self.take("(").is_some() {
                self.list(")")?;
            }
            return wrong;
        }
        let Some(bracket) = self.take("(") else { return self.nodes.make(offset, Kind::Ident(name.into())) };
        let args = self.list(")")?;
        self.function(bracket, None, &name, args)
    }

    /// How many words there are between a name and the `{` that makes it the name of a message.
    fn message_fields(&self) -> Option<usize> {
        let word = |at: usize| self.tokens.get(self.at + at).map(|token| &token.word);
        let mut at = 0;
        while word(at) == Some(&Word::Sign(".")) && matches!(word(at + 1), Some(Word::Ident(_))) {
            at += 2;
        }
        (word(at) == Some(&Word::Sign("{"))).then_some(at)
    }

    fn message(&mut self, bracket: u32, name: String) -> Read<Expr> {
        let mut fields = Vec::new();
        while !self.is("}") {
            let optional = self.take("?").is_some();
            let token = self.next();
            let (Word::Ident(field) | Word::Escaped(field)) = token.word else {
                self.at -= usize::from(token.word != Word::End);
                return self.unexpected("{'}', '?', IDENTIFIER}", false);
            };
            let colon = self.expect(":")?;
            let value = self.expression()?;
            let key = self.nodes.make(token.offset, Kind::Literal(Value::Null))?;
            let id = self.nodes.number(colon, 0)?;
            fields.push((field, Entry { id, key, value, optional }));
            if self.take(",").is_none() {
                break;
            }
        }
        self.expect("}")?;
        self.nodes.make(bracket, Kind::Message { name: name.into(), fields })
    }

    fn list_literal(&mut self, bracket: u32) -> Read<Expr> {
        let (mut items, mut optional) = (Vec::new(), Vec::new());
        while !self.is("]") {
            optional.push(self.take("?").is_some());
            items.push(self.expression()?);
            if self.take(",").is_none() {
                break;
            }
        }
        self.expect("]")?;
        self.nodes.make(bracket, Kind::List { items, optional })
    }

    fn map_literal(&mut self, bracket: u32) -> Read<Expr> {
        let mut entries = Vec::new();
        while !self.is("}") {
            let optional = self.take("?").is_some();
            let key = self.expression()?;
            let colon = self.expect(":")?;
            let value = self.expression()?;
            let id = self.nodes.number(colon, 0)?;
            entries.push(Entry { id, key, value, optional });
            if self.take(",").is_none() {
                break;
            }
        }
        self.expect("}")?;
        self.nodes.make(bracket, Kind::Map(entries))
    }

    /// Expressions up to a closing bracket, which is taken.
    fn list(&mut self, closing: &str) -> Read<Vec<Expr>> {
        let mut items = Vec::new();
        if self.take(closing).is_some() {
            return Ok(items);
        }
        loop {
            items.push(self.expression()?);
            if self.take(",").is_none() {
                self.expect(closing)?;
                return Ok(items);
            }
        }
    }

    fn function(&mut self, offset: u32, target: Option<Expr>, name: &str, args: Vec<Expr>) -> Read<Expr> {
        macros::expand(&mut self.nodes, offset, target, name, args)
    }

    fn call(&mut self, offset: u32, function: &str, args: Vec<Expr>) -> Read<Expr> {
        self.nodes.make(offset, Kind::Call { target: None, function: function.into(), args })
    }
}

fn radix(digits: &str) -> (&str, u32) {
    digits.strip_prefix("0x").map_or((digits, 10), |digits| (digits, 16))
}

fn whole(digits: &str, negative: bool) -> Option<i64> {
    let (digits, radix) = radix(digits);
    let value = i128::from(u64::from_str_radix(digits, radix).ok()?);
    i64::try_from(if negative { -value } else { value }).ok()
}
