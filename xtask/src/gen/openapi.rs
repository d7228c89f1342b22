//! Reads types from k8s-openapi: each file there holds one, with a function that returns its JSON schema as a macro call.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use syn::parse::{Parse, ParseStream};
use syn::visit::Visit;
use syn::{Token, braced, bracketed, parenthesized, token};

/// A type.
#[derive(Debug, Clone, Default)]
pub(super) struct Definition {
    pub(super) description: String,
    /// What it is on the wire and in JSON, where it is no object with known fields.
    pub(super) scalar: Option<&'static str>,
    /// Its `apiVersion` and `kind`, where it is a kind.
    pub(super) kind: Option<(String, String)>,
    /// Whether there is a list kind of it.
    pub(super) listed: bool,
    pub(super) properties: Vec<Property>,
}

impl Definition {
    /// The JSON names of its fields.
    pub(super) fn names(&self) -> BTreeSet<&str> {
        self.properties.iter().map(|property| &*property.name).collect()
    }
}

/// A field.
#[derive(Debug, Clone)]
pub(super) struct Property {
    pub(super) name: String,
    /// `[]` or `{}` for each list or map around it, then a scalar's or a type's name.
    pub(super) kind: String,
    pub(super) required: bool,
    pub(super) description: String,
}

/// Types that are values of their own, not objects with known fields.
const SCALARS: &[(&str, &str)] = &[
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceSubresourceStatus", "object"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", "any"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray", "any"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", "any"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray", "any"),
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", "quantity"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "object"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "microtime"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Patch", "object"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "time"),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "object"),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "intorstring"),
];

/// Fields that k8s-openapi makes required and upstream does not, besides every `metadata`.
const OPTIONAL: &[(&str, &str)] = &[
    ("io.k8s.api.core.v1.ConfigMapEnvSource", "name"),
    ("io.k8s.api.core.v1.ConfigMapKeySelector", "name"),
    ("io.k8s.api.core.v1.ConfigMapProjection", "name"),
    ("io.k8s.api.core.v1.ConfigMapVolumeSource", "name"),
    ("io.k8s.api.core.v1.LocalObjectReference", "name"),
    ("io.k8s.api.core.v1.SecretEnvSource", "name"),
    ("io.k8s.api.core.v1.SecretKeySelector", "name"),
    ("io.k8s.api.core.v1.SecretProjection", "name"),
];

/// Fields that upstream requires and k8s-openapi does not.
const REQUIRED: &[(&str, &str)] =
    &[("io.k8s.api.core.v1.Event", "metadata"), ("io.k8s.api.events.v1.Event", "eventTime")];

/// All types below a folder by their names, such as `io.k8s.api.core.v1.Pod`, without alpha and beta versions.
pub(super) fn read(folder: &Path) -> Result<BTreeMap<String, Definition>> {
    let mut definitions = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path)?;
            let Some(name) = text.lines().next().and_then(|line| line.strip_prefix("// Generated from definition "))
            else {
                continue;
            };
            // `List` is generic: each kind's list is made from the kind.
            if name.contains("alpha") || name.contains("beta") || name == "io.k8s.List" {
                continue;
            }
            let file = syn::parse_file(&text).with_context(|| format!("cannot parse {}", path.display()))?;
            let definition = definition(name, &file).with_context(|| format!("cannot read {name}"))?;
            definitions.insert(name.to_owned(), definition);
        }
    }
    // References are Rust paths until all names are known.
    let by_path: BTreeMap<String, String> = definitions.keys().map(|name| (rust_path(name), name.clone())).collect();
    for property in definitions.values_mut().flat_map(|definition| &mut definition.properties) {
        if let Some(at) = property.kind.find("crate::") {
            let (shape, path) = property.kind.split_at(at);
            let name = by_path.get(path).with_context(|| format!("{path} is not defined"))?;
            property.kind = format!("{shape}{name}");
        }
    }
    Ok(definitions)
}

/// `io.k8s.api.core.v1.Pod` as `crate::api::core::v1::Pod`; the crates above apimachinery keep their folder.
fn rust_path(name: &str) -> String {
    let path = name.trim_start_matches("io.k8s.").replace('-', "_").replace('.', "::");
    format!("crate::{path}")
}

fn definition(name: &str, file: &syn::File) -> Result<Definition> {
    let mut definition = Definition::default();
    for item in &file.items {
        let syn::Item::Impl(block) = item else { continue };
        let Some((_, path, _)) = &block.trait_ else { continue };
        match path.segments.last().map(|segment| segment.ident.to_string()).as_deref() {
            Some("Resource") => {
                definition.kind = Some((constant(block, "API_VERSION")?, constant(block, "KIND")?));
            }
            Some("ListableResource") => definition.listed = true,
            Some("JsonSchema") => read_schema(&mut definition, &schema(block)?)?,
            _ => {}
        }
    }
    for property in &mut definition.properties {
        let field = (name, &*property.name);
        property.required &= property.name != "metadata" && !OPTIONAL.contains(&field);
        property.required |= REQUIRED.contains(&field);
    }
    definition.scalar = SCALARS.iter().find(|row| row.0 == name).map(|row| row.1);
    Ok(definition)
}

fn constant(block: &syn::ItemImpl, name: &str) -> Result<String> {
    let value = block.items.iter().find_map(|item| match item {
        syn::ImplItem::Const(constant) if constant.ident == name => match &constant.expr {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    value.with_context(|| format!("no constant {name}"))
}

/// The argument of `json_schema!` in the function of that name.
fn schema(block: &syn::ItemImpl) -> Result<Json> {
    struct Find(Option<syn::Result<Json>>);
    impl<'ast> Visit<'ast> for Find {
        fn visit_macro(&mut self, call: &'ast syn::Macro) {
            if call.path.segments.last().is_some_and(|segment| segment.ident == "json_schema") {
                self.0 = Some(call.parse_body());
            }
        }
    }
    let mut find = Find(None);
    find.visit_item_impl(block);
    Ok(find.0.context("no schema")??)
}

fn read_schema(definition: &mut Definition, schema: &Json) -> Result<()> {
    definition.description = schema.text("description").unwrap_or_default().to_owned();
    let required: Vec<&str> = match schema.get("required") {
        Some(Json::List(names)) => names.iter().filter_map(Json::as_text).collect(),
        _ => Vec::new(),
    };
    let Some(Json::Object(properties)) = schema.get("properties") else { return Ok(()) };
    for (name, value) in properties {
        definition.properties.push(Property {
            name: name.clone(),
            kind: value.kind().with_context(|| format!("field {name}"))?,
            required: required.contains(&&**name),
            description: value.description(),
        });
    }
    definition.properties.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(())
}

/// The macro's argument: JSON with Rust expressions.
enum Json {
    Text(String),
    Other,
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
    Rust(Box<syn::Expr>),
}

impl Parse for Json {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let content;
        if input.peek(token::Brace) {
            braced!(content in input);
            let pair = |input: ParseStream<'_>| {
                let name: syn::LitStr = input.parse()?;
                input.parse::<Token![:]>()?;
                Ok((name.value(), input.parse()?))
            };
            let pairs = content.parse_terminated(pair, Token![,])?;
            Ok(Json::Object(pairs.into_iter().collect()))
        } else if input.peek(token::Bracket) {
            bracketed!(content in input);
            let items = content.parse_terminated(Json::parse, Token![,])?;
            Ok(Json::List(items.into_iter().collect()))
        } else if input.peek(token::Paren) {
            parenthesized!(content in input);
            Ok(Json::Rust(content.parse()?))
        } else {
            Ok(match input.parse::<syn::Expr>()? {
                syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Json::Text(text.value()),
                syn::Expr::Lit(_) => Json::Other,
                expression => Json::Rust(Box::new(expression)),
            })
        }
    }
}

impl Json {
    fn get(&self, name: &str) -> Option<&Json> {
        match self {
            Json::Object(pairs) => pairs.iter().find(|pair| pair.0 == name).map(|pair| &pair.1),
            _ => None,
        }
    }

    fn as_text(&self) -> Option<&str> {
        if let Json::Text(text) = self { Some(text) } else { None }
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Json::as_text)
    }

    /// The kind of value that this schema describes.
    fn kind(&self) -> Result<String> {
        if let Json::Rust(expression) = self {
            return reference(expression).context("an expression without a reference");
        }
        let scalar = match (self.text("type"), self.text("format")) {
            (Some("array"), _) => return Ok(format!("[]{}", self.get("items").context("no items")?.kind()?)),
            (Some("object"), _) => match self.get("additionalProperties") {
                Some(values) => return Ok(format!("{{}}{}", values.kind()?)),
                None => bail!("an object in line"),
            },
            (Some("string"), Some("byte")) => "bytes",
            (Some("string"), None) => "string",
            (Some("integer"), Some("int32")) => "int32",
            (Some("integer"), Some("int64")) => "int64",
            (Some("number"), Some("double")) => "double",
            (Some("boolean"), None) => "bool",
            other => bail!("unknown kind of value {other:?}"),
        };
        Ok(scalar.to_owned())
    }

    fn description(&self) -> String {
        match self {
            Json::Rust(expression) => inserted_description(expression).unwrap_or_default(),
            _ => self.text("description").unwrap_or_default().to_owned(),
        }
    }
}

/// The type argument of `subschema_for::<T>()`.
fn reference(expression: &syn::Expr) -> Option<String> {
    struct Find(Option<String>);
    impl<'ast> Visit<'ast> for Find {
        fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
            if call.method == "subschema_for"
                && let Some(syn::GenericArgument::Type(syn::Type::Path(kind))) =
                    call.turbofish.iter().flat_map(|t| &t.args).next()
            {
                let names: Vec<String> = kind.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
                self.0 = Some(names.join("::"));
            }
            syn::visit::visit_expr_method_call(self, call);
        }
    }
    let mut find = Find(None);
    find.visit_expr(expression);
    find.0
}

/// The text in `insert("description".into(), text.into())`.
fn inserted_description(expression: &syn::Expr) -> Option<String> {
    #[derive(Default)]
    struct Texts(Vec<String>);
    impl<'ast> Visit<'ast> for Texts {
        fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
            self.0.push(text.value());
        }
    }
    let mut texts = Texts::default();
    texts.visit_expr(expression);
    let mut texts = texts.0.into_iter();
    texts.find(|text| text == "description").and_then(|_| texts.next())
}
