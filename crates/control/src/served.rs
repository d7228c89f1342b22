//! Which resources the API server serves, also those of custom resource definitions and aggregated servers.
//!
//! One follower asks the server's discovery and asks again when a definition changes; all that want to know share it. It
//! runs while somebody holds it. Who must not miss a definition of this very moment asks [`ServedResources::ask`].

use std::borrow::Cow;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use api::{Resource, Scope, Verb, resources};
use base::{Backoff, Stop, chain};
use bytes::Bytes;
use http::Method;
use serde_json::Value;
use tokio::sync::watch;

use crate::client::{Client, ClientError};
use crate::informer::Informers;

/// Definitions often come several at a time: discovery is asked once for all that come within this time.
const GATHER: Duration = Duration::from_millis(200);

/// How long to wait after discovery did not answer in full, at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What is served, and which groups could not be asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Resources that can be listed, watched and deleted, each in the first version that its group serves it in.
    pub resources: Vec<Resource>,
    /// Group versions whose server did not answer, with why.
    pub failed: Vec<(String, String)>,
}

/// What is served, kept up to date. Cloning shares the follower, which ends with the last clone.
#[derive(Clone)]
pub struct ServedResources(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    stop: Stop,
}

struct Shared {
    client: Client,
    latest: watch::Sender<Option<Arc<Served>>>,
}

/// A follower that may have ended.
#[derive(Default)]
pub(crate) struct WeakServed(Weak<Handle>);

/// The answers of a follower, for one reader: the present one first, then each that differs.
pub struct ServedChanges {
    changes: watch::Receiver<Option<Arc<Served>>>,
    _follower: ServedResources,
}

impl ServedResources {
    /// A follower and its task.
    pub(crate) fn new(informers: Informers, stop: Stop) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let shared = Arc::new(Shared { client: informers.client().clone(), latest: watch::Sender::new(None) });
        let this = Self(Arc::new(Handle { shared: shared.clone(), stop: stop.clone() }));
        let task = async move {
            let _ = stop.or_stopped(shared.follow(informers)).await;
        };
        (this, task)
    }

    pub(crate) fn downgrade(&self) -> WeakServed {
        WeakServed(Arc::downgrade(&self.0))
    }

    /// The last answer, if there has been one.
    pub fn latest(&self) -> Option<Arc<Served>> {
        self.0.shared.latest.borrow().clone()
    }

    /// What is served right now. Those that follow get to know it too.
    pub async fn ask(&self) -> Result<Arc<Served>, ClientError> {
        self.0.shared.ask().await
    }

    /// The answers from now on.
    pub fn changes(&self) -> ServedChanges {
        let mut changes = self.0.shared.latest.subscribe();
        changes.mark_changed();
        ServedChanges { changes, _follower: self.clone() }
    }
}

impl ServedChanges {
    /// The next answer; waits for one. Loses nothing when its future is dropped.
    pub async fn next(&mut self) -> Arc<Served> {
        loop {
            self.changes.changed().await.expect("the follower that is held holds the sender");
            if let Some(served) = self.changes.borrow_and_update().clone() {
                return served;
            }
        }
    }
}

impl WeakServed {
    pub(crate) fn upgrade(&self) -> Option<ServedResources> {
        self.0.upgrade().map(ServedResources)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

impl Shared {
    async fn ask(&self) -> Result<Arc<Served>, ClientError> {
        let served = Arc::new(served(&self.client).await?);
        self.latest.send_if_modified(|latest| {
            let differs = latest.as_ref() != Some(&served);
            if differs {
                *latest = Some(served.clone());
            }
            differs
        });
        Ok(served)
    }

    async fn follow(&self, informers: Informers) {
        let definitions = [resources::CUSTOM_RESOURCE_DEFINITIONS, resources::API_SERVICES];
        let [mut crds, mut services] = definitions.map(|resource| informers.all(resource).changes());
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            let complete = match self.ask().await {
                Ok(served) => served.failed.is_empty(),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "cannot find out what is served");
                    false
                }
            };
            if complete {
                backoff.reset();
            }
            let delay = if complete { Duration::MAX } else { backoff.next_delay() };
            tokio::select! {
                _ = crds.next() => tokio::time::sleep(GATHER).await,
                _ = services.next() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep(delay) => {}
            }
            while crds.try_next().is_some() || services.try_next().is_some() {}
        }
    }
}

/// Asks the API server. Fails only when the server itself cannot be asked: an aggregated one that is away is reported.
async fn served(client: &Client) -> Result<Served, ClientError> {
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
pub async fn scalable(
    client: &Client,
    group: &str,
    version: &str,
    kind: &str,
) -> Result<Option<(Resource, bool)>, ClientError> {
    let uri = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let list = get(client, &uri).await?;
    let rows = || list["resources"].as_array().into_iter().flatten();
    let found = rows().filter(|listed| listed["kind"] == kind).find_map(|listed| row(group, version, listed));
    Ok(found.map(|resource| {
        let scale = format!("{}/scale", resource.plural);
        let scales = rows().any(|row| row["name"] == scale.as_str());
        (resource, scales)
    }))
}

impl Served {
    fn add(&mut self, group_version: &str, list: &Value) {
        let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
        for listed in list["resources"].as_array().into_iter().flatten() {
            let Some(resource) = row(group, version, listed) else { continue };
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
pub(crate) fn row(group: &str, version: &str, listed: &Value) -> Option<Resource> {
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
    let name = listed["name"].as_str().filter(|name| !name.contains('/'))?;
    if let Some(built_in) = resources::find(group, version, name) {
        return Some(built_in.clone());
    }
    let verbs: Vec<Verb> = listed["verbs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|verb| VERBS.iter().find(|(name, _)| verb == name).map(|(_, verb)| *verb))
        .collect();
    let template = resources::CONFIG_MAPS.clone();
    let text = |field: &str| Cow::Owned(listed[field].as_str().unwrap_or_default().to_owned());
    Some(Resource {
        group: Cow::Owned(group.to_owned()),
        version: Cow::Owned(version.to_owned()),
        kind: text("kind"),
        plural: Cow::Owned(name.to_owned()),
        singular: text("singularName"),
        short_names: Cow::Borrowed(&[]),
        categories: Cow::Borrowed(&[]),
        scope: if listed["namespaced"] == true { Scope::Namespaced } else { Scope::Cluster },
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
