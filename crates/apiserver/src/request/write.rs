//! `create` and `update`: from a body to an acknowledged transaction.
//!
//! Both go through the same steps in the same order: default, mutating admission, preparation, reservation, validation,
//! validating admission, store. A change is written only where the object is still the one that it was made from; where the
//! writer did not say which that is, the change is made again from the newer one.

use api::object::Tree;
use api::schema::Strictness;
use api::{ApiError, EncodeError, Key, Object, Reason, Resource, storage_key};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use store::{KeyValue, Precondition, Revision, Txn, TxnOutcome, Write};

use super::body::{self, decode};
use super::managed::{self, Owners};
use super::negotiate::BodyKind;
use super::query::WriteOptions;
use super::respond::{self, Answer};
use super::{CREATED, Call, apply, metadata};
use crate::admission::reinvocation::Reinvocation;
use crate::admission::{Attempt, Operation};
use crate::invalid::{FieldError, invalid};
use crate::registry::{Context, Reservation};
use crate::watch_cache::store_failed;
use crate::{Served, conversion, fields};

/// What upstream says when an object was changed in between.
pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// How often a change is made again from a newer object before the writer is told. Without an end two writers in a loop
/// could keep a third one for ever.
const ATTEMPTS_MAX: usize = 64;
/// How many names are tried for `generateName`.
const NAMES_MAX: usize = 8;

/// Answers `create`: of an object, or of something that is posted and answered.
pub async fn create(call: Call, body: Bytes) -> Result<Answer, ApiError> {
    let options = WriteOptions::of(&call)?;
    let context = call.context(options.dry_run);
    let subresource = &*call.target.subresource;
    if let Some(posted) = call.served.posted.iter().find(|posted| posted.subresource == subresource) {
        let mut object = decode(BodyKind::of_object(&call.headers)?, &body)?;
        let key = call.key();
        let attempt = attempt(&call, &context, Operation::Create, &key, None);
        mutate(&call, &attempt, &mut object).await?;
        validate(&call, &attempt, &object).await?;
        let answer = (posted.answer)(&call.server, &context, &key, object).await?;
        return Ok(respond::encoded(CREATED, call.form, answer.to_string().into()));
    }
    if !subresource.is_empty() || !call.target.name.is_empty() {
        return Err(ApiError::new(
            Reason::MethodNotAllowed,
            "the server does not allow this method on the requested resource",
        ));
    }
    if call.served.custom.as_ref().is_some_and(|version| version.terminating) {
        let resource = &*call.served.resource;
        let message = "create not allowed while custom resource definition is terminating";
        return Err(ApiError::about(Reason::MethodNotAllowed, &resource.group, &resource.plural, "", message));
    }
    let object = decode_object(&call, &options, &body)?;
    let created = create_object(&call, &context, object.into()).await?;
    Ok(written(&call, CREATED, &created))
}

/// Creates an object from a decoded body.
pub async fn create_object(call: &Call, context: &Context<'_>, mut new: Changed) -> Result<Object, ApiError> {
    let resource = &*call.served.resource;
    let key = place(call, &mut new.object)?;
    if !metadata::text(&new.object, "resourceVersion").is_empty() {
        return Err(ApiError::new(Reason::Unknown, "resourceVersion should not be set on objects to be created"));
    }
    if !metadata::is_generated(&new.object) {
        let key = Key::new(key.namespace, metadata::text(&new.object, "name"));
        let generates = !metadata::text(&new.object, "generateName").is_empty();
        let created = create_once(call, context, &key, new).await?;
        return created.map_err(|()| name_taken(resource, &key, generates));
    }
    let mut refused = key;
    for _ in 0..NAMES_MAX {
        let mut new = new.clone();
        metadata::generate_name(context, &mut new.object);
        let key = Key::new(refused.namespace.clone(), metadata::text(&new.object, "name"));
        match create_once(call, context, &key, new).await? {
            Ok(object) => return Ok(object),
            Err(()) => refused = key,
        }
    }
    Err(name_taken(resource, &refused, true))
}

fn name_taken(resource: &Resource, key: &Key, generates: bool) -> ApiError {
    let mut error = ApiError::already_exists(&resource.group, &resource.plural, &key.name);
    if generates {
        error.message.push_str(", the server was not able to generate a unique name for the object");
        error.details["retryAfterSeconds"] = 1.into();
    }
    error
}

/// One attempt; the inner error says that the name is taken.
async fn create_once(
    call: &Call,
    context: &Context<'_>,
    key: &Key,
    new: Changed,
) -> Result<Result<Object, ()>, ApiError> {
    let strategy = &*call.served.strategy;
    let Changed { mut object, owners } = new;
    strategy.default(&mut object);
    metadata::one_of_each_owner(context, &mut object);
    let owned = managed::after(call, context, None, &mut object, owners);
    let attempt = attempt(call, context, Operation::Create, key, None);
    mutate(call, &attempt, &mut object).await?;
    strategy.prepare_for_create(context, &mut object);
    metadata::fill_for_create(context, strategy, &mut object);
    let mut errors = metadata::validate(&call.served.resource, strategy, &object, key);
    if !errors.is_empty() {
        return Err(invalid(&call.served.resource, &key.name, &errors));
    }
    let reservation = strategy.reserve(context, &mut object, None).await?;
    errors.extend(strategy.validate(context, &object));
    if !errors.is_empty() {
        return Err(invalid(&call.served.resource, &key.name, &errors));
    }
    strategy.warnings(&object, None).into_iter().for_each(|warning| call.notes.warn(warning));
    validate(call, &attempt, &object).await?;
    let storage_key = Bytes::from(storage_key::of(&call.served.resource, key));
    if context.dry_run {
        let cache = call.cache().await?;
        call.server.caches.fresh().await;
        let exists = cache.get(key).is_some();
        return if exists { Ok(Err(())) } else { parse(&call.served.resource, &object, &owned.encoded).map(Ok) };
    }
    let stored = encode_stored(&call.served, object, &owned.encoded);
    let precondition = Precondition::Absent(storage_key.clone());
    match commit(call, precondition, Write::Put(storage_key, stored.clone()), reservation).await? {
        TxnOutcome::Committed(revision) => from_stored_bytes(&call.served, &stored, revision).map(Ok),
        TxnOutcome::Refused { .. } => Ok(Err(())),
    }
}

/// Answers `update` of an object or a subresource.
pub async fn update(call: Call, body: Bytes) -> Result<Answer, ApiError> {
    let options = WriteOptions::of(&call)?;
    let mut object = decode_object(&call, &options, &body)?;
    let context = call.context(options.dry_run);
    let key = place(&call, &mut object)?;
    let change = |_: &Tree| Ok(object.clone().into());
    match modify(&call, &context, &key, &change).await {
        Ok(changed) => Ok(written(&call, StatusCode::OK, &changed)),
        Err(error)
            if error.is_not_found()
                && call.target.subresource.is_empty()
                && call.served.strategy.allows_create_on_update() =>
        {
            apply::may_create(&call)?;
            without_revision(&mut object)?;
            let created = create_object(&call, &context, object.into()).await?;
            Ok(written(&call, CREATED, &created))
        }
        Err(error) => Err(error),
    }
}

/// PUT that creates must not name a version of something that does not exist.
fn without_revision(object: &mut Value) -> Result<(), ApiError> {
    match metadata::fields(object).shift_remove("resourceVersion") {
        Some(version) if version != "" && version != "0" => {
            Err(ApiError::new(Reason::Conflict, "the object does not exist; create it without a resourceVersion"))
        }
        _ => Ok(()),
    }
}

/// The answer to a write.
pub fn written(call: &Call, status: StatusCode, object: &Object) -> Answer {
    respond::object(status, call.form, object, &call.served, call.server.config.clock.now())
}

/// Makes the new object of the one that is there.
pub type Change<'a> = &'a (dyn Fn(&Tree) -> Result<Changed, ApiError> + Send + Sync);

/// An object as a write wants it.
#[derive(Debug, Clone)]
pub struct Changed {
    /// The object. Managed fields in it are what the client sent.
    pub object: Value,
    /// Who owns its fields afterwards.
    pub owners: Owners,
}

impl From<Value> for Changed {
    fn from(object: Value) -> Self {
        Self { object, owners: Owners::Tracked }
    }
}

/// Changes an object: `change` makes the new tree of the current one, again if somebody else was first, unless it names the
/// resource version that it was made for. Gives the object as it is afterwards.
pub async fn modify(call: &Call, context: &Context<'_>, key: &Key, change: Change<'_>) -> Result<Object, ApiError> {
    let resource = &*call.served.resource;
    let mut current = Current::of(call, key).await?;
    for _ in 0..ATTEMPTS_MAX {
        let step = match change_once(call, context, key, &current, change).await {
            Ok(Step::Done(object)) => return Ok(object),
            Ok(Step::Overtaken(None)) => {
                return Err(ApiError::not_found(&resource.group, &resource.plural, &key.name));
            }
            Ok(Step::Overtaken(Some(newer))) => {
                current = Current::newer(&call.served, &newer)?;
                continue;
            }
            Ok(Step::Unchanged(object)) => Ok(object),
            Err(error) => Err(error),
        };
        // The cache may be behind what has been committed. What was said of an object that has been changed since, that
        // there is nothing to do or that it cannot be done, was said of the past.
        if !current.refresh(call, key).await? {
            return step;
        }
    }
    Err(ApiError::conflict(&resource.group, &resource.plural, &key.name, MODIFIED))
}

/// The object that a change is made from.
struct Current {
    object: Object,
    /// Whether nothing newer is known to have been committed when it was read.
    fresh: bool,
}

impl Current {
    async fn of(call: &Call, key: &Key) -> Result<Self, ApiError> {
        let resource = &*call.served.resource;
        let cache = call.cache().await?;
        if let Some(object) = cache.get(key) {
            return Ok(Self { object, fresh: false });
        }
        call.server.caches.fresh().await;
        let object = cache.get(key).ok_or_else(|| ApiError::not_found(&resource.group, &resource.plural, &key.name))?;
        Ok(Self { object, fresh: true })
    }

    fn newer(served: &Served, item: &KeyValue) -> Result<Self, ApiError> {
        let object = from_stored_bytes_as(&served.stored, &item.value, item.modified)?;
        Ok(Self { object, fresh: true })
    }

    /// Reads again behind everything that is committed now. Whether that may have changed something.
    async fn refresh(&mut self, call: &Call, key: &Key) -> Result<bool, ApiError> {
        if self.fresh {
            return Ok(false);
        }
        call.server.caches.fresh().await;
        *self = Self::of(call, key).await?;
        self.fresh = true;
        Ok(true)
    }
}

fn check_version(call: &Call, key: &Key, named: &str, current: &Current) -> Result<(), ApiError> {
    let resource = &*call.served.resource;
    if named.is_empty() || named == "0" {
        if call.served.strategy.allows_unconditional_update() || call.verb == "patch" {
            return Ok(());
        }
        let error = FieldError::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update");
        return Err(invalid(resource, &key.name, &[error]));
    }
    match named.parse::<u64>() {
        Ok(revision) if revision == current.object.revision() => Ok(()),
        Ok(_) => Err(ApiError::conflict(&resource.group, &resource.plural, &key.name, MODIFIED)),
        Err(_) => {
            let error = FieldError::invalid("metadata.resourceVersion", &json!(named), "must be a number");
            Err(invalid(resource, &key.name, &[error]))
        }
    }
}

enum Step {
    Done(Object),
    /// Nothing to write, as far as is known of the object.
    Unchanged(Object),
    Overtaken(Option<KeyValue>),
}

async fn change_once(
    call: &Call,
    context: &Context<'_>,
    key: &Key,
    current: &Current,
    change: Change<'_>,
) -> Result<Step, ApiError> {
    let mut before = current.object.to_tree();
    before.object = conversion::from_stored(&call.served, before.object);
    let new = change(&before)?;
    check_version(call, key, metadata::text(&new.object, "resourceVersion"), current)?;
    modify_once(call, context, key, current, before, new).await
}

async fn modify_once(
    call: &Call,
    context: &Context<'_>,
    key: &Key,
    current: &Current,
    before: Tree,
    new: Changed,
) -> Result<Step, ApiError> {
    let (resource, strategy) = (&*call.served.resource, &*call.served.strategy);
    let Changed { object: mut new, owners } = new;
    let conditional = !matches!(metadata::text(&new, "resourceVersion"), "" | "0");
    if !strategy.keeps_nulls() {
        body::drop_nulls(&mut new);
    }
    check_uid(resource, key, &new, &before.object)?;
    strategy.default(&mut new);
    metadata::one_of_each_owner(context, &mut new);
    let owned = managed::after(call, context, Some(&before), &mut new, owners);
    let old = before.object;
    let attempt = attempt(call, context, Operation::Update, key, Some(&old));
    mutate(call, &attempt, &mut new).await?;
    let subresource = &*call.target.subresource;
    match subresource {
        "" => strategy.prepare_for_update(context, &mut new, &old),
        // The server made this change itself, from a binding.
        "binding" => {}
        name => strategy.prepare_for_subresource_update(context, name, &mut new, &old),
    }
    metadata::keep_for_update(&mut new, &old);
    if strategy.has_generation() && !matches!(subresource, "status" | "binding") {
        metadata::bump_generation(strategy, &mut new, &old);
    }
    let mut errors = metadata::validate_update(resource, strategy, &new, &old, key);
    let reservation = match subresource {
        "" => strategy.reserve(context, &mut new, Some(&old)).await?,
        _ => None,
    };
    errors.extend(match subresource {
        "" => strategy.validate_update(context, &new, &old),
        "binding" => Vec::new(),
        name => strategy.validate_subresource_update(context, name, &new, &old),
    });
    if !errors.is_empty() {
        return Err(invalid(resource, &key.name, &errors));
    }
    if subresource.is_empty() {
        strategy.warnings(&new, Some(&old)).into_iter().for_each(|warning| call.notes.warn(warning));
    }
    validate(call, &attempt, &new).await?;
    if context.dry_run {
        return Ok(Step::Done(parse_at(resource, new, current.object.revision(), &owned.encoded)?));
    }
    if same(&new, &old) && !owned.changed {
        return conversion::object_from_stored(&call.served, current.object.clone()).map(Step::Unchanged);
    }
    let storage_key = Bytes::from(storage_key::of(resource, key));
    let precondition = Precondition::ModifiedAt(storage_key.clone(), Revision(current.object.revision()));
    let gone = is_gone(&new) && !strategy.stays_when_deleted(&new);
    let stored = encode_stored(&call.served, new, &owned.encoded);
    let write = if gone { Write::Delete(storage_key) } else { Write::Put(storage_key, stored.clone()) };
    match commit(call, precondition, write, reservation).await? {
        TxnOutcome::Committed(revision) => from_stored_bytes(&call.served, &stored, revision).map(Step::Done),
        TxnOutcome::Refused { current: Some(_), .. } if conditional => {
            Err(ApiError::conflict(&resource.group, &resource.plural, &key.name, MODIFIED))
        }
        TxnOutcome::Refused { current, .. } => Ok(Step::Overtaken(current)),
    }
}

/// Whether nothing keeps a deleted object any more: its last finalizer was just removed and its time is over.
pub fn is_gone(object: &Value) -> bool {
    let metadata = &object["metadata"];
    !metadata["deletionTimestamp"].is_null()
        && metadata["finalizers"].as_array().is_none_or(Vec::is_empty)
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}

fn check_uid(resource: &Resource, key: &Key, new: &Value, old: &Value) -> Result<(), ApiError> {
    let (asked, found) = (metadata::text(new, "uid"), metadata::text(old, "uid"));
    if asked.is_empty() || asked == found {
        return Ok(());
    }
    let why = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {found}");
    Err(ApiError::conflict(&resource.group, &resource.plural, &key.name, &why))
}

/// Whether a change changes nothing. The resource version is the server's and does not count.
fn same(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new == old };
    let same_metadata = || match (new.get("metadata"), old.get("metadata")) {
        (Some(Value::Object(new)), Some(Value::Object(old))) => same_but_for(new, old, "resourceVersion"),
        (new, old) => new == old,
    };
    same_but_for(new, old, "metadata") && same_metadata()
}

/// Whether two maps are the same but for one field.
fn same_but_for(new: &serde_json::Map<String, Value>, old: &serde_json::Map<String, Value>, but: &str) -> bool {
    let fields = |map: &serde_json::Map<String, Value>| map.len() - usize::from(map.contains_key(but));
    fields(new) == fields(old)
        && new.iter().filter(|(field, _)| *field != but).all(|(field, value)| old.get(field) == Some(value))
}

/// Decodes an object's body. What is odd about its fields is told to the writer.
pub fn decode_object(call: &Call, options: &WriteOptions, body: &Bytes) -> Result<Value, ApiError> {
    let (object, warnings) = match BodyKind::of_object(&call.headers)? {
        BodyKind::Yaml => fields::read_tree(call, options.strictness, &body::yaml(body)?)?,
        BodyKind::Protobuf if call.served.custom.is_some() => {
            let message = "the body of the request was in an unknown format - accepted media types include: \
                           application/json, application/yaml";
            return Err(ApiError::new(Reason::UnsupportedMediaType, message));
        }
        BodyKind::Protobuf => fields::read_tree(call, options.strictness, &body::protobuf(body)?)?,
        _ => fields::read(call, options.strictness, body)?,
    };
    warnings.into_iter().for_each(|warning| call.notes.warn(warning));
    Ok(object)
}

/// Checks kind, namespace and name of a body against the path, and fills in what it leaves out.
pub fn place(call: &Call, object: &mut Value) -> Result<Key, ApiError> {
    let resource = &*call.served.resource;
    if !object.is_object() {
        return Err(ApiError::new(Reason::BadRequest, "the body of the request is not an object"));
    }
    // A scale or binding has another kind than its parent; those are read elsewhere.
    for (field, expected) in [("apiVersion", resource.api_version()), ("kind", resource.kind.to_string())] {
        let given = object[field].as_str().unwrap_or_default();
        if given.is_empty() {
            object[field] = expected.into();
        } else if given != expected {
            let what = if field == "kind" { "kind" } else { "API version" };
            let message = format!("the {what} in the data ({given}) does not match the expected {what} ({expected})");
            return Err(ApiError::new(Reason::BadRequest, message));
        }
    }
    let key = call.key();
    let fields = metadata::fields(object);
    if resource.namespaced() {
        let given = fields.get("namespace").and_then(Value::as_str).unwrap_or_default();
        if !given.is_empty() && *given != *key.namespace {
            let message = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(ApiError::new(Reason::BadRequest, message));
        }
        fields.insert("namespace".to_owned(), (*key.namespace).into());
    }
    if key.name.is_empty() {
        return Ok(key);
    }
    let given = fields.get("name").and_then(Value::as_str).unwrap_or_default();
    if !given.is_empty() && *given != *key.name {
        let message = format!("the name of the object ({given}) does not match the name on the URL ({})", key.name);
        return Err(ApiError::new(Reason::BadRequest, message));
    }
    fields.insert("name".to_owned(), (*key.name).into());
    Ok(key)
}

/// A write as admission sees it.
pub fn attempt<'a>(
    call: &'a Call,
    context: &'a Context<'a>,
    operation: Operation,
    key: &'a Key,
    old: Option<&'a Value>,
) -> Attempt<'a> {
    let (resource, subresource) = (&*call.served.resource, &*call.target.subresource);
    let (strategy, again) = (&*call.served.strategy, Reinvocation::default());
    Attempt { context, operation, resource, subresource, key, old, strategy, again }
}

/// The mutating half of admission, twice where a change may concern who came before it.
pub async fn mutate(call: &Call, attempt: &Attempt<'_>, object: &mut Value) -> Result<(), ApiError> {
    mutate_once(call, attempt, object).await?;
    if attempt.again.begins_second() {
        mutate_once(call, attempt, object).await?;
    }
    Ok(())
}

async fn mutate_once(call: &Call, attempt: &Attempt<'_>, object: &mut Value) -> Result<(), ApiError> {
    for plugin in &call.server.plugins {
        plugin.mutate(attempt, object).await?;
        if attempt.again.take_unsettled() {
            // What a stranger's expression made is read as if it had been sent.
            *object = fields::read_tree(call, Strictness::Strict, object)?.0;
            attempt.strategy.default(object);
        }
    }
    Ok(())
}

/// The validating half of admission.
pub async fn validate(call: &Call, attempt: &Attempt<'_>, object: &Value) -> Result<(), ApiError> {
    for plugin in &call.server.plugins {
        plugin.validate(attempt, object).await?;
    }
    Ok(())
}

/// Commits one write. What was reserved for it is held until the caches show the write.
pub async fn commit(
    call: &Call,
    precondition: Precondition,
    write: Write,
    reservation: Option<Reservation>,
) -> Result<TxnOutcome, ApiError> {
    let txn = Txn { preconditions: vec![precondition], writes: vec![write] };
    let outcome = call.server.config.store.txn(txn).await.map_err(|error| store_failed(&error))?;
    if let (Some(reservation), TxnOutcome::Committed(revision)) = (reservation, &outcome) {
        call.server.caches.reached(revision.0).await;
        drop(reservation);
    }
    Ok(outcome)
}

/// The bytes to store.
pub fn encode_stored(served: &Served, object: Value, managed_fields: &[u8]) -> Bytes {
    let mut object = conversion::to_stored(served, object);
    metadata::fields(&mut object).shift_remove("resourceVersion");
    api::object::encode_managed(&object, managed_fields).into()
}

/// An object in the version that was asked for, from the bytes that were stored.
pub fn from_stored_bytes(served: &Served, stored: &[u8], revision: Revision) -> Result<Object, ApiError> {
    conversion::object_from_stored(served, from_stored_bytes_as(&served.stored, stored, revision)?)
}

fn from_stored_bytes_as(form: &Resource, stored: &[u8], revision: Revision) -> Result<Object, ApiError> {
    let mut json = Vec::with_capacity(stored.len() + 40);
    api::object::with_revision(stored, revision.0, &mut json);
    Object::parse(form, json.into()).map_err(|error| unreadable(&error))
}

fn parse(resource: &Resource, object: &Value, managed_fields: &[u8]) -> Result<Object, ApiError> {
    let json = api::object::encode_managed(object, managed_fields);
    Object::parse(resource, json.into()).map_err(|error| unreadable(&error))
}

fn parse_at(resource: &Resource, mut object: Value, revision: u64, managed_fields: &[u8]) -> Result<Object, ApiError> {
    metadata::fields(&mut object).insert("resourceVersion".to_owned(), revision.to_string().into());
    parse(resource, &object, managed_fields)
}

fn unreadable(error: &EncodeError) -> ApiError {
    ApiError::new(Reason::InternalError, format!("Internal error occurred: {}", base::chain(error)))
}
