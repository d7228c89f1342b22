//! Paths and their operations, from the resource table.

use serde_json::{Map, Value, json};

use super::definitions::group_version_kind;
use super::parameters::{self, NAME, NAMESPACE, NONE, PRETTY, Parameter, Parameters, REST};
use super::{Dialect, listed};
use crate::resource::Subresource;
use crate::{Resource, Verb, schema};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// A path.
pub(super) struct Path {
    /// Such as `/apis/apps/v1/deployments`.
    pub(super) path: String,
    /// The v3 document that it belongs to, such as `apis/apps/v1`.
    pub(super) document: String,
    parameters: Vec<&'static Parameter>,
    operations: Vec<Operation>,
}

struct Operation {
    method: &'static str,
    id: String,
    about: String,
    tag: String,
    /// `x-kubernetes-action`, and the group, version and kind that it is about.
    action: Option<(&'static str, Value)>,
    /// The type of the body.
    body: Option<String>,
    accepts: &'static [&'static str],
    parameters: Parameters,
    answer: Answer,
}

#[derive(Clone)]
struct Answer {
    codes: &'static [(&'static str, &'static str)],
    /// The type of its body; `None`: a string.
    body: Option<String>,
    encodings: &'static [&'static str],
}

const OK: &[(&str, &str)] = &[("200", "OK")];
const OK_CREATED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created")];
const OK_ACCEPTED: &[(&str, &str)] = &[("200", "OK"), ("202", "Accepted")];
const ALL_CODES: &[(&str, &str)] = &[("200", "OK"), ("201", "Created"), ("202", "Accepted")];

const ANY: &[&str] = &["*/*"];
const ENCODINGS: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor"];
const LOG_ENCODINGS: &[&str] =
    &["text/plain", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor"];
const DISCOVERY_ENCODINGS: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const LIST_ENCODINGS: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/cbor",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
    "application/cbor-seq",
];
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "application/apply-patch+cbor",
];
/// Custom resources have no merge keys.
const CUSTOM_PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
    "application/apply-patch+cbor",
];

/// Resources whose deletion answers with the object, not with a `Status`.
const RETURN_DELETED: &[(&str, &str)] = &[
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourceslices"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
];

/// The v3 document of a group version.
pub(super) fn document(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The paths of discovery that belong to no group version.
pub(super) fn discovery() -> Vec<Path> {
    let mut paths = vec![
        about("/api/", "api", "getCoreAPIVersions", "core", "get available API versions", "APIVersions"),
        about("/apis/", "apis", "getAPIVersions", "apis", "get available API versions", "APIGroupList"),
    ];
    let mut groups: Vec<&str> = super::group_versions().into_iter().map(|(group, _)| group).collect();
    groups.dedup();
    for group in groups.into_iter().filter(|group| !group.is_empty()) {
        let (id, tag) = (format!("get{}APIGroup", group_name(group)), lower_first(&group_name(group)));
        let document = format!("apis/{group}");
        paths.push(about(&format!("/{document}/"), &document, &id, &tag, "get information of a group", "APIGroup"));
    }
    let mut version = about("/version/", "version", "getCodeVersion", "version", "get the version of this server", "");
    version.operations[0].answer.body = Some("io.k8s.apimachinery.pkg.version.Info".to_owned());
    paths.push(version);
    paths
}

/// The path that lists a group version's resources.
pub(super) fn group_version(resource: &Resource, document: &str) -> Path {
    let id = format!("get{}APIResources", scope_name(resource));
    let text = "get available resources";
    let mut path = about(&format!("/{document}/"), document, &id, &tag(resource), text, "APIResourceList");
    for operation in &mut path.operations {
        operation.accepts = ENCODINGS;
        operation.answer.encodings = ENCODINGS;
    }
    path
}

fn about(path: &str, document: &str, id: &str, tag: &str, text: &str, kind: &str) -> Path {
    let answer = Answer { codes: OK, body: Some(format!("{META}.{kind}")), encodings: DISCOVERY_ENCODINGS };
    let operation = Operation {
        method: "get",
        id: id.to_owned(),
        about: text.to_owned(),
        tag: tag.to_owned(),
        action: None,
        body: None,
        accepts: DISCOVERY_ENCODINGS,
        parameters: NONE,
        answer,
    };
    Path { path: path.to_owned(), document: document.to_owned(), parameters: Vec::new(), operations: vec![operation] }
}

/// All paths of a resource whose type is `name`.
pub(super) fn of(resource: &Resource, name: &str) -> Vec<Path> {
    let maker = Maker { resource, name };
    let mut paths = Vec::new();
    if resource.namespaced() && listed(resource) {
        paths.push(maker.path(&[&resource.plural], vec![&PRETTY], vec![maker.list("ForAllNamespaces")]));
    }
    paths.push(maker.collection());
    paths.push(maker.item());
    for subresource in &*resource.subresources {
        paths.extend(maker.subresource(subresource));
    }
    paths.retain(|path| !path.operations.is_empty());
    paths
}

struct Maker<'a> {
    resource: &'a Resource,
    /// The name of its type.
    name: &'a str,
}

impl Maker<'_> {
    fn path(&self, parts: &[&str], parameters: Vec<&'static Parameter>, operations: Vec<Operation>) -> Path {
        let document = document(&self.resource.group, &self.resource.version);
        Path { path: format!("/{document}/{}", parts.join("/")), document, parameters, operations }
    }

    /// Below the namespace, where there is one.
    fn scoped(&self, parts: &[&str], mut parameters: Vec<&'static Parameter>, operations: Vec<Operation>) -> Path {
        if !self.resource.namespaced() {
            return self.path(parts, parameters, operations);
        }
        parameters.push(&NAMESPACE);
        self.path(&[&["namespaces", "{namespace}"], parts].concat(), parameters, operations)
    }

    fn collection(&self) -> Path {
        let mut operations = Vec::new();
        if listed(self.resource) {
            operations.push(self.list(""));
        }
        if self.resource.serves(Verb::Create) {
            operations.push(self.create());
        }
        if self.resource.serves(Verb::DeleteCollection) {
            let delete =
                self.operation("delete", "delete", "Collection", "", "deletecollection", "delete collection of");
            let answer = self.answer(OK, Some(format!("{META}.Status")));
            operations.push(Operation {
                body: Some(format!("{META}.DeleteOptions")),
                parameters: parameters::DELETE_COLLECTION,
                answer,
                ..delete
            });
        }
        self.scoped(&[&self.resource.plural], vec![&PRETTY], operations)
    }

    fn item(&self) -> Path {
        let mut operations: Vec<Operation> = [Verb::Get, Verb::Update, Verb::Patch]
            .iter()
            .filter(|verb| self.resource.serves(**verb))
            .map(|verb| self.change(*verb, "", self.name))
            .collect();
        if self.resource.serves(Verb::Delete) {
            let delete = self.operation("delete", "delete", "", "", "delete", "delete a");
            let whole = RETURN_DELETED.contains(&(&*self.resource.group, &*self.resource.plural));
            let body = if whole { self.name.to_owned() } else { format!("{META}.Status") };
            operations.push(Operation {
                body: Some(format!("{META}.DeleteOptions")),
                parameters: parameters::DELETE,
                answer: self.answer(OK_ACCEPTED, Some(body)),
                ..delete
            });
        }
        self.scoped(&[&self.resource.plural, "{name}"], vec![&NAME, &PRETTY], operations)
    }

    fn subresource(&self, subresource: &Subresource) -> Vec<Path> {
        let (plural, name) = (&*self.resource.plural, &*subresource.name);
        let parts = [plural, "{name}", name];
        let suffix = upper_first(name);
        if let Some((_, _, kind)) = subresource.kind.as_ref().filter(|(_, _, kind)| kind.ends_with("Options")) {
            let connect = |suffix: &str| -> Vec<Operation> {
                let methods = if name == "proxy" { PROXY_METHODS } else { STREAM_METHODS };
                methods.iter().map(|method| self.connect(method, suffix, name, kind)).collect()
            };
            let mut paths = vec![self.scoped(&parts, vec![&NAME], connect(&suffix))];
            if name == "proxy" {
                let parts = [&parts[..], &["{path}"]].concat();
                paths.push(self.scoped(&parts, vec![&NAME, &REST], connect(&format!("{suffix}WithPath"))));
            }
            return paths;
        }
        let kind = subresource.kind.as_ref();
        let of = kind.and_then(|(group, version, kind)| schema::by_kind(group, version, kind));
        let body = of.map_or(self.name, |of| of.name());
        let mut operations = Vec::new();
        for verb in &*subresource.verbs {
            let operation = match verb {
                Verb::Create => self.create_in(&suffix, name, body),
                Verb::Get | Verb::Update | Verb::Patch => self.change(*verb, &suffix, body),
                _ => continue,
            };
            operations.push(self.about_kind(operation, subresource));
        }
        if name == "log" {
            for operation in &mut operations {
                operation.answer.body = None;
                operation.answer.encodings = LOG_ENCODINGS;
            }
        }
        vec![self.scoped(&parts, vec![&NAME, &PRETTY], operations)]
    }

    /// Names the kind of a subresource's bodies where it is not the resource's.
    fn about_kind(&self, mut operation: Operation, subresource: &Subresource) -> Operation {
        if let (Some((group, version, kind)), Some(action)) = (&subresource.kind, &mut operation.action) {
            action.1 = group_version_kind(group, version, kind);
        }
        operation.parameters = match parameters::of_subresource(&subresource.name) {
            [] => operation.parameters,
            own => own,
        };
        operation
    }

    fn list(&self, suffix: &str) -> Operation {
        let mut list = self.operation("get", "list", "", suffix, "list", "list or watch objects of kind");
        if !suffix.is_empty() {
            list.id = format!("list{}{}{suffix}", scope_name(self.resource), self.resource.kind);
        }
        let answer = Answer { codes: OK, body: Some(format!("{}List", self.name)), encodings: LIST_ENCODINGS };
        Operation { parameters: parameters::LIST, answer, ..list }
    }

    fn create(&self) -> Operation {
        let create = self.operation("post", "create", "", "", "post", "create a");
        let answer = self.answer(ALL_CODES, Some(self.name.to_owned()));
        Operation { body: Some(self.name.to_owned()), parameters: parameters::WRITE, answer, ..create }
    }

    fn create_in(&self, suffix: &str, name: &str, body: &str) -> Operation {
        let mut create = self.operation("post", "create", "", suffix, "post", "create a");
        create.about = format!("create {name} of a {}", self.resource.kind);
        let answer = self.answer(ALL_CODES, Some(body.to_owned()));
        Operation { body: Some(body.to_owned()), parameters: parameters::WRITE, answer, ..create }
    }

    /// Reads, replaces or patches an object or a part of it.
    fn change(&self, verb: Verb, suffix: &str, body: &str) -> Operation {
        let answer = |codes| self.answer(codes, Some(body.to_owned()));
        match verb {
            Verb::Update => Operation {
                body: Some(body.to_owned()),
                parameters: parameters::WRITE,
                answer: answer(OK_CREATED),
                ..self.operation("put", "replace", "", suffix, "put", "replace the specified")
            },
            Verb::Patch => Operation {
                body: Some(format!("{META}.Patch")),
                accepts: if schema::type_of(self.resource).is_some() { PATCHES } else { CUSTOM_PATCHES },
                parameters: parameters::PATCH,
                answer: answer(OK_CREATED),
                ..self.operation("patch", "patch", "", suffix, "patch", "partially update the specified")
            },
            _ => Operation {
                answer: answer(OK),
                ..self.operation("get", "read", "", suffix, "get", "read the specified")
            },
        }
    }

    fn connect(&self, method: &'static str, suffix: &str, name: &str, kind: &str) -> Operation {
        let namespaced = if self.resource.namespaced() { "Namespaced" } else { "" };
        let (scope, own) = (scope_name(self.resource), &self.resource.kind);
        Operation {
            method,
            id: format!("connect{scope}{}{namespaced}{own}{suffix}", upper_first(method)),
            about: format!("connect {} requests to {name} of {own}", method.to_uppercase()),
            tag: tag(self.resource),
            action: Some(("connect", group_version_kind(&self.resource.group, &self.resource.version, kind))),
            body: None,
            accepts: ANY,
            parameters: parameters::of_subresource(name),
            answer: Answer { codes: OK, body: None, encodings: ANY },
        }
    }

    fn operation(
        &self,
        method: &'static str,
        verb: &str,
        collection: &str,
        suffix: &str,
        action: &'static str,
        about: &str,
    ) -> Operation {
        let resource = self.resource;
        let namespaced = if resource.namespaced() { "Namespaced" } else { "" };
        let part = if suffix.is_empty() { String::new() } else { format!("{} of the ", suffix.to_lowercase()) };
        let about = match about.strip_suffix("the specified") {
            Some(verb) => format!("{verb}{}{}", if part.is_empty() { "the specified " } else { &part }, resource.kind),
            None => format!("{about} {}", resource.kind),
        };
        Operation {
            method,
            id: format!("{verb}{}{collection}{namespaced}{}{suffix}", scope_name(resource), resource.kind),
            about,
            tag: tag(resource),
            action: Some((action, group_version_kind(&resource.group, &resource.version, &resource.kind))),
            body: None,
            accepts: ANY,
            parameters: NONE,
            answer: self.answer(OK, None),
        }
    }

    fn answer(&self, codes: &'static [(&'static str, &'static str)], body: Option<String>) -> Answer {
        Answer { codes, body, encodings: ENCODINGS }
    }
}

const STREAM_METHODS: &[&str] = &["get", "post"];
const PROXY_METHODS: &[&str] = &["get", "post", "put", "patch", "delete", "head", "options"];

/// `CoreV1`, `RbacAuthorizationV1`: the middle of operation identifiers.
fn scope_name(resource: &Resource) -> String {
    format!("{}{}", group_name(&resource.group), upper_first(&resource.version))
}

fn group_name(group: &str) -> String {
    if group.is_empty() {
        return "Core".to_owned();
    }
    group.trim_end_matches(".k8s.io").split(['.', '-']).map(upper_first).collect()
}

fn tag(resource: &Resource) -> String {
    format!("{}_{}", lower_first(&group_name(&resource.group)), resource.version)
}

fn upper_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_lowercase().chain(letters).collect())
}

impl Path {
    /// The types that its operations refer to.
    pub(super) fn types(&self) -> impl Iterator<Item = &str> {
        let bodies = self.operations.iter().flat_map(|operation| [&operation.body, &operation.answer.body]);
        bodies.flatten().map(|name| &**name)
    }

    pub(super) fn to_json(&self, dialect: Dialect) -> Value {
        let operations = self.operations.iter().map(|it| (it.method.to_owned(), it.to_json(dialect)));
        let mut path: Map<String, Value> = operations.collect();
        if !self.parameters.is_empty() {
            let parameters: Vec<Value> = self.parameters.iter().map(|it| it.to_reference(dialect)).collect();
            path.insert("parameters".into(), parameters.into());
        }
        Value::Object(path)
    }
}

impl Operation {
    fn to_json(&self, dialect: Dialect) -> Value {
        let mut operation = Map::from_iter([
            ("description".to_owned(), Value::from(&*self.about)),
            ("operationId".to_owned(), (&*self.id).into()),
            ("tags".to_owned(), json!([self.tag])),
        ]);
        let mut parameters: Vec<Value> = self.parameters.iter().map(|it| it.to_reference(dialect)).collect();
        let optional = self.method == "delete";
        let body = self.body.as_ref().map(|name| dialect.reference(name));
        match dialect {
            Dialect::V2 => {
                operation.insert("consumes".into(), json!(self.accepts));
                operation.insert("produces".into(), json!(self.answer.encodings));
                operation.insert("schemes".into(), json!(["https"]));
                if let Some(schema) = body {
                    let mut body = json!({"in": "body", "name": "body", "schema": schema});
                    if !optional {
                        body["required"] = true.into();
                    }
                    parameters.insert(0, body);
                }
            }
            Dialect::V3 => {
                if let Some(schema) = body {
                    let content = contents(self.accepts, &schema);
                    let body = if optional {
                        json!({"content": content})
                    } else {
                        json!({"content": content, "required": true})
                    };
                    operation.insert("requestBody".into(), body);
                }
            }
        }
        if !parameters.is_empty() {
            operation.insert("parameters".into(), parameters.into());
        }
        operation.insert("responses".into(), self.answer.to_json(dialect));
        if let Some((action, kind)) = &self.action {
            operation.insert("x-kubernetes-action".into(), (*action).into());
            operation.insert("x-kubernetes-group-version-kind".into(), kind.clone());
        }
        Value::Object(operation)
    }
}

impl Answer {
    fn to_json(&self, dialect: Dialect) -> Value {
        let schema = self.body.as_ref().map_or_else(|| json!({"type": "string"}), |name| dialect.reference(name));
        let answers = self.codes.iter().map(|(code, text)| {
            let answer = match dialect {
                Dialect::V2 => json!({"description": text, "schema": schema}),
                Dialect::V3 => json!({"description": text, "content": contents(self.encodings, &schema)}),
            };
            ((*code).to_owned(), answer)
        });
        answers.chain([("401".to_owned(), json!({"description": "Unauthorized"}))]).collect()
    }
}

fn contents(encodings: &[&str], schema: &Value) -> Value {
    encodings.iter().map(|encoding| ((*encoding).to_owned(), json!({"schema": schema}))).collect()
}
