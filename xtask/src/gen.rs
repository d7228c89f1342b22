//! `cargo xtask gen`: writes the schema table of the built-in types, `crates/api/src/schema/`.
//!
//! The facts come from two crates that were themselves generated from upstream: k8s-openapi for 1.36 (JSON names, types,
//! required fields, descriptions) and k8s-pb for 1.35 (protobuf tags, list types, merge keys). What 1.36 added to the
//! latter is in `gen/additions.txt`. Alpha and beta versions are left out, since they are not served.
//!
//! The same sources give the same bytes: a test compares them with what is committed.

mod openapi;
mod wire;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use self::openapi::{Definition, Property};
use self::wire::{Message, Wire};

const TYPES: &str = "crates/api/src/schema/types.txt";
/// Kept as deflated text: ten times as long as the table, and wanted by OpenAPI alone.
const DESCRIPTIONS: &str = "crates/api/src/schema/descriptions.txt.zz";

/// Writes the table.
pub(crate) fn run(root: &Path) -> Result<()> {
    let tables = generate(root)?;
    let mut deflate = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    deflate.write_all(tables.descriptions.as_bytes())?;
    for (name, content) in [(TYPES, tables.types.into_bytes()), (DESCRIPTIONS, deflate.finish()?)] {
        let path = root.join(name);
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

struct Tables {
    types: String,
    descriptions: String,
}

fn generate(root: &Path) -> Result<Tables> {
    // Crates for other platforms may not be on this machine.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let packages = cargo_metadata::MetadataCommand::new()
        .manifest_path(root.join("xtask/Cargo.toml"))
        .features(cargo_metadata::CargoOpt::AllFeatures)
        .other_options(["--offline", "--locked", "--filter-platform", &platform].map(str::to_owned))
        .exec()
        .context("cannot find the sources of the crates that the schema is read from")?
        .packages;
    let source = |name: &str| -> Result<PathBuf> {
        let package = packages.iter().find(|package| package.name == name);
        let package = package.with_context(|| format!("{name} is not among the dependencies"))?;
        Ok(package.manifest_path.with_file_name("src").into())
    };
    let mut definitions = openapi::read(&source("k8s-openapi")?.join("v1_36"))?;
    let messages = wire::read(&source("k8s-pb")?, include_str!("gen/additions.txt"))?;
    add_lists(&mut definitions, &messages);
    let reached = reach(definitions);
    Ok(Tables { types: write_types(&reached, &messages)?, descriptions: write_descriptions(&reached) })
}

/// k8s-openapi has one generic list; the API has a kind of list for each kind.
fn add_lists(definitions: &mut BTreeMap<String, Definition>, messages: &BTreeMap<String, Message>) {
    let elements = definitions.iter().filter(|(_, definition)| definition.listed);
    let lists: Vec<_> =
        elements.map(|(name, element)| (format!("{name}List"), list_of(name, element, messages))).collect();
    definitions.extend(lists);
}

fn list_of(name: &str, element: &Definition, messages: &BTreeMap<String, Message>) -> Definition {
    let (api_version, kind) = element.kind.clone().unwrap_or_default();
    let message = messages.get(&wire::key(&format!("{name}List"))).cloned().unwrap_or_default();
    let docs = |field: &str| message.fields.get(field).map_or("", |field| &field.docs);
    let or = |text: &str, otherwise: String| if text.is_empty() { otherwise } else { text.to_owned() };
    let items = Property {
        name: "items".to_owned(),
        kind: format!("[]{name}"),
        required: true,
        description: or(docs("items"), format!("List of {kind}.")),
    };
    let metadata = Property {
        name: "metadata".to_owned(),
        kind: LIST_META.to_owned(),
        required: false,
        description: or(docs("metadata"), LIST_METADATA.to_owned()),
    };
    let type_meta = element.properties.iter().filter(|it| ["apiVersion", "kind"].contains(&&*it.name)).cloned();
    let mut properties: Vec<Property> = type_meta.chain([items, metadata]).collect();
    properties.sort_by(|a, b| a.name.cmp(&b.name));
    Definition {
        description: or(&message.docs, format!("{kind}List is a list of {kind}.")),
        kind: Some((api_version, format!("{kind}List"))),
        properties,
        ..Definition::default()
    }
}

const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const LIST_METADATA: &str = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// Leaves out what no type with a kind of its own refers to.
fn reach(mut definitions: BTreeMap<String, Definition>) -> BTreeMap<String, Definition> {
    let rooted = |(name, definition): (&String, &Definition)| {
        (definition.kind.is_some() || name.contains(".apis.meta.v1.") || name.contains(".version."))
            .then(|| name.clone())
    };
    let mut waiting: Vec<String> = definitions.iter().filter_map(rooted).collect();
    let mut reached = BTreeMap::new();
    while let Some(name) = waiting.pop() {
        if let Some(definition) = definitions.remove(&name) {
            waiting.extend(definition.properties.iter().map(|property| element(&property.kind).to_owned()));
            reached.insert(name, definition);
        }
    }
    reached
}

/// The kind of value inside lists and maps.
fn element(kind: &str) -> &str {
    kind.trim_start_matches(['[', ']', '{', '}'])
}

const HEADER: &str = "\
# The built-in types. Written by `cargo xtask gen`; the loader is beside it, in table.rs.
#
# A line without indent is a type: its name, then what is known of it. Indented lines are its fields: JSON name, kind of
# value ([] list, {} map, a type's name (from a dot: in the same package), or a scalar), protobuf tags from the outermost
# message (`-`: not on the wire), then what is known of it; `!` is required.
";

fn write_types(definitions: &BTreeMap<String, Definition>, messages: &BTreeMap<String, Message>) -> Result<String> {
    let mut out = HEADER.to_owned();
    for (name, definition) in definitions {
        let message = messages.get(&wire::key(name));
        write!(out, "{name}")?;
        if let Some(scalar) = definition.scalar {
            write!(out, " is={scalar}")?;
        }
        if let Some((api_version, kind)) = &definition.kind {
            write!(out, " kind={api_version}/{kind}")?;
        }
        write_type_marks(&mut out, definition, message)?;
        out.push('\n');
        let package = name.rsplit_once('.').map_or("", |(package, _)| package);
        for property in &definition.properties {
            let wire = message.and_then(|message| message.find(&property.name, &definition.names(), messages));
            write_field(&mut out, package, property, wire.as_ref())?;
        }
    }
    Ok(out)
}

fn write_type_marks(out: &mut String, definition: &Definition, message: Option<&Message>) -> Result<()> {
    let Some(message) = message else { return Ok(()) };
    if let Some(kind) = message.mark("structType") {
        write!(out, " map={kind}")?;
    }
    if message.mark("union").is_some() {
        let discriminator = message.fields.values().find(|field| field.mark("unionDiscriminator").is_some());
        let of = |property: &&Property| discriminator.is_some_and(|field| field.json == property.name);
        let name = definition.properties.iter().find(of).map_or("", |property| &property.name);
        let members = definition.properties.iter().filter(|property| !property.required && property.name != name);
        let members: Vec<&str> = members.map(|property| &*property.name).collect();
        write!(out, " union={name}:{}", members.join(","))?;
    }
    Ok(())
}

fn write_field(out: &mut String, package: &str, property: &Property, wire: Option<&Wire>) -> Result<()> {
    let (shape, value) = property.kind.split_at(property.kind.len() - element(&property.kind).len());
    let value = match value.rsplit_once('.') {
        Some((same, name)) if same == package => format!(".{name}"),
        _ => value.to_owned(),
    };
    write!(out, " {} {shape}{value} ", property.name)?;
    match wire {
        Some(wire) => write!(out, "{}", wire.tags)?,
        None => write!(out, "-")?,
    }
    if property.required {
        write!(out, " !")?;
    }
    if let Some(wire) = wire {
        write_marks(out, wire)?;
    }
    out.push('\n');
    Ok(())
}

fn write_marks(out: &mut String, wire: &Wire) -> Result<()> {
    if let Some(kind) = wire.mark("listType") {
        write!(out, " list={kind}")?;
    }
    let keys: Vec<&str> = wire.marks("listMapKey").collect();
    if !keys.is_empty() {
        write!(out, " keys={}", keys.join(","))?;
    }
    let rest = [("patchMergeKey", "merge"), ("patchStrategy", "strategy"), ("mapType", "map"), ("structType", "map")];
    for (mark, name) in rest {
        if let Some(value) = wire.mark(mark) {
            write!(out, " {name}={value}")?;
        }
    }
    Ok(())
}

/// One text for each type and field, in the order of the table, with a zero byte behind each.
fn write_descriptions(definitions: &BTreeMap<String, Definition>) -> String {
    let texts = definitions.values().flat_map(|definition| {
        std::iter::once(&definition.description)
            .chain(definition.properties.iter().map(|property| &property.description))
    });
    texts.fold(String::new(), |all, text| all + text + "\0\n")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_committed_table_is_what_the_sources_give() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let tables = generate(root).unwrap();
        let types = std::fs::read_to_string(root.join(TYPES)).unwrap();
        assert!(types == tables.types, "{TYPES} differs: run `cargo xtask gen`");
        // The text is compared, not its deflated bytes: another version of the library may deflate it otherwise.
        let deflated = std::fs::read(root.join(DESCRIPTIONS)).unwrap();
        let mut descriptions = String::new();
        flate2::read::ZlibDecoder::new(&deflated[..]).read_to_string(&mut descriptions).unwrap();
        assert!(descriptions == tables.descriptions, "{DESCRIPTIONS} differs: run `cargo xtask gen`");
    }
}
