//! Discovery: which groups, versions and resources there are, in the old and in the aggregated form; `/version`.
//!
//! All documents are made from the resource table and the custom resources, when the first client asks after a change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use api::{ApiError, Resource, Row, Scope, Subresource, Verb};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::config::Config;
use crate::custom::definition::priority;
use crate::request::negotiate::{Form, Offer, Syntax};
use crate::request::query::Query;
use crate::request::respond::{self, Answer};
use crate::{Server, resource_metrics};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The documents, made when they are first asked for after a change of what is served.
#[derive(Default)]
pub(crate) struct Kept(Mutex<Option<(u64, Arc<Documents>)>>);

impl Kept {
    fn get(&self, server: &Server) -> Arc<Documents> {
        let table = server.definitions.table();
        let mut kept = self.0.lock().expect("making documents does not panic");
        if let Some((_, documents)) = kept.as_ref().filter(|(generation, _)| *generation == table.generation) {
            return documents.clone();
        }
        let built_in = api::resources::RESOURCES.iter().copied().chain(resource_metrics::rows()).map(Row::from);
        let custom = table.served.iter().map(|served| served.resource.clone());
        let documents = Arc::new(Documents::of(server, &built_in.chain(custom).collect::<Vec<_>>()));
        *kept = Some((table.generation, documents.clone()));
        documents
    }
}

/// The documents.
pub(crate) struct Documents {
    by_path: BTreeMap<String, Bytes>,
    /// The aggregated forms of `/api` and `/apis`, each with its ETag.
    aggregated: BTreeMap<&'static str, (Bytes, HeaderValue)>,
}

/// Answers a discovery path; `None` for other paths.
pub(crate) fn answer(
    server: &Arc<Server>,
    path: &str,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Option<Answer>, ApiError> {
    let documents = server.discovery.get(server);
    let path = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path);
    if let Some((body, etag)) = documents.aggregated.get(path).filter(|_| wants_aggregated(headers)) {
        return Ok(Some(aggregated(headers, query, body, etag)));
    }
    let tokens = &server.access.tokens;
    match path {
        "/openid/v1/jwks" => return Ok(Some(key_set(&tokens.key_set()))),
        "/.well-known/openid-configuration" => {
            let base = format!("https://{}", server.config.advertise);
            return Ok(Some(respond::json(StatusCode::OK, tokens.discovery(&base).to_string())));
        }
        _ => {}
    }
    let Some(body) = documents.by_path.get(path) else { return Ok(None) };
    Ok(Some(respond::encoded(StatusCode::OK, Form::of(headers, query, Offer::Documents)?, body.clone())))
}

fn key_set(keys: &Value) -> Answer {
    respond::with_type(StatusCode::OK, "application/jwk-set+json", control::Body::Full(keys.to_string().into()))
}

/// Whether the aggregated form is the first of the accepted ones that can be served.
fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let first = accept.split(',').map(str::trim).find_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let json = parts.next()? == "application/json";
        let parameters: Vec<_> = parts.collect();
        let has = |wanted: &str| parameters.contains(&wanted);
        match parameters.iter().any(|parameter| parameter.starts_with("as=")) {
            true if json && has("as=APIGroupDiscoveryList") && has("g=apidiscovery.k8s.io") && has("v=v2") => {
                Some(true)
            }
            true => None,
            false => Some(false),
        }
    });
    first == Some(true)
}

fn aggregated(headers: &HeaderMap, query: &Query, body: &Bytes, etag: &HeaderValue) -> Answer {
    let mut response = if headers.get(IF_NONE_MATCH) == Some(etag) {
        let mut response = Response::new(control::Body::Full(Bytes::new()));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let form = Form::of(headers, query, Offer::Documents).unwrap_or_default();
        respond::encoded(StatusCode::OK, Form { syntax: Syntax::Json, ..form }, body.clone())
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
    response.headers_mut().insert(ETAG, etag.clone());
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

impl Documents {
    fn of(server: &Server, rows: &[Row]) -> Self {
        let groups = groups(rows);
        let mut by_path = BTreeMap::new();
        let mut put = |path: String, document: Value| by_path.insert(path, Bytes::from(document.to_string()));
        put("/version".to_owned(), version(&server.config));
        put("/api".to_owned(), core_versions(&server.config));
        let listed = groups.iter().filter(|group| !group.name.is_empty());
        let list: Vec<Value> = listed.clone().map(group_document).collect();
        put("/apis".to_owned(), json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list}));
        for group in listed {
            let mut document = group_document(group);
            document["kind"] = "APIGroup".into();
            document["apiVersion"] = "v1".into();
            put(format!("/apis/{}", group.name), document);
        }
        for group in &groups {
            for version in &group.versions {
                let path = if group.name.is_empty() {
                    format!("/api/{version}")
                } else {
                    format!("/apis/{}/{version}", group.name)
                };
                put(path, resource_list(rows, group.name, version));
            }
        }
        let paths: Vec<Value> = by_path.keys().map(|path| path.as_str().into()).collect();
        by_path.insert("/".to_owned(), json!({"paths": paths}).to_string().into());
        let is_core = |group: &&Group<'_>| group.name.is_empty();
        let aggregated = BTreeMap::from([
            ("/api", with_etag(&aggregated_document(rows, groups.iter().filter(is_core)))),
            ("/apis", with_etag(&aggregated_document(rows, groups.iter().filter(|group| !is_core(group))))),
        ]);
        Self { by_path, aggregated }
    }
}

/// A group with its versions, the preferred one first.
struct Group<'a> {
    name: &'a str,
    versions: Vec<&'a str>,
}

/// The groups in the order of their rows: the built-in ones first. The versions of a group that definitions made are in the
/// order of their stability.
fn groups(rows: &[Row]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for row in rows {
        let at = groups.iter().position(|group| group.name == row.group).unwrap_or_else(|| {
            groups.push(Group { name: &row.group, versions: Vec::new() });
            groups.len() - 1
        });
        if !groups[at].versions.contains(&&*row.version) {
            groups[at].versions.push(&row.version);
        }
    }
    let is_custom = |group: &Group<'_>| !api::resources::RESOURCES.iter().any(|built_in| built_in.group == group.name);
    for group in groups.iter_mut().filter(|group| is_custom(group)) {
        group.versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
    }
    groups
}

fn group_document(group: &Group<'_>) -> Value {
    let version = |version: &&str| json!({"groupVersion": format!("{}/{version}", group.name), "version": version});
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    json!({"name": group.name, "preferredVersion": versions[0], "versions": versions})
}

fn core_versions(config: &Config) -> Value {
    let address = json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": config.advertise.to_string()}]);
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": address})
}

fn version(config: &Config) -> Value {
    let version = &config.version;
    let mut parts = version.git_version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    json!({"major": major, "minor": minor, "gitVersion": version.git_version, "gitCommit": version.git_commit,
        "gitTreeState": "clean", "buildDate": version.build_date, "goVersion": "none", "compiler": "rustc",
        "platform": version.platform})
}

fn resource_list(rows: &[Row], group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for row in rows.iter().filter(|row| row.group == group && row.version == version) {
        resources.push(resource_entry(row));
        resources.extend(row.subresources.iter().map(|subresource| subresource_entry(row, subresource)));
    }
    resources.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
}

fn resource_entry(row: &Resource) -> Value {
    let mut entry = json!({"name": row.plural, "singularName": row.singular, "namespaced": row.namespaced(),
        "kind": row.kind, "verbs": verbs(&row.verbs)});
    if !row.short_names.is_empty() {
        entry["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        entry["categories"] = json!(row.categories);
    }
    if row.serves(Verb::List) {
        // Clients compare it only: what it is made of is ours.
        let hash = Sha256::digest(format!("{}/{}/{}", row.group, row.version, row.kind));
        entry["storageVersionHash"] = base64(&hash[..8]).into();
    }
    entry
}

fn subresource_entry(row: &Resource, subresource: &Subresource) -> Value {
    let mut entry = json!({"name": format!("{}/{}", row.plural, subresource.name), "singularName": "",
        "namespaced": row.namespaced(), "kind": row.kind, "verbs": verbs(&subresource.verbs)});
    if let Some((group, version, kind)) = &subresource.kind {
        entry["group"] = (**group).into();
        entry["version"] = (**version).into();
        entry["kind"] = (**kind).into();
    }
    entry
}

fn aggregated_document<'a>(rows: &[Row], groups: impl Iterator<Item = &'a Group<'a>>) -> Value {
    let items: Vec<Value> = groups
        .map(|group| {
            let version = |version: &&str| {
                let of_version = rows.iter().filter(|row| row.group == group.name && row.version == **version);
                json!({"version": version, "freshness": "Current", "resources": of_version.map(|row| aggregated_entry(row)).collect::<Vec<_>>()})
            };
            let metadata = if group.name.is_empty() { json!({"creationTimestamp": null}) } else { json!({"name": group.name, "creationTimestamp": null}) };
            json!({"metadata": metadata, "versions": group.versions.iter().map(version).collect::<Vec<_>>()})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_entry(row: &Resource) -> Value {
    let scope = if row.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" };
    let kind = json!({"group": row.group, "version": row.version, "kind": row.kind});
    let mut entry = json!({"resource": row.plural, "responseKind": kind, "scope": scope,
        "singularResource": row.singular, "verbs": verbs(&row.verbs)});
    if !row.short_names.is_empty() {
        entry["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        entry["categories"] = json!(row.categories);
    }
    let subresources = row.subresources.iter().map(|subresource| {
        let (group, version, name) = match &subresource.kind {
            Some((group, version, kind)) => (group, version, kind),
            None => (&row.group, &row.version, &row.kind),
        };
        json!({"subresource": subresource.name, "verbs": verbs(&subresource.verbs),
            "responseKind": {"group": group, "version": version, "kind": name}})
    });
    let subresources: Vec<Value> = subresources.collect();
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}

fn verbs(verbs: &[Verb]) -> Value {
    verbs.iter().map(|verb| verb_name(*verb)).collect()
}

/// The name of a verb in discovery and authorization.
pub(crate) fn verb_name(verb: Verb) -> &'static str {
    match verb {
        Verb::Create => "create",
        Verb::Delete => "delete",
        Verb::DeleteCollection => "deletecollection",
        Verb::Get => "get",
        Verb::List => "list",
        Verb::Patch => "patch",
        Verb::Update => "update",
        Verb::Watch => "watch",
    }
}

fn with_etag(document: &Value) -> (Bytes, HeaderValue) {
    let body = Bytes::from(document.to_string());
    let hash: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02X}")).collect();
    let etag = HeaderValue::from_str(&format!("\"{hash}\"")).expect("hexadecimal digits are header text");
    (body, etag)
}

fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}
