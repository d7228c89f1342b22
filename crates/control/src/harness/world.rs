//! The API in memory: one map of objects, one log of events, and a transport in front.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use api::{ApiError, Key, Reason, Resource, resources};
use base::{Clock, Random};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use machinery::strategic::{Field, ListMerge, PatchSchema};
use machinery::{patch, strategic, time};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::{Body, Transport, TransportError, served};

/// A wall clock that follows tokio's, so that a test's virtual time moves both. Starts at 2030-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy)]
pub struct HarnessClock(Instant);

impl Default for HarnessClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for HarnessClock {
    fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.0.elapsed()).expect("a test does not run for centuries");
        Timestamp::constant(1_893_456_000, 0) + elapsed
    }
}

/// What goes wrong with one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not done.
    NotDone,
    /// It is done and its answer is lost.
    AnswerLost,
}

/// The API in memory. Cloning shares it.
#[derive(Clone)]
pub struct Api {
    world: Arc<Mutex<World>>,
    /// The length of the log, for watchers.
    logged: Arc<watch::Sender<usize>>,
}

struct World {
    clock: HarnessClock,
    random: Random,
    revision: u64,
    objects: BTreeMap<Name, BTreeMap<Key, Value>>,
    log: Vec<Logged>,
    writes: usize,
    reads: usize,
    fault: Option<(usize, Fault)>,
    delay: Duration,
    on_create: Option<fn(&mut Value)>,
    on_review: Option<fn(&mut Value)>,
    documents: BTreeMap<String, Value>,
}

/// Group and plural name of a resource.
type Name = (String, String);

struct Logged {
    resource: Name,
    namespace: String,
    name: String,
    at: Instant,
    frame: Bytes,
}

/// One request, taken apart.
struct Request {
    method: Method,
    resource: Resource,
    key: Key,
    subresource: Option<String>,
    query: BTreeMap<String, String>,
    content_type: String,
    body: Bytes,
}

enum Answer {
    Object(Value),
    Watch { wanted: Wanted, from: usize, initial: VecDeque<Bytes> },
}

/// What a watch is for: resource, namespace and, where one object is watched, its name.
type Wanted = (Name, String, Option<String>);

impl Api {
    /// An empty cluster.
    pub fn new(random: Random) -> Self {
        let world = World {
            clock: HarnessClock::default(),
            random,
            revision: 1,
            objects: BTreeMap::new(),
            log: Vec::new(),
            writes: 0,
            reads: 0,
            fault: None,
            delay: Duration::ZERO,
            on_create: None,
            on_review: None,
            documents: BTreeMap::new(),
        };
        Self { world: Arc::new(Mutex::new(world)), logged: Arc::new(watch::Sender::new(0)) }
    }

    /// The clock of this cluster.
    pub fn clock(&self) -> HarnessClock {
        self.lock().clock
    }

    /// A transport whose writes count, and fail where a fault was set.
    pub fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(Connection { api: self.clone(), counted: true })
    }

    /// A transport for bystanders: its writes are not counted and never fail.
    pub fn bystander(&self) -> Arc<dyn Transport> {
        Arc::new(Connection { api: self.clone(), counted: false })
    }

    /// The write of that number (from 1) goes wrong.
    pub fn fail_write(&self, number: usize, fault: Fault) {
        self.lock().fault = Some((number, fault));
    }

    /// Watchers see changes so much later.
    pub fn delay_watches(&self, delay: Duration) {
        self.lock().delay = delay;
    }

    /// Changes every object that is created, as a kubelet or an admission plugin would.
    pub fn on_create(&self, change: fn(&mut Value)) {
        self.lock().on_create = Some(change);
    }

    /// What a path shows that is no resource, such as metrics.
    pub fn serve(&self, path: &str, document: Value) {
        self.lock().documents.insert(path.to_owned(), document);
    }

    /// Answers what is posted and not stored, such as access reviews.
    pub fn on_review(&self, answer: fn(&mut Value)) {
        self.lock().on_review = Some(answer);
    }

    /// How many writes came over counted transports.
    pub fn writes(&self) -> usize {
        self.lock().writes
    }

    /// How many reads, lists and watches came over counted transports.
    pub fn reads(&self) -> usize {
        self.lock().reads
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// Creates an object as it is, or replaces it with status and all; uid and creation time are filled in where missing.
    pub fn put(&self, object: Value) -> Value {
        let mut world = self.lock();
        let resource = world.resource_of(&object);
        let stored = world.put(&resource, object);
        self.publish(world);
        stored
    }

    /// Deletes an object as a user would, with finalizers heeded. Nothing happens if there is none.
    pub fn delete(&self, resource: &Resource, namespace: &str, name: &str) {
        let mut world = self.lock();
        let deleted = world.delete(resource, &Key::new(namespace, name), &Value::Null);
        self.publish(world);
        if let Err(error) = deleted {
            assert!(error.is_not_found(), "{error}");
        }
    }

    /// The same for an object of any kind that is served.
    pub fn delete_object(&self, object: &Value) {
        let (resource, key) = (self.lock().resource_of(object), key_of(object));
        self.delete(&resource, &key.namespace, &key.name);
    }

    /// One object.
    pub fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Value> {
        self.lock().table(resource).get(&Key::new(namespace, name)).cloned()
    }

    /// All objects of a resource, in key order.
    pub fn list(&self, resource: &Resource) -> Vec<Value> {
        self.lock().table(resource).values().cloned().collect()
    }

    /// All objects of all resources.
    pub fn all(&self) -> Vec<Value> {
        self.lock().objects.values().flat_map(BTreeMap::values).cloned().collect()
    }

    /// Changes every object of a resource through `change`, which tells whether it changed the object. True if any was.
    pub fn change_each(&self, resource: &Resource, change: impl Fn(&mut Value) -> bool) -> bool {
        let mut changed = false;
        for mut object in self.list(resource) {
            if change(&mut object) {
                changed = true;
                self.put(object);
            }
        }
        changed
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no holder of the world's lock panics")
    }

    fn publish(&self, world: MutexGuard<'_, World>) {
        let length = world.log.len();
        drop(world);
        self.logged.send_replace(length);
    }

    fn handle(&self, request: &http::Request<Bytes>, counted: bool) -> Result<Result<Answer, ApiError>, &'static str> {
        let mut world = self.lock();
        if let Some(discovery) = world.discovery(request.uri().path()) {
            return Ok(Ok(Answer::Object(discovery)));
        }
        if let Some(document) = world.documents.get(request.uri().path()) {
            return Ok(Ok(Answer::Object(document.clone())));
        }
        let parsed = match Request::parse(request, &world) {
            Ok(parsed) => parsed,
            Err(error) => return Ok(Err(error)),
        };
        if parsed.method == Method::GET {
            world.reads += usize::from(counted);
            return Ok(world.read(&parsed));
        }
        // A review changes nothing.
        let review = !parsed.resource.serves(api::Verb::List) && parsed.subresource.is_none();
        let mut fault = None;
        if counted && !review {
            world.writes += 1;
            fault = world.fault.filter(|(number, _)| *number == world.writes).map(|(_, fault)| fault);
        }
        if fault == Some(Fault::NotDone) {
            return Err("injected: not done");
        }
        let answer = world.write(&parsed);
        self.publish(world);
        if fault == Some(Fault::AnswerLost) { Err("injected: answer lost") } else { Ok(answer.map(Answer::Object)) }
    }

    fn stream(&self, wanted: Wanted, from: usize) -> BoxStream<'static, Result<Bytes, TransportError>> {
        let state = (self.clone(), self.logged.subscribe(), from);
        let events = futures::stream::unfold(state, move |(api, mut logged, mut next)| {
            let wanted = wanted.clone();
            async move {
                loop {
                    let found = {
                        let world = api.lock();
                        let entry =
                            world.log.get(next).map(|entry| (entry.matches(&wanted), entry.frame.clone(), entry.at));
                        entry.map(|(matches, frame, at)| (matches, frame, at + world.delay))
                    };
                    match found {
                        None => logged.wait_for(|length| *length > next).await.ok().map(drop)?,
                        Some((false, ..)) => next += 1,
                        Some((true, frame, at)) => {
                            tokio::time::sleep_until(at).await;
                            return Some((Ok(frame), (api, logged, next + 1)));
                        }
                    }
                }
            }
        });
        events.boxed()
    }
}

impl Logged {
    fn matches(&self, (resource, namespace, name): &Wanted) -> bool {
        self.resource == *resource
            && (namespace.is_empty() || self.namespace == *namespace)
            && name.as_ref().is_none_or(|name| self.name == *name)
    }
}

struct Connection {
    api: Api,
    counted: bool,
}

impl Transport for Connection {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let (api, counted) = (self.api.clone(), self.counted);
        async move {
            // As over a network, others run while a request is under way.
            tokio::task::yield_now().await;
            let answer = api.handle(&request, counted);
            let answer = answer.map_err(|why| TransportError { server: "harness".to_owned(), source: why.into() })?;
            let (code, body) = match answer {
                Ok(Answer::Object(object)) => (200, Body::Full(object.to_string().into())),
                Ok(Answer::Watch { wanted, from, initial }) => {
                    let initial = futures::stream::iter(initial.into_iter().map(Ok));
                    (200, Body::Stream(initial.chain(api.stream(wanted, from)).boxed()))
                }
                Err(error) => (error.code, Body::Full(error.to_status().to_string().into())),
            };
            let mut response = http::Response::new(body);
            *response.status_mut() = http::StatusCode::from_u16(code).expect("a status of the table");
            Ok(response)
        }
        .boxed()
    }
}

impl Request {
    fn parse(request: &http::Request<Bytes>, world: &World) -> Result<Self, ApiError> {
        let unknown = || ApiError::new(Reason::NotFound, format!("the harness does not serve {}", request.uri()));
        let path: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
        let (group, version, rest) = match path.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Err(unknown()),
        };
        let find = |plural: &str| world.find_resource(group, version, plural);
        let (resource, namespace, rest) = match rest {
            ["namespaces", namespace, plural, rest @ ..] if find(plural).is_some() => (find(plural), *namespace, rest),
            [plural, rest @ ..] => (find(plural), "", rest),
            [] => return Err(unknown()),
        };
        let query = request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        let query = query.map(|(name, value)| (name.to_owned(), value.replace("%3D", "="))).collect();
        let content_type = request.headers().get(http::header::CONTENT_TYPE);
        Ok(Self {
            method: request.method().clone(),
            resource: resource.ok_or_else(unknown)?,
            key: Key::new(namespace, rest.first().copied().unwrap_or_default()),
            subresource: rest.get(1).map(|name| (*name).to_owned()),
            query,
            content_type: content_type.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned(),
            body: request.body().clone(),
        })
    }

    fn json(&self) -> Result<Value, ApiError> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body).map_err(|error| ApiError::new(Reason::BadRequest, error.to_string()))
    }

    /// The name that a field selector asks for.
    fn field_name(&self) -> Option<String> {
        self.query.get("fieldSelector").and_then(|text| text.strip_prefix("metadata.name=")).map(str::to_owned)
    }
}

impl World {
    /// The rows of what definitions there are. A definition is served as soon as it is stored.
    fn customs(&self) -> impl Iterator<Item = Resource> {
        let definitions = self.objects.get(&name_of(resources::CUSTOM_RESOURCE_DEFINITIONS));
        definitions.into_iter().flat_map(BTreeMap::values).flat_map(|definition| rows(&definition["spec"]))
    }

    fn find_resource(&self, group: &str, version: &str, plural: &str) -> Option<Resource> {
        let custom = || self.customs().find(|row| row.group == group && row.version == version && row.plural == plural);
        resources::find(group, version, plural).cloned().or_else(custom)
    }

    fn resource_of(&self, object: &Value) -> Resource {
        let (api_version, kind) = (object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str());
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let custom = |kind| self.customs().find(|row| row.group == group && row.version == version && row.kind == kind);
        kind.and_then(|kind| resources::by_kind(group, version, kind).cloned().or_else(|| custom(kind)))
            .expect("a test's object names its apiVersion and a kind that is served")
    }

    /// The discovery documents: `/api/v1`, `/apis` and `/apis/GROUP/VERSION`.
    fn discovery(&self, path: &str) -> Option<Value> {
        let path: Vec<&str> = path.trim_matches('/').split('/').collect();
        let all = resources::RESOURCES.iter().map(|row| (*row).clone()).chain(self.customs());
        let (group, version) = match path.as_slice() {
            ["apis"] => return groups(all),
            ["api", version] => ("", *version),
            ["apis", group, version] => (*group, *version),
            _ => return None,
        };
        let rows = all.filter(|row| row.group == group && row.version == version).map(|row| {
            let verbs: Vec<String> = row.verbs.iter().map(|verb| format!("{verb:?}").to_lowercase()).collect();
            json!({"name": row.plural, "singularName": row.singular, "namespaced": row.namespaced(), "kind": row.kind,
                "verbs": verbs})
        });
        Some(json!({"kind": "APIResourceList", "resources": rows.collect::<Vec<_>>()}))
    }

    fn table(&mut self, resource: &Resource) -> &mut BTreeMap<Key, Value> {
        self.objects.entry(name_of(resource)).or_default()
    }

    fn find(&mut self, resource: &Resource, key: &Key) -> Result<Value, ApiError> {
        let found = self.table(resource).get(key).cloned();
        found.ok_or_else(|| ApiError::not_found(&resource.group, &resource.plural, &key.name))
    }

    fn read(&mut self, request: &Request) -> Result<Answer, ApiError> {
        if !request.key.name.is_empty() {
            let object = self.find(&request.resource, &request.key)?;
            let scale = request.subresource.as_deref() == Some("scale");
            return Ok(Answer::Object(if scale { scale_of(&object) } else { object }));
        }
        let selector = request.query.get("fieldSelector");
        if request.query.contains_key("labelSelector") || selector.is_some() && request.field_name().is_none() {
            return Err(ApiError::new(Reason::BadRequest, "the harness knows no selector but metadata.name"));
        }
        let name = request.field_name();
        let namespace = request.key.namespace.clone();
        let objects = self.table(&request.resource).iter();
        let objects = objects.filter(|(key, _)| namespace.is_empty() || key.namespace == namespace);
        let objects = objects.filter(|(key, _)| name.as_deref().is_none_or(|name| *key.name == *name));
        let objects: Vec<Value> = objects.map(|(_, object)| object.clone()).collect();
        let revision = self.revision;
        if !request.query.contains_key("watch") {
            return Ok(Answer::Object(json!({"kind": format!("{}List", request.resource.kind),
                "metadata": {"resourceVersion": revision.to_string()}, "items": objects})));
        }
        let from = match request.query.get("resourceVersion") {
            Some(revision) => {
                let seen = |entry: &Logged| revision_in(&entry.frame) <= revision.parse().unwrap_or(0);
                self.log.partition_point(seen)
            }
            None => self.log.len(),
        };
        let mut initial: VecDeque<Bytes> = VecDeque::new();
        if request.query.contains_key("sendInitialEvents") {
            initial.extend(objects.iter().map(|object| frame("ADDED", object)));
            initial.push_back(frame(
                "BOOKMARK",
                &json!({"kind": &*request.resource.kind, "metadata": {"resourceVersion": revision.to_string(),
                    "annotations": {"k8s.io/initial-events-end": "true"}}}),
            ));
        }
        let wanted = (name_of(&request.resource), namespace.to_string(), name);
        Ok(Answer::Watch { wanted, from, initial })
    }

    fn write(&mut self, request: &Request) -> Result<Value, ApiError> {
        let (resource, key) = (&request.resource, &request.key);
        match (request.method.as_str(), request.subresource.as_deref()) {
            ("POST", None) if !resource.serves(api::Verb::List) => {
                let mut review = request.json()?;
                self.on_review.inspect(|answer| answer(&mut review));
                Ok(review)
            }
            ("POST", None) => self.create(resource, &key.namespace, request.json()?),
            ("DELETE", None) if key.name.is_empty() => {
                let mut keys: Vec<Key> = self.table(resource).keys().cloned().collect();
                keys.retain(|one| one.namespace == key.namespace);
                for key in keys {
                    self.delete(resource, &key, &Value::Null)?;
                }
                Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
            }
            ("DELETE", None) => self.delete(resource, key, &request.json()?),
            ("PUT", Some("scale")) => {
                let (mut object, scale) = (self.find(resource, key)?, request.json()?);
                object["spec"]["replicas"] = scale["spec"]["replicas"].clone();
                object["metadata"]["resourceVersion"] = scale["metadata"]["resourceVersion"].clone();
                self.replace(resource, key, None, object).map(|object| scale_of(&object))
            }
            ("PUT", subresource) => self.replace(resource, key, subresource, request.json()?),
            ("PATCH", subresource) => {
                let old = self.find(resource, key)?;
                let new = apply_patch(&request.content_type, &old, &request.json()?)?;
                self.replace(resource, key, subresource, new)
            }
            ("POST", Some("binding")) => {
                let mut pod = self.find(resource, key)?;
                pod["spec"]["nodeName"] = request.json()?["target"]["name"].clone();
                self.store("MODIFIED", resource, pod);
                Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
            }
            (method, subresource) => {
                let message = format!("the harness does not serve {method} of {subresource:?}");
                Err(ApiError::new(Reason::MethodNotAllowed, message))
            }
        }
    }

    fn create(&mut self, resource: &Resource, namespace: &str, mut object: Value) -> Result<Value, ApiError> {
        let terminating = self.table(resources::NAMESPACES).get(&Key::new("", namespace));
        if terminating.is_some_and(|namespace| !namespace["metadata"]["deletionTimestamp"].is_null()) {
            let message =
                format!("unable to create new content in namespace {namespace} because it is being terminated");
            let mut error = ApiError::new(Reason::Forbidden, message);
            error.details = json!({"causes": [{"reason": "NamespaceTerminating"}]});
            return Err(error);
        }
        if object["metadata"]["name"].as_str().unwrap_or_default().is_empty() {
            let prefix = object["metadata"]["generateName"].as_str();
            let prefix = prefix.ok_or_else(|| ApiError::new(Reason::Invalid, "name or generateName is required"))?;
            object["metadata"]["name"] = format!("{prefix}{}", self.random.name_suffix(5)).into();
        }
        if resource.namespaced() {
            object["metadata"]["namespace"] = namespace.into();
        }
        let key = key_of(&object);
        if self.table(resource).contains_key(&key) {
            return Err(ApiError::already_exists(&resource.group, &resource.plural, &key.name));
        }
        for field in ["uid", "resourceVersion", "deletionTimestamp"] {
            object["metadata"].as_object_mut().map(|meta| meta.remove(field));
        }
        Ok(self.put(resource, object))
    }

    fn put(&mut self, resource: &Resource, mut object: Value) -> Value {
        let key = key_of(&object);
        let old = self.table(resource).get(&key).cloned();
        let now = time::seconds(self.clock.now());
        let random = self.random.clone();
        let meta = &mut object["metadata"];
        if meta["uid"].is_null() {
            let uid = old.as_ref().map(|old| old["metadata"]["uid"].clone());
            meta["uid"] = uid.unwrap_or_else(|| format!("uid-{}", random.name_suffix(12)).into());
        }
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = now.into();
        }
        if old.is_none() {
            if meta["generation"].is_null() && object.get("spec").is_some() {
                object["metadata"]["generation"] = 1.into();
            }
            if let Some(change) = self.on_create {
                change(&mut object);
            }
        }
        self.store(if old.is_none() { "ADDED" } else { "MODIFIED" }, resource, object)
    }

    fn replace(
        &mut self,
        resource: &Resource,
        key: &Key,
        subresource: Option<&str>,
        mut new: Value,
    ) -> Result<Value, ApiError> {
        let old = self.find(resource, key)?;
        let revision = &new["metadata"]["resourceVersion"];
        if revision.is_string() && *revision != old["metadata"]["resourceVersion"] {
            let why = "the object has been modified; please apply your changes to the latest version and try again";
            return Err(ApiError::conflict(&resource.group, &resource.plural, &key.name, why));
        }
        let uid = &new["metadata"]["uid"];
        if uid.is_string() && *uid != old["metadata"]["uid"] {
            return Err(ApiError::conflict(&resource.group, &resource.plural, &key.name, "the uid is another"));
        }
        match subresource {
            None => {
                for field in ["uid", "creationTimestamp", "deletionTimestamp", "generation", "resourceVersion"] {
                    copy(&old["metadata"], &mut new["metadata"], field);
                }
                if resource.subresource("status").is_some() {
                    copy(&old, &mut new, "status");
                }
                if new.get("spec") != old.get("spec") {
                    new["metadata"]["generation"] = (old["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
                }
            }
            // Both replace one part: the status, or a namespace's finalizers.
            Some(part) => {
                let field = if part == "finalize" { "spec" } else { "status" };
                let mut whole = old.clone();
                copy(&new, &mut whole, field);
                new = whole;
            }
        }
        copy(&old, &mut new, "apiVersion");
        copy(&old, &mut new, "kind");
        if is_finished(&new) {
            return Ok(self.remove(resource, new));
        }
        Ok(if new == old { old } else { self.store("MODIFIED", resource, new) })
    }

    fn delete(&mut self, resource: &Resource, key: &Key, options: &Value) -> Result<Value, ApiError> {
        let mut object = self.find(resource, key)?;
        let wanted = &options["preconditions"];
        for field in ["uid", "resourceVersion"] {
            if wanted[field].is_string() && wanted[field] != object["metadata"][field] {
                let why = format!("Precondition failed: {field} in precondition is another");
                return Err(ApiError::conflict(&resource.group, &resource.plural, &key.name, &why));
            }
        }
        let finalizer = match options["propagationPolicy"].as_str() {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        let mut finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        finalizers.extend(finalizer.filter(|name| !finalizers.iter().any(|have| have == name)).map(Value::from));
        if !finalizers.is_empty() {
            object["metadata"]["finalizers"] = finalizers.into();
        }
        let first = object["metadata"]["deletionTimestamp"].is_null();
        if first {
            object["metadata"]["deletionTimestamp"] = time::seconds(self.clock.now()).into();
            object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
            if *resource.kind == *"Namespace" {
                object["status"]["phase"] = "Terminating".into();
            }
        }
        if is_finished(&object) {
            return Ok(self.remove(resource, object));
        }
        Ok(if first { self.store("MODIFIED", resource, object) } else { object })
    }

    fn remove(&mut self, resource: &Resource, mut object: Value) -> Value {
        self.table(resource).remove(&key_of(&object));
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        self.log("DELETED", resource, &object);
        object
    }

    fn store(&mut self, event: &str, resource: &Resource, mut object: Value) -> Value {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        self.table(resource).insert(key_of(&object), object.clone());
        self.log(event, resource, &object);
        object
    }

    fn log(&mut self, event: &str, resource: &Resource, object: &Value) {
        let key = key_of(object);
        self.log.push(Logged {
            resource: name_of(resource),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            at: Instant::now(),
            frame: frame(event, object),
        });
    }
}

/// The rows of one definition.
fn rows(definition: &Value) -> Vec<Resource> {
    const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let (group, names) = (definition["group"].as_str().unwrap_or_default(), &definition["names"]);
    let row = json!({"name": names["plural"], "singularName": names["singular"], "kind": names["kind"],
        "namespaced": definition["scope"] == "Namespaced", "verbs": VERBS});
    let versions = definition["versions"].as_array().into_iter().flatten().filter(|version| version["served"] == true);
    versions.filter_map(|version| served::row(group, version["name"].as_str()?, &row)).collect()
}

/// The document `/apis`.
fn groups(rows: impl Iterator<Item = Resource>) -> Option<Value> {
    let mut groups: Vec<Value> = Vec::new();
    for resource in rows.filter(|resource| !resource.group.is_empty()) {
        if !groups.iter().any(|group| group["name"] == *resource.group) {
            groups.push(json!({"name": resource.group, "versions": [], "preferredVersion": null}));
        }
        let group = groups.iter_mut().find(|group| group["name"] == *resource.group)?;
        let version = json!({"groupVersion": resource.api_version(), "version": resource.version});
        let versions = group["versions"].as_array_mut()?;
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    Some(json!({"kind": "APIGroupList", "groups": groups}))
}

/// The `/scale` of a workload.
fn scale_of(object: &Value) -> Value {
    let selector = machinery::Selector::from_label_selector(&object["spec"]["selector"]);
    let selector = selector.map(|selector| selector.to_string()).unwrap_or_default();
    let replicas = object["status"]["replicas"].as_i64().unwrap_or(0);
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": object["metadata"],
        "spec": {"replicas": object["spec"]["replicas"]}, "status": {"replicas": replicas, "selector": selector}})
}

/// Whether a deletion has nothing left to wait for.
fn is_finished(object: &Value) -> bool {
    let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    let namespace = object["kind"] == "Namespace";
    !object["metadata"]["deletionTimestamp"].is_null()
        && empty(&object["metadata"]["finalizers"])
        && (!namespace || empty(&object["spec"]["finalizers"]))
}

fn apply_patch(content_type: &str, old: &Value, change: &Value) -> Result<Value, ApiError> {
    let refused = |error: &dyn std::error::Error| ApiError::new(Reason::BadRequest, error.to_string());
    let mut new = old.clone();
    match content_type {
        "application/merge-patch+json" => patch::merge(&mut new, change),
        "application/json-patch+json" => patch::json(&mut new, change).map_err(|error| refused(&error))?,
        "application/strategic-merge-patch+json" => {
            new = strategic::merge(new, change.clone(), &AnyKind).map_err(|error| refused(&error))?;
        }
        other => return Err(ApiError::new(Reason::UnsupportedMediaType, format!("unknown patch type {other:?}"))),
    }
    // A patch that names a revision wants that one; any other applies to what there is.
    if change["metadata"]["resourceVersion"].is_null() {
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
    }
    Ok(new)
}

/// The merge keys of the lists that components patch, for all kinds at once.
struct AnyKind;

impl PatchSchema for AnyKind {
    fn name(&self) -> &str {
        "object"
    }

    fn child(&self, field: &str) -> Option<Field<'_>> {
        let list = match field {
            "conditions" => ListMerge::Key("type"),
            "ownerReferences" => ListMerge::Key("uid"),
            "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets" => ListMerge::Key("name"),
            "addresses" => ListMerge::Key("type"),
            "taints" => ListMerge::Replace,
            "finalizers" => ListMerge::Set,
            _ => ListMerge::Replace,
        };
        Some(Field { list, replace: false, schema: Some(Box::new(AnyKind)) })
    }
}

fn copy(from: &Value, to: &mut Value, field: &str) {
    match from.get(field) {
        Some(value) => to[field] = value.clone(),
        None => drop(to.as_object_mut().map(|fields| fields.remove(field))),
    }
}

fn frame(event: &str, object: &Value) -> Bytes {
    format!("{{\"type\":\"{event}\",\"object\":{object}}}\n").into()
}

fn revision_in(frame: &Bytes) -> u64 {
    let event: Value = serde_json::from_slice(frame).expect("the harness wrote it");
    event["object"]["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn name_of(resource: &Resource) -> Name {
    (resource.group.to_string(), resource.plural.to_string())
}

fn key_of(object: &Value) -> Key {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    Key::new(text("namespace"), text("name"))
}
