//! Which resources the API server serves, also those of custom resource definitions and aggregated servers.

use std::borrow::Cow;

use api::{Resource, Scope, Verb};
use bytes::Bytes;
use control::{Client, ClientError};
use http::Method;
use serde_json::Value;

/// What is served, and which groups could not be asked.
#[derive(Debug, Default)]
pub(crate) struct Served {
    /// Resources that can be listed and deleted, each in the first version that its group serves it in.
    pub(crate) resources: Vec<Resource>,
    /// Group versions whose server did not answer, with why.
    pub(crate) failed: Vec<(String, String)>,
}

/// Asks the API server. Fails only when the server itself cannot be asked: an aggregated one that is away is reported.
pub(crate) async fn served(client: &Client) -> Result<Served, ClientError> {
    let groups = get(client, "/apis").await?;
    let mut group_versions = vec!["v1".to_owned()];
    for group in groups["groups"].as_array().into_iter().flatten() {
        let preferred = group["preferredVersion"]["groupVersion"].as_str();
        let versions = group["versions"].as_array().into_iter().flatten();
        let versions: Vec<&str> = versions.filter_map(|version| version["groupVersion"].as_str()).collect();
        let rest = versions.iter().copied().filter(|version| Some(*version) != preferred);
        group_versions.extend(preferred.into_iter().chain(rest).map(str::to_owned));
    }
    let mut served = Served::default();
    for group_version in group_versions {
        let prefix = if group_version.contains('/') { "/apis/" } else { "/api/" };
        match get(client, &format!("{prefix}{group_version}")).await {
            Ok(list) => served.add(&group_version, &list),
            Err(error) if group_version == "v1" => return Err(error),
            Err(error) => served.failed.push((group_version, error.to_string())),
        }
    }
    Ok(served)
}

/// The resource of a kind in one group version, and whether it has `/scale`; `None` where that version has no such kind.
pub(crate) async fn scalable(
    client: &Client,
    group: &str,
    version: &str,
    kind: &str,
) -> Result<Option<(Resource, bool)>, ClientError> {
    let uri = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let list = get(client, &uri).await?;
    let rows = || list["resources"].as_array().into_iter().flatten();
    let found = rows().filter(|row| row["kind"] == kind).find_map(|row| resource(group, version, row));
    Ok(found.map(|resource| {
        let scale = format!("{}/scale", resource.plural);
        let scales = rows().any(|row| row["name"] == scale.as_str());
        (resource, scales)
    }))
}

impl Served {
    fn add(&mut self, group_version: &str, list: &Value) {
        let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
        for row in list["resources"].as_array().into_iter().flatten() {
            let Some(resource) = resource(group, version, row) else { continue };
            let known = |other: &Resource| other.group == resource.group && other.plural == resource.plural;
            let useful = [Verb::List, Verb::Watch, Verb::Delete].into_iter().all(|verb| resource.serves(verb));
            if useful && !self.resources.iter().any(known) {
                self.resources.push(resource);
            }
        }
    }
}

/// A row of a discovery document; `None` for subresources. The built-in table's row where there is one: it knows selectable
/// fields, and so shares caches with everyone else.
fn resource(group: &str, version: &str, row: &Value) -> Option<Resource> {
    const VERBS: &[(&str, Verb)] = &[
        ("create", Verb::Create),
        ("delete", Verb::Delete),
        ("deletecollection", Verb::DeleteCollection),
        ("get", Verb::Get),
        ("list", Verb::List),
        ("patch", Verb::Patch),
        ("update", Verb::Update),
        ("watch", Verb::Watch),
    ];
    let name = row["name"].as_str().filter(|name| !name.contains('/'))?;
    if let Some(built_in) = api::resources::find(group, version, name) {
        return Some(built_in.clone());
    }
    let verbs: Vec<Verb> = row["verbs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|verb| VERBS.iter().find(|(name, _)| verb == name).map(|(_, verb)| *verb))
        .collect();
    let template = api::resources::CONFIG_MAPS.clone();
    let text = |field: &str| Cow::Owned(row[field].as_str().unwrap_or_default().to_owned());
    Some(Resource {
        group: Cow::Owned(group.to_owned()),
        version: Cow::Owned(version.to_owned()),
        kind: text("kind"),
        plural: Cow::Owned(name.to_owned()),
        singular: text("singularName"),
        short_names: Cow::Borrowed(&[]),
        categories: Cow::Borrowed(&[]),
        scope: if row["namespaced"] == true { Scope::Namespaced } else { Scope::Cluster },
        verbs: Cow::Owned(verbs),
        subresources: Cow::Borrowed(&[]),
        selectable_fields: Cow::Borrowed(&[]),
        ..template
    })
}

async fn get(client: &Client, uri: &str) -> Result<Value, ClientError> {
    let body = client.request(Method::GET, uri, None, Bytes::new()).await?;
    serde_json::from_slice(&body)
        .map_err(|source| ClientError::Answer { request: format!("GET {uri}"), source: source.into() })
}
