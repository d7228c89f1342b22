//! Reads protobuf tags and markers (`+listType=map`) from k8s-pb's messages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// A message.
#[derive(Debug, Clone, Default)]
pub(super) struct Message {
    /// Its comment, in one line per paragraph, without markers.
    pub(super) docs: String,
    marks: Vec<(String, String)>,
    /// By plain name.
    pub(super) fields: BTreeMap<String, Field>,
}

/// A field.
#[derive(Debug, Clone, Default)]
pub(super) struct Field {
    pub(super) docs: String,
    marks: Vec<(String, String)>,
    tag: String,
    /// The name of its message, where it has one.
    message: Option<String>,
    /// Its plain name: without case and underscores.
    pub(super) json: String,
}

/// A field as it was found: perhaps inside messages that JSON does not show.
#[derive(Debug)]
pub(super) struct Wire {
    /// Its tag behind those of the messages around it, such as `2.14`.
    pub(super) tags: String,
    marks: Vec<(String, String)>,
}

impl Message {
    /// The value of a marker; empty where it has none.
    pub(super) fn mark(&self, name: &str) -> Option<&str> {
        mark(&self.marks, name)
    }

    /// Finds a field by its JSON name. Structs that Go embeds are inline in JSON and messages on the wire: a message field
    /// whose own name is not in JSON (`names` has all that are) is looked into.
    pub(super) fn find(
        &self,
        json: &str,
        names: &BTreeSet<&str>,
        messages: &BTreeMap<String, Message>,
    ) -> Option<Wire> {
        if let Some(field) = self.fields.get(&plain(json)) {
            return Some(Wire { tags: field.tag.clone(), marks: field.marks.clone() });
        }
        let names_in_json: BTreeSet<String> = names.iter().map(|name| plain(name)).collect();
        self.fields.iter().filter(|(name, _)| !names_in_json.contains(*name)).find_map(|(_, field)| {
            let inner = messages.get(&key(field.message.as_ref()?))?.find(json, names, messages)?;
            Some(Wire { tags: format!("{}.{}", field.tag, inner.tags), ..inner })
        })
    }
}

impl Field {
    /// The value of a marker.
    pub(super) fn mark(&self, name: &str) -> Option<&str> {
        mark(&self.marks, name)
    }
}

impl Wire {
    /// The value of a marker.
    pub(super) fn mark(&self, name: &str) -> Option<&str> {
        mark(&self.marks, name)
    }

    /// The values of a marker that may be repeated.
    pub(super) fn marks<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.marks.iter().filter(move |mark| mark.0 == name).map(|mark| &*mark.1)
    }
}

fn mark<'a>(marks: &'a [(String, String)], name: &str) -> Option<&'a str> {
    marks.iter().find(|mark| mark.0 == name).map(|mark| &*mark.1)
}

/// A name without case and signs: the Rust names come from the JSON names by rules that cannot be turned back.
fn plain(name: &str) -> String {
    name.trim_start_matches("r#").replace(['_', '-', '$'], "").to_lowercase()
}

/// A type's name without case: `GRPCAction` is `GrpcAction` in Rust.
pub(super) fn key(name: &str) -> String {
    name.to_lowercase()
}

/// All messages by [`key`], with what newer versions added.
pub(super) fn read(folder: &Path, additions: &str) -> Result<BTreeMap<String, Message>> {
    let mut messages = BTreeMap::new();
    let mut folders = vec![(folder.to_owned(), vec!["io".to_owned(), "k8s".to_owned()])];
    while let Some((folder, package)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                let inner = package.iter().cloned().chain([name.replace('_', "-")]).collect();
                folders.push((path, inner));
            } else if name == "mod.rs" {
                let text = std::fs::read_to_string(&path)?;
                let file = syn::parse_file(&text).with_context(|| format!("cannot parse {}", path.display()))?;
                for item in &file.items {
                    if let syn::Item::Struct(item) = item {
                        let name = format!("{}.{}", package.join("."), item.ident);
                        let message = message(item, &package).with_context(|| format!("cannot read {name}"))?;
                        messages.insert(key(&name), message);
                    }
                }
            }
        }
    }
    add(&mut messages, additions)?;
    Ok(messages)
}

fn message(item: &syn::ItemStruct, package: &[String]) -> Result<Message> {
    let (docs, marks) = comment(&item.attrs);
    let mut fields = BTreeMap::new();
    for field in &item.fields {
        let ident = field.ident.as_ref().context("a field without a name")?;
        let (docs, marks) = comment(&field.attrs);
        let json = plain(&ident.to_string());
        let message = innermost(&field.ty).and_then(|path| type_name(path, package));
        fields.insert(json.clone(), Field { docs, marks, tag: tag(&field.attrs)?, message, json });
    }
    Ok(Message { docs, marks, fields })
}

fn tag(attributes: &[syn::Attribute]) -> Result<String> {
    let mut tag = None;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("prost")) {
        attribute.parse_nested_meta(|meta| {
            if meta.input.peek(syn::Token![=]) {
                let value: syn::LitStr = meta.value()?.parse()?;
                if meta.path.is_ident("tag") {
                    tag = Some(value.value());
                }
            }
            Ok(())
        })?;
    }
    tag.context("a field without a tag")
}

/// The type inside `Option`, `Box`, `Vec` and the values of maps.
fn innermost(kind: &syn::Type) -> Option<&syn::Path> {
    let syn::Type::Path(kind) = kind else { return None };
    match &kind.path.segments.last()?.arguments {
        syn::PathArguments::AngleBracketed(arguments) => match arguments.args.last()? {
            syn::GenericArgument::Type(inner) => innermost(inner),
            _ => None,
        },
        _ => Some(&kind.path),
    }
}

/// The name of the message that a relative path means.
fn type_name(path: &syn::Path, package: &[String]) -> Option<String> {
    if path.leading_colon.is_some() {
        return None;
    }
    let mut names = package.to_vec();
    for segment in &path.segments {
        match segment.ident.to_string() {
            name if name == "super" => {
                names.pop()?;
            }
            name => names.push(name.replace('_', "-")),
        }
    }
    Some(names.join("."))
}

/// A comment's text, in one line per paragraph, and its markers.
fn comment(attributes: &[syn::Attribute]) -> (String, Vec<(String, String)>) {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    let (mut text, mut marks) = (String::new(), Vec::new());
    for line in lines {
        let line = line.trim();
        if let Some(mark) = line.strip_prefix('+') {
            let (name, value) = mark.split_once('=').unwrap_or((mark, ""));
            marks.push((name.to_owned(), value.to_owned()));
        } else if line.is_empty() {
            text.push_str("\n\n");
        } else {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push(' ');
            }
            text.push_str(&unwrap_addresses(line));
        }
    }
    (text.trim().to_owned(), marks)
}

/// prost-build puts addresses in angle brackets, for rustdoc.
fn unwrap_addresses(line: &str) -> String {
    let mut parts = line.split("<http");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str("http");
        text.push_str(&part.replacen('>', "", 1));
    }
    text
}

/// Lines of `type.field tag +marker=value...`, or `type +marker...`.
fn add(messages: &mut BTreeMap<String, Message>, additions: &str) -> Result<()> {
    for line in additions.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let name = words.next().context("a line without a name")?;
        let (marks, tags): (Vec<&str>, Vec<&str>) = words.partition(|word| word.starts_with('+'));
        let marks = marks.into_iter().map(|mark| {
            let (name, value) = mark[1..].split_once('=').unwrap_or((&mark[1..], ""));
            (name.to_owned(), value.to_owned())
        });
        match tags[..] {
            [] => messages.entry(key(name)).or_default().marks.extend(marks),
            [tag] => {
                let (name, field) = name.rsplit_once('.').context("a field without a type")?;
                let fields = &mut messages.entry(key(name)).or_default().fields;
                let field = fields
                    .entry(plain(field))
                    .or_insert_with_key(|json| Field { json: json.clone(), ..Field::default() });
                tag.clone_into(&mut field.tag);
                field.marks = marks.collect();
            }
            _ => bail!("{line:?} has more than one tag"),
        }
    }
    Ok(())
}
