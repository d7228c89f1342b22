//! Reads the table that `cargo xtask gen` wrote: one line a type or field, references by name.
//!
//! Names and marks stay slices of the text, which is part of the binary; what is made at the first use is 48 bytes a field.

use std::io::Read;
use std::ops::Range;
use std::sync::LazyLock;

use super::{Field, Kind, Shape, TypeRef, Value};

pub(super) static TABLE: LazyLock<Table> = LazyLock::new(|| Table::read(include_str!("types.txt")));

const DESCRIPTIONS: &[u8] = include_bytes!("descriptions.txt.zz");

pub(super) struct Table {
    /// By name.
    pub(super) types: Vec<Row>,
    /// Those of the first type, then those of the next.
    pub(super) fields: Vec<Field>,
    /// The types that are kinds, by `group/version/Kind`.
    kinds: Vec<TypeRef>,
}

pub(super) struct Row {
    pub(super) name: &'static str,
    /// `apps/v1/Deployment`, or empty.
    pub(super) kind: &'static str,
    pub(super) scalar: Option<Kind>,
    pub(super) fields: Range<usize>,
    /// What else is known, as in the table.
    pub(super) rest: &'static str,
}

/// The value of `name=value` among words.
pub(super) fn mark(words: &'static str, name: &str) -> Option<&'static str> {
    words.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

impl Table {
    /// The text is part of the binary and a test reads all of it: a line that cannot be read is our bug.
    fn read(text: &'static str) -> Self {
        let lines = || text.lines().filter(|line| !line.starts_with('#'));
        let mut types = Vec::new();
        let mut count = 0;
        for line in lines() {
            if line.starts_with(' ') {
                count += 1;
                continue;
            }
            let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
            let scalar = mark(rest, "is").map(|word| scalar(word).expect("the table's scalars are known"));
            types.push(Row { name, kind: mark(rest, "kind").unwrap_or_default(), scalar, fields: count..count, rest });
        }
        let mut table = Self { types, fields: Vec::with_capacity(count), kinds: Vec::new() };
        let mut owner = None;
        for line in lines() {
            if let Some(field) = line.strip_prefix(' ') {
                let at: usize = owner.expect("a field follows its type");
                let field = table.field(table.types[at].name, field).expect("a field has a name, a kind and tags");
                table.fields.push(field);
                table.types[at].fields.end += 1;
            } else {
                owner = Some(owner.map_or(0, |at| at + 1));
            }
        }
        let kinds = (0..table.types.len()).filter(|at| !table.types[*at].kind.is_empty());
        table.kinds = kinds.filter_map(|at| u16::try_from(at).ok().map(TypeRef)).collect();
        let mut kinds = std::mem::take(&mut table.kinds);
        kinds.sort_by_key(|kind| table.types[usize::from(kind.0)].kind);
        table.kinds = kinds;
        table
    }

    fn field(&self, owner: &str, line: &'static str) -> Option<Field> {
        let (name, line) = line.split_once(' ')?;
        let (kind, rest) = line.split_once(' ')?;
        let value = kind.trim_start_matches(['[', ']', '{', '}']);
        let shape = match kind.strip_suffix(value)? {
            "" => Shape::One,
            "[]" => Shape::List,
            "{}" => Shape::Map,
            "{}[]" => Shape::MapOfLists,
            _ => return None,
        };
        let value = match scalar(value) {
            Some(kind) => Value::Scalar(kind),
            None if value.starts_with('.') => {
                Value::Type(self.by_name(&format!("{}{value}", owner.rsplit_once('.')?.0))?)
            }
            None => Value::Type(self.by_name(value)?),
        };
        let mut wire = [0; 3];
        let tags = rest.split(' ').next().unwrap_or_default().split('.').filter(|tag| *tag != "-");
        for (at, tag) in tags.enumerate() {
            *wire.get_mut(at)? = tag.parse().ok()?;
        }
        Some(Field { name, shape, value, wire, required: rest.split(' ').any(|word| word == "!"), rest })
    }

    pub(super) fn by_name(&self, name: &str) -> Option<TypeRef> {
        let at = self.types.binary_search_by(|row| row.name.cmp(name)).ok()?;
        u16::try_from(at).ok().map(TypeRef)
    }

    pub(super) fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<TypeRef> {
        let slash = if group.is_empty() { "" } else { "/" };
        let wanted = [group, slash, version, "/", kind];
        let wanted = || wanted.iter().flat_map(|part| part.bytes());
        let at = self.kinds.binary_search_by(|of| self.types[usize::from(of.0)].kind.bytes().cmp(wanted())).ok()?;
        Some(self.kinds[at])
    }
}

fn scalar(word: &str) -> Option<Kind> {
    Some(match word {
        "string" => Kind::String,
        "int32" => Kind::Int32,
        "int64" => Kind::Int64,
        "double" => Kind::Double,
        "bool" => Kind::Bool,
        "bytes" => Kind::Bytes,
        "quantity" => Kind::Quantity,
        "intorstring" => Kind::IntOrString,
        "time" => Kind::Time,
        "microtime" => Kind::MicroTime,
        "object" => Kind::Object,
        "any" => Kind::Any,
        _ => return None,
    })
}

/// What upstream says of types and fields.
pub struct Descriptions {
    text: String,
    /// Where each text ends: types in the order of the table, each with its fields behind it.
    ends: Vec<usize>,
}

/// Stands between the texts.
const SEPARATOR: &str = "\0\n";

impl Descriptions {
    pub(super) fn inflate() -> Self {
        let mut text = String::new();
        let inflated = flate2::read::ZlibDecoder::new(DESCRIPTIONS).read_to_string(&mut text);
        inflated.expect("the descriptions are part of the binary and were deflated when it was made");
        let ends = text.match_indices(SEPARATOR).map(|(at, _)| at).collect();
        Self { text, ends }
    }

    /// Of a type; empty where there is none.
    pub fn of_type(&self, of: TypeRef) -> &str {
        self.nth(usize::from(of.0) + of.row().fields.start)
    }

    /// Of a type's fields, in their order; empty where there is none.
    pub fn of_fields(&self, of: TypeRef) -> impl Iterator<Item = &str> {
        let first = usize::from(of.0) + of.row().fields.start + 1;
        (first..first + of.fields().len()).map(|at| self.nth(at))
    }

    fn nth(&self, at: usize) -> &str {
        let start = at.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |end| end + SEPARATOR.len());
        self.ends.get(at).map_or("", |end| &self.text[start..*end])
    }
}
