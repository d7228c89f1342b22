//! The one request path. [`handle`] is read from top to bottom: who, what, may they, then the verb.
//!
//! The listener and the components in this process call it alike. Reads are answered from the watch cache. A write runs in
//! a task of its own, so that it goes on when its client has gone: a client that times out may repeat it, but never leaves
//! half of it.

pub mod apply;
pub mod binding;
pub mod body;
pub mod delete;
pub mod eviction;
pub mod info;
pub mod list;
pub mod managed;
pub mod metadata;
pub mod negotiate;
pub mod notes;
pub mod patch;
pub mod query;
pub mod read;
pub mod respond;
pub mod scale;
pub mod selectors;
pub mod watch;
pub mod write;

use std::net::IpAddr;
use std::sync::Arc;

use api::{ApiError, Key, Reason, Row, Verb};
use http::request::Parts;
use http::{HeaderMap, StatusCode};

use self::body::RequestBody;
use self::info::{RequestInfo, Target};
use self::negotiate::{BodyKind, Form, Offer, RowObject};
use self::notes::Notes;
use self::query::Query;
use self::respond::Answer;
use crate::authentication::impersonation::Impersonation;
use crate::authentication::{ClientCertificate, UserInfo};
use crate::authorization::{Decision, forbidden};
use crate::metrics::{self, Seen};
use crate::registry::core::component_status;
use crate::registry::{Context, DEPRECATED};
use crate::server::Served;
use crate::watch_cache::{Pace, ResourceCache};
use crate::{Server, discovery, flow, health, kubelet_proxy, openapi, resource_metrics};

/// Where a request comes from.
#[derive(Clone)]
pub enum Origin {
    /// A component in this process, whose identity is known.
    Component(Arc<UserInfo>),
    /// A connection, with the client's certificate, where it has one, and its address.
    Connection(Option<Arc<ClientCertificate>>, Option<IpAddr>),
}

impl Origin {
    fn pace(&self) -> Pace {
        match self {
            Self::Component(_) => Pace::AtOnce,
            Self::Connection(..) => Pace::InTurns,
        }
    }
}

/// A request on its way.
pub struct Request {
    /// Method, URI, headers, and in the extensions the connection's upgrade.
    pub parts: Parts,
    /// The body.
    pub body: RequestBody,
    /// Where it comes from.
    pub origin: Origin,
}

/// An authorized request to a resource.
pub struct Call {
    /// The server.
    pub server: Arc<Server>,
    /// The resource.
    pub served: Arc<Served>,
    /// Who asks.
    pub user: Arc<UserInfo>,
    /// What about.
    pub target: Target,
    /// The verb.
    pub verb: &'static str,
    /// The query.
    pub query: Query,
    /// The headers.
    pub headers: HeaderMap,
    /// In which form the answer is wanted.
    pub form: Form,
    /// When a watch is told of a change.
    pub pace: Pace,
    /// What is to be said beside the answer.
    pub notes: Arc<Notes>,
}

/// Answers a request, whatever happens.
pub async fn handle(server: &Arc<Server>, request: Request) -> Answer {
    let query = Query::of(&request.parts.uri);
    // Errors are told in the form that the client reads; where there is none, in JSON: the error counts for more.
    let form = Form::of(&request.parts.headers, &query, Offer::Documents).unwrap_or_default();
    let info = RequestInfo::of(&request.parts, &query);
    let target = info.target.as_ref();
    let served = target.and_then(|target| server.find(&target.group, &target.version, &target.resource));
    let dry_run = query.get("dryRun").is_some();
    let seen = Seen::begin(&request.parts.method, &info, served.as_ref(), dry_run);
    let (streams, notes) = (seen.streams, Arc::new(Notes::with(server.audit.begin(&request, &info))));
    let asked = Asked { request, query, info, served, notes: notes.clone(), form };
    let watched = server.audit.watch_for_panic(&notes);
    let answer = answer(server, asked, streams).await;
    drop(watched);
    let mut answer = answer.unwrap_or_else(|error| respond::error(form, &error));
    respond::add_warnings(&mut answer, &notes.warnings());
    server.audit.end(&notes, &mut answer);
    seen.end(answer)
}

/// A request whose head has been read.
struct Asked {
    request: Request,
    query: Query,
    info: RequestInfo,
    served: Option<Arc<Served>>,
    notes: Arc<Notes>,
    /// What errors are told in.
    form: Form,
}

async fn answer(server: &Arc<Server>, mut asked: Asked, streams: bool) -> Result<Answer, ApiError> {
    let sender = authenticate(server, &mut asked.request, &asked.info, &asked.notes).await?;
    server.audit.received(&asked.notes, &sender);
    let user = impersonate(server, sender, &asked.request.parts.headers)?;
    if let Some(trail) = asked.notes.trail() {
        trail.acts_as(&user);
    }
    if streams {
        // It lasts as long as its client likes: a seat would be gone for as long.
        return permitted(server, asked, user).await;
    }
    let form = asked.form;
    let admitted = server.flow.admit(&user, &asked.info).await;
    let answer = match admitted.seat {
        Some(_) => permitted(server, asked, user).await,
        None => Ok(flow::too_many()),
    };
    let mut answer = answer.unwrap_or_else(|error| respond::error(form, &error));
    admitted.mark(&mut answer);
    Ok(answer)
}

async fn permitted(server: &Arc<Server>, asked: Asked, user: Arc<UserInfo>) -> Result<Answer, ApiError> {
    let Asked { mut request, query, info, served, notes, .. } = asked;
    authorize(server, &user, &info, &notes)?;
    let Some(target) = info.target else {
        return other_path(server, &request.parts, &info.path, &query).await;
    };
    if resource_metrics::serves(&target) {
        let form = Form::of(&request.parts.headers, &query, Offer::Custom)?;
        return resource_metrics::answer(server, &user, &target, info.verb, &query, form).await;
    }
    let served = served.ok_or_else(no_such_path)?;
    let posted = info.verb == "create" && served.posted.iter().any(|posted| posted.subresource == target.subresource);
    let offer = match api::schema::type_of(&served.resource) {
        Some(_) if posted => Offer::Posted,
        Some(_) => Offer::Objects,
        None => Offer::Custom,
    };
    let form = Form::of(&request.parts.headers, &query, offer);
    if kubelet_proxy::serves(&target) {
        let form = form.unwrap_or_default();
        let call = call(server, served, user, target, info.verb, query, &mut request, form, &notes);
        return kubelet_proxy::answer(call, request).await;
    }
    let form = Form { rows: RowObject::parse(query.get("includeObject"))?, ..form? };
    let call = call(server, served, user, target, info.verb, query, &mut request, form, &notes);
    if call.verb == "watch" {
        return watch::answer(call).await;
    }
    // A write's future is dropped here when its time is over; the write itself goes on in its task.
    match tokio::time::timeout(server.config.limits.request_time_max, resource_verb(call, request.body)).await {
        Ok(answer) => answer,
        Err(_) => Err(timed_out()),
    }
}

pub(crate) fn timed_out() -> ApiError {
    metrics::TERMINATIONS.with(["504"]).inc();
    ApiError::new(Reason::Timeout, "Timeout: request did not complete within the allotted timeout")
}

#[expect(clippy::too_many_arguments, reason = "these are the parts of a call, each known at another step of the path")]
fn call(
    server: &Arc<Server>,
    served: Arc<Served>,
    user: Arc<UserInfo>,
    target: Target,
    verb: &'static str,
    query: Query,
    request: &mut Request,
    form: Form,
    notes: &Arc<Notes>,
) -> Call {
    let headers = std::mem::take(&mut request.parts.headers);
    let pace = request.origin.pace();
    Call { server: server.clone(), served, user, target, verb, query, headers, form, pace, notes: notes.clone() }
}

async fn resource_verb(call: Call, body: RequestBody) -> Result<Answer, ApiError> {
    call.check_served()?;
    if let Some(warning) = call.served.custom.as_ref().and_then(|version| version.deprecation.as_deref()) {
        call.notes.warn(warning);
    }
    let is_asked =
        |resource: &api::Resource| resource.group == call.target.group && resource.plural == call.target.resource;
    if let Some((_, warning)) = DEPRECATED.iter().find(|(resource, _)| is_asked(resource)) {
        call.notes.warn(*warning);
    }
    if component_status::serves(&call.target) {
        return component_status::answer(&call);
    }
    match (call.verb, &*call.target.subresource) {
        ("get", "scale") => scale::get(call).await,
        ("get", _) => read::get(call).await,
        ("list", _) => list::answer(call).await,
        _ => {
            let body = body.read(call.server.config.limits.stall_max).await?;
            if let (Some(trail), Ok(kind)) = (call.notes.trail(), BodyKind::of_object(&call.headers)) {
                trail.sent(kind, &body);
            }
            in_own_task(call, body).await
        }
    }
}

/// Runs a write in a task that nobody's leaving ends.
async fn in_own_task(call: Call, body: bytes::Bytes) -> Result<Answer, ApiError> {
    let (sender, answer) = tokio::sync::oneshot::channel();
    let (tasks, notes) = (call.server.tasks.clone(), call.notes.clone());
    tasks.spawn("write", async move {
        // Nobody may be waiting any more: the write is done all the same.
        let _ = sender.send(write_verb(call, body).await);
    });
    answer.await.unwrap_or_else(|_| {
        if let Some(trail) = notes.trail() {
            trail.panicked();
        }
        Err(ApiError::new(
            Reason::InternalError,
            "Internal error occurred: the request failed; the server's log says why",
        ))
    })
}

async fn write_verb(call: Call, body: bytes::Bytes) -> Result<Answer, ApiError> {
    match (call.verb, &*call.target.subresource) {
        ("create", _) => write::create(call, body).await,
        ("update" | "patch", "scale") => scale::write(call, body).await,
        ("update", _) => write::update(call, body).await,
        ("patch", _) => patch::patch(call, body).await,
        ("delete", _) => delete::one(call, body).await,
        ("deletecollection", _) => delete::collection(call, body).await,
        _ => Err(call.method_not_allowed()),
    }
}

impl Call {
    /// The key of the object or, with an empty name, of the collection. Objects of cluster scope have no namespace.
    pub fn key(&self) -> Key {
        let namespace = if self.served.resource.namespaced() { &*self.target.namespace } else { "" };
        Key::new(namespace, &*self.target.name)
    }

    /// The cache of the resource, loaded when this is its first use.
    pub async fn cache(&self) -> Result<Arc<ResourceCache>, ApiError> {
        match (&self.served.resource, &self.served.cache) {
            (Row::BuiltIn(resource), _) => self.server.caches.of(resource).await,
            (_, Some(cache)) => {
                self.server.caches.loaded(cache).await?;
                Ok(cache.clone())
            }
            (Row::Custom(_), None) => Err(no_such_path()),
        }
    }

    /// What strategies and admission see of the call.
    pub fn context(&self, dry_run: bool) -> Context<'_> {
        let config = &self.server.config;
        Context { user: &self.user, now: config.clock.now(), random: &config.random, dry_run, notes: &self.notes }
    }

    /// Refuses what the resource's row does not have.
    fn check_served(&self) -> Result<(), ApiError> {
        let resource = &*self.served.resource;
        let verb = match self.verb {
            "get" => Verb::Get,
            "list" => Verb::List,
            "create" => Verb::Create,
            "update" => Verb::Update,
            "patch" => Verb::Patch,
            "delete" => Verb::Delete,
            "deletecollection" => Verb::DeleteCollection,
            _ => return Err(self.method_not_allowed()),
        };
        let verbs = match &*self.target.subresource {
            "" => &resource.verbs,
            name => &resource.subresource(name).ok_or_else(no_such_path)?.verbs,
        };
        let placed = match (resource.namespaced(), self.target.namespace.is_empty(), self.target.name.is_empty()) {
            // One object, or a new one, has its place in one namespace.
            (true, true, false) => return Err(no_such_path()),
            (true, true, true) => matches!(verb, Verb::List),
            (false, false, _) => resource.plural == "namespaces",
            _ => true,
        };
        match (placed, verbs.contains(&verb)) {
            (false, _) if resource.namespaced() => Err(self.method_not_allowed()),
            (false, _) => Err(no_such_path()),
            (true, false) => Err(self.method_not_allowed()),
            (true, true) => Ok(()),
        }
    }

    fn method_not_allowed(&self) -> ApiError {
        let resource = &*self.served.resource;
        let message = format!("{} is not supported on resources of kind {:?}", self.verb, resource.plural);
        let mut error = ApiError::about(Reason::MethodNotAllowed, &resource.group, &resource.plural, "", message);
        "the server does not allow this method on the requested resource".clone_into(&mut error.message);
        error
    }
}

fn no_such_path() -> ApiError {
    let mut error = ApiError::new(Reason::NotFound, "the server could not find the requested resource");
    error.details = serde_json::json!({});
    error
}

async fn authenticate(
    server: &Server,
    request: &mut Request,
    info: &RequestInfo,
    notes: &Notes,
) -> Result<Arc<UserInfo>, ApiError> {
    match &request.origin {
        Origin::Component(user) => Ok(user.clone()),
        Origin::Connection(certificate, _) => {
            let authenticator = &server.access.authenticator;
            authenticator.authenticate(certificate.as_deref(), &info.path, &mut request.parts.headers, notes).await
        }
    }
}

/// `Ok`, or the `Forbidden` error; the audit log is told why.
fn authorize(server: &Server, user: &UserInfo, info: &RequestInfo, notes: &Notes) -> Result<(), ApiError> {
    let mut attributes = info.attributes();
    let mut decision = server.access.authorization.decide(user, &attributes);
    let begins_session = info.verb == "get" && info.target.as_ref().is_some_and(kubelet_proxy::begins_session);
    if begins_session && matches!(decision, Decision::Allow { .. }) {
        attributes.verb = "create".into();
        decision = server.access.authorization.decide(user, &attributes);
    }
    if let Some(trail) = notes.trail() {
        trail.decided(&decision);
    }
    match decision {
        Decision::Allow { .. } => Ok(()),
        Decision::Deny { reason } | Decision::NoOpinion { reason } => Err(forbidden(user, &attributes, &reason)),
    }
}

/// Lets a user act as another, where every part of the other is allowed.
fn impersonate(server: &Server, user: Arc<UserInfo>, headers: &HeaderMap) -> Result<Arc<UserInfo>, ApiError> {
    let Some(other) = Impersonation::read(headers)? else { return Ok(user) };
    for needed in &other.needs {
        server.access.authorization.check(&user, needed)?;
    }
    Ok(Arc::new(other.user))
}

async fn other_path(server: &Arc<Server>, parts: &Parts, path: &str, query: &Query) -> Result<Answer, ApiError> {
    if !matches!(parts.method, http::Method::GET | http::Method::HEAD) {
        return Err(no_such_path());
    }
    if path == crate::backup::PATH {
        return crate::backup::answer(server).await;
    }
    if path == "/metrics" {
        return Ok(metrics::answer(server));
    }
    if let Some(answer) = health::answer(server, path, query).await {
        return Ok(answer);
    }
    if let Some(answer) = openapi::answer(server, path, query, &parts.headers).await? {
        return Ok(answer);
    }
    discovery::answer(server, path, query, &parts.headers)?.ok_or_else(no_such_path)
}

/// What a successful write that made something new answers with.
pub(crate) const CREATED: StatusCode = StatusCode::CREATED;
