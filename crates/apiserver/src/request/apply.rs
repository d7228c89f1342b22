//! Server-side apply: a `patch` with `application/apply-patch+yaml`, which says what the object is to be, as far as its manager
//! cares. It creates what is not there.

use api::object::Tree;
use api::{ApiError, Reason, Verb};
use bytes::Bytes;
use http::StatusCode;
use machinery::apply::{Applied, ApplyError, Managers, Writer};
use serde_json::{Value, json};

use super::managed::{self, Owners};
use super::query::WriteOptions;
use super::respond::Answer;
use super::write::{Changed, create_object, modify, written};
use super::{CREATED, Call, body, metadata};
use crate::authorization::Attributes;
use crate::fields;
use crate::registry::Context;

/// A configuration to be applied.
pub struct Configuration {
    tree: Value,
    /// Whether conflicts are taken, not reported.
    force: bool,
}

impl Configuration {
    /// Reads a request's body and options.
    pub fn read(call: &Call, options: &WriteOptions, body: &Bytes) -> Result<Self, ApiError> {
        let (tree, warnings) = body::yaml_with_duplicates(body, options.strictness)?;
        warnings.into_iter().for_each(|warning| call.notes.warn(warning));
        Ok(Self { tree, force: call.query.flag("force") })
    }

    /// The configuration itself.
    pub fn tree(&self) -> &Value {
        &self.tree
    }

    /// Refuses a configuration of another kind than what the path leads to.
    pub fn check_kind(&self, api_version: &str, kind: &str) -> Result<(), ApiError> {
        let text = |field: &str| self.tree[field].as_str().unwrap_or_default();
        if text("apiVersion") == api_version && text("kind") == kind {
            return Ok(());
        }
        let slash = if text("apiVersion").contains('/') { "" } else { "/" };
        let message = format!("invalid object type: {slash}{}, Kind={}", text("apiVersion"), text("kind"));
        Err(ApiError::new(Reason::BadRequest, message))
    }

    /// Whether conflicts are taken, not reported.
    pub fn force(&self) -> bool {
        self.force
    }
}

/// Answers an applied configuration.
pub async fn answer(call: Call, options: &WriteOptions, body: &Bytes) -> Result<Answer, ApiError> {
    let configuration = Configuration::read(&call, options, body)?;
    let resource = &call.served.resource;
    configuration.check_kind(&resource.api_version(), &resource.kind)?;
    let context = call.context(options.dry_run);
    let change = |old: &Tree| merged(&call, &context, &configuration, Some(old));
    match modify(&call, &context, &call.key(), &change).await {
        Ok(changed) => Ok(written(&call, StatusCode::OK, &changed)),
        Err(error) if error.is_not_found() && call.target.subresource.is_empty() => {
            create(&call, &context, &configuration).await
        }
        Err(error) => Err(error),
    }
}

async fn create(call: &Call, context: &Context<'_>, configuration: &Configuration) -> Result<Answer, ApiError> {
    may_create(call)?;
    let uid = metadata::text(&configuration.tree, "uid");
    if !uid.is_empty() {
        let resource = &call.served.resource;
        let why = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
        return Err(ApiError::conflict(&resource.group, &resource.plural, &call.target.name, &why));
    }
    let new = merged(call, context, configuration, None)?;
    let created = create_object(call, context, new).await?;
    Ok(written(call, CREATED, &created))
}

/// A write that creates what it does not find needs the right to create as well.
pub fn may_create(call: &Call) -> Result<(), ApiError> {
    let target = &call.target;
    if !call.served.resource.serves(Verb::Create) {
        return Err(ApiError::not_found(&target.group, &target.resource, &target.name));
    }
    let attributes = Attributes {
        verb: "create".to_owned(),
        group: target.group.clone(),
        version: target.version.clone(),
        resource: target.resource.clone(),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        ..Attributes::default()
    };
    call.server.access.authorization.check(&call.user, &attributes)
}

/// The object with the configuration in it.
fn merged(
    call: &Call,
    context: &Context<'_>,
    configuration: &Configuration,
    old: Option<&Tree>,
) -> Result<Changed, ApiError> {
    let managers = managers_of(old)?;
    let (name, now) = (managed::manager(call), metadata::time(context.now));
    let writer = Writer { name: &name, now: &now };
    let live = old.map(|old| &old.object);
    let applied = managed::with_tracker(call, |tracker| {
        tracker.apply_for_users(live, &configuration.tree, managers, writer, configuration.force)
    });
    let Applied { object, managers } = applied.map_err(|error| refused(&error))?;
    let mut object = match (object, live) {
        (Some(object), _) => fields::read_tree(call, api::schema::Strictness::Ignore, &object)?.0,
        (None, live) => live.cloned().unwrap_or_default(),
    };
    // The version that the object was merged from is not one that the client named.
    let named = metadata::text(&configuration.tree, "resourceVersion");
    let fields = metadata::fields(&mut object);
    match named {
        "" => drop(fields.shift_remove("resourceVersion")),
        named => drop(fields.insert("resourceVersion".to_owned(), named.into())),
    }
    Ok(Changed { object, owners: Owners::Are(managers) })
}

/// The managers of a live object. Guessing at what cannot be read would give its fields to somebody else.
pub fn managers_of(old: Option<&Tree>) -> Result<Managers, ApiError> {
    let Some(raw) = old.and_then(|old| old.managed_fields.as_ref()) else { return Ok(Managers::default()) };
    Managers::parse(raw.get().as_bytes())
        .map_err(|error| ApiError::new(Reason::Unknown, format!("failed to decode managed fields: {error}")))
}

/// Why a configuration was not applied, as the API says it.
pub fn refused(error: &ApplyError) -> ApiError {
    match error {
        ApplyError::BadRequest(why) => ApiError::new(Reason::BadRequest, why),
        ApplyError::Type(why) => ApiError::new(Reason::Unknown, why),
        ApplyError::Conflicts(conflicts) => {
            let cause =
                |(message, field)| json!({"reason": "FieldManagerConflict", "message": message, "field": field});
            let mut error = ApiError::new(Reason::Conflict, conflicts.to_string());
            error.details = json!({"causes": conflicts.causes().map(cause).collect::<Vec<_>>()});
            error
        }
    }
}
