//! The OpenAPI documents that `/openapi/v2` and `/openapi/v3` serve, made from the resource table and the schema.
//!
//! They are what `kubectl explain`, `kubectl apply --validate`, client generators and server-side apply in clients read:
//! types and extensions are as in upstream's published documents, and paths have the same operations, identifiers and
//! parameters. Left out are the deprecated `/watch/` paths and the defaults that upstream notes in v3.
//!
//! All functions are pure. A document is written type by type and path by path into one buffer, so that making the 1.7 MB
//! of v2 takes little more than that; who serves it keeps it compressed, or makes it again.

mod definitions;
mod gnostic;
mod parameters;
mod paths;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use crate::resources::RESOURCES;
use crate::schema::{self, Descriptions, TypeRef};
use crate::{Resource, Verb};
use definitions::custom_name;
use paths::Path;

/// A custom resource and the JSON schema (OpenAPI v3) of its objects.
#[derive(Debug, Clone, Copy)]
pub struct Custom<'a> {
    /// The resource.
    pub resource: &'a Resource,
    /// Its `openAPIV3Schema`; an empty object where it has none.
    pub schema: &'a Value,
}

/// One document of OpenAPI v3.
#[derive(Debug, Clone)]
pub struct Document {
    /// Behind `/openapi/v3/`, such as `apis/apps/v1`.
    pub path: String,
    /// The JSON.
    pub json: Vec<u8>,
    /// Names the content: clients cache a document under it for ever.
    pub hash: String,
}

/// The two versions of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> Value {
        match self {
            Dialect::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Dialect::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

/// The document at `/openapi/v2`. `version` is the server's, such as `v1.36.2`.
pub fn v2(version: &str, custom: &[Custom<'_>]) -> Vec<u8> {
    Source::new(version, custom).v2()
}

/// A v2 document in the protobuf form that clients in Go ask for. Takes ten times its size while it is made.
pub fn v2_protobuf(json: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    Ok(gnostic::v2_protobuf(&serde_json::from_slice(json)?))
}

/// The paths behind `/openapi/v3/` that have a document.
pub fn v3_paths(custom: &[Custom<'_>]) -> Vec<String> {
    let mut all = documents(custom);
    all.extend(paths::discovery().into_iter().map(|path| path.document));
    all.into_iter().collect()
}

/// One document of `/openapi/v3/`; `None` where there is none at `path`. `version` is the server's, such as `v1.36.2`.
pub fn v3(path: &str, version: &str, custom: &[Custom<'_>]) -> Option<Document> {
    // Whoever asks for what is not there costs nothing.
    v3_paths(custom).iter().any(|it| it == path).then(|| Source::new(version, custom).v3(path))?
}

/// Several documents of `/openapi/v3/`, one after the other: cheaper than one by one, for who wants their hashes.
pub fn v3_documents<'a>(
    paths: Vec<String>,
    version: &'a str,
    custom: &'a [Custom<'a>],
) -> impl Iterator<Item = Document> + 'a {
    let source = Source::new(version, custom);
    paths.into_iter().filter_map(move |path| source.v3(&path))
}

/// The path of the document that describes a resource.
pub fn v3_path(resource: &Resource) -> String {
    paths::document(&resource.group, &resource.version)
}

/// The index at `/openapi/v3`: where each document is, with its hash.
pub fn v3_index<'a>(documents: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut index = Writer::new();
    let places = documents
        .into_iter()
        .map(|(path, hash)| (path.to_owned(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")})));
    index.map("paths", places);
    index.end()
}

/// The documents of all group versions.
fn documents(custom: &[Custom<'_>]) -> BTreeSet<String> {
    let resources = RESOURCES.iter().copied().chain(custom.iter().map(|custom| custom.resource));
    resources.map(|resource| paths::document(&resource.group, &resource.version)).collect()
}

/// What documents are made from. Holds the descriptions: no longer than documents are made.
struct Source<'a> {
    version: &'a str,
    custom: &'a [Custom<'a>],
    descriptions: Descriptions,
}

impl<'a> Source<'a> {
    fn new(version: &'a str, custom: &'a [Custom<'a>]) -> Self {
        Self { version, custom, descriptions: schema::descriptions() }
    }

    fn v2(&self) -> Vec<u8> {
        let mut paths = paths::discovery();
        paths.extend(documents(self.custom).iter().flat_map(|document| self.paths(document)));
        let mut document = Writer::new();
        document.field("swagger", &json!("2.0"));
        document.field("info", &self.info());
        document.map("paths", paths.iter().map(|path| (path.path.clone(), path.to_json(Dialect::V2))));
        let built_in = |of: TypeRef| (of.name().to_owned(), self.built_in(of, Dialect::V2));
        let customs =
            self.custom.iter().flat_map(|custom| definitions::custom(*custom, &self.descriptions, Dialect::V2));
        document.map("definitions", schema::types().map(built_in).chain(customs));
        document.field("parameters", &parameters::shared());
        document.field("securityDefinitions", &security());
        document.field("security", &json!([{"BearerToken": []}]));
        document.end()
    }

    fn v3(&self, path: &str) -> Option<Document> {
        let mut paths: Vec<Path> = paths::discovery().into_iter().filter(|it| it.document == path).collect();
        paths.extend(self.paths(path));
        if paths.is_empty() {
            return None;
        }
        let mut document = Writer::new();
        document.field("openapi", &json!("3.0.0"));
        document.field("info", &self.info());
        document.map("paths", paths.iter().map(|path| (path.path.clone(), path.to_json(Dialect::V3))));
        let components = Writer::nested(|components| {
            components.raw("schemas", &Writer::nested(|schemas| self.write_schemas(schemas, path, &paths)));
            components.field("securitySchemes", &security());
        });
        document.raw("components", &components);
        let json = document.end();
        let hash = Sha512::digest(&json).iter().map(|byte| format!("{byte:02X}")).collect();
        Some(Document { path: path.to_owned(), json, hash })
    }

    fn info(&self) -> Value {
        json!({"title": "Kubernetes", "version": self.version})
    }

    fn built_in(&self, of: TypeRef, dialect: Dialect) -> Value {
        definitions::built_in(of, &self.descriptions, dialect)
    }

    /// The paths of the resources in one document, sorted.
    fn paths(&self, document: &str) -> Vec<Path> {
        let customs = self.custom.iter().map(|custom| (custom.resource, custom_name(custom.resource)));
        let built_in = |resource: &&'static Resource| Some((*resource, schema::type_of(resource)?.name().to_owned()));
        let resources = RESOURCES.iter().filter_map(built_in).chain(customs);
        let mut paths = Vec::new();
        for (resource, name) in resources.filter(|(it, _)| paths::document(&it.group, &it.version) == document) {
            if paths.is_empty() {
                paths.push(paths::group_version(resource, document));
            }
            paths.extend(paths::of(resource, &name));
        }
        paths.sort_by(|a, b| a.path.cmp(&b.path));
        paths
    }

    /// The types that some paths refer to, and all that those refer to.
    fn write_schemas(&self, out: &mut Writer, document: &str, paths: &[Path]) {
        let mut waiting: Vec<TypeRef> = paths.iter().flat_map(Path::types).filter_map(schema::by_name).collect();
        let here =
            self.custom.iter().filter(|it| paths::document(&it.resource.group, &it.resource.version) == document);
        let customs: Vec<_> =
            here.flat_map(|custom| definitions::custom(*custom, &self.descriptions, Dialect::V3)).collect();
        if !customs.is_empty() {
            waiting.extend(definitions::METADATA.iter().filter_map(|name| schema::by_name(name)));
        }
        let mut reached = BTreeSet::new();
        while let Some(of) = waiting.pop() {
            if reached.insert(of) {
                waiting.extend(of.fields().iter().filter_map(schema::Field::type_ref));
            }
        }
        for of in reached {
            out.field(of.name(), &self.built_in(of, Dialect::V3));
        }
        for (name, schema) in customs {
            out.field(&name, &schema);
        }
    }
}

fn security() -> Value {
    json!({"BearerToken": {"description": "Bearer Token authentication", "in": "header", "name": "authorization",
        "type": "apiKey"}})
}

/// All group versions that are served, each once.
fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut served: Vec<(&str, &str)> = RESOURCES.iter().map(|it| (&*it.group, &*it.version)).collect();
    served.sort_unstable();
    served.dedup();
    served
}

/// Whether objects of the resource are listed, and so have a list kind.
fn listed(resource: &Resource) -> bool {
    resource.serves(Verb::List)
}

/// Writes a JSON object field by field.
struct Writer(Vec<u8>);

impl Writer {
    fn new() -> Self {
        Self(vec![b'{'])
    }

    fn nested(fill: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut writer = Self::new();
        fill(&mut writer);
        writer.end()
    }

    fn raw(&mut self, name: &str, json: &[u8]) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        self.0.extend_from_slice(json!(name).to_string().as_bytes());
        self.0.push(b':');
        self.0.extend_from_slice(json);
    }

    fn field(&mut self, name: &str, value: &Value) {
        self.raw(name, value.to_string().as_bytes());
    }

    fn map(&mut self, name: &str, entries: impl Iterator<Item = (String, Value)>) {
        let inner = Self::nested(|inner| entries.for_each(|(name, value)| inner.field(&name, &value)));
        self.raw(name, &inner);
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}
