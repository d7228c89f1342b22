//! Label and field selectors of a request, as a filter on cached objects.

use std::sync::Arc;

use api::{ApiError, Reason, Resource};
use machinery::fields::FieldSelector;
use machinery::labels::Selector;

use super::Call;
use super::query::Query;
use crate::conversion;
use crate::watch_cache::{Filter, Predicate};

/// What a list or watch wants to see.
pub fn filter(call: &Call) -> Result<Filter, ApiError> {
    let mut filter = of_query(&call.served.resource, &call.served.stored, &call.query)?;
    let key = call.key();
    if !key.namespace.is_empty() {
        filter.namespace = Some(key.namespace);
    }
    if !key.name.is_empty() {
        filter.name = Some(key.name);
    }
    Ok(filter)
}

/// The selectors of a query. `stored` is the form that the cached objects have.
pub fn of_query(resource: &Resource, stored: &Resource, query: &Query) -> Result<Filter, ApiError> {
    let labels = query.get("labelSelector").map(Selector::parse).transpose().map_err(|error| bad("label", &error))?;
    let fields =
        query.get("fieldSelector").map(FieldSelector::parse).transpose().map_err(|error| bad("field", &error))?;
    let labels = labels.filter(|labels| !labels.is_everything());
    let mut filter = Filter::default();
    let mut others: Vec<(Place, bool, Box<str>)> = Vec::new();
    for requirement in fields.iter().flat_map(FieldSelector::requirements) {
        let place = place(resource, stored, &requirement.field)?;
        let value: Box<str> = requirement.value.as_str().into();
        match (place, requirement.negated) {
            (Place::Name, false) if filter.name.is_none() => filter.name = Some(value.into()),
            (Place::Namespace, false) if filter.namespace.is_none() => filter.namespace = Some(value.into()),
            (Place::Field(at), false) if filter.field.is_none() => filter.field = Some((at, value)),
            (place, negated) => others.push((place, negated, value)),
        }
    }
    filter.predicate = predicate(labels, others);
    Ok(filter)
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Name,
    Namespace,
    Field(usize),
}

fn place(resource: &Resource, stored: &Resource, field: &str) -> Result<Place, ApiError> {
    match field {
        "metadata.name" => return Ok(Place::Name),
        "metadata.namespace" if resource.namespaced() => return Ok(Place::Namespace),
        _ => {}
    }
    let in_stored = conversion::stored_field(resource, field);
    let known = resource.selectable_fields.iter().any(|known| known == field);
    let position = stored.selectable_fields.iter().position(|known| *known == in_stored).filter(|_| known);
    position.map(Place::Field).ok_or_else(|| {
        let message = if resource.selectable_fields.is_empty() {
            format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        } else {
            format!("field label not supported: {field}")
        };
        ApiError::new(Reason::BadRequest, message)
    })
}

fn predicate(labels: Option<Selector>, fields: Vec<(Place, bool, Box<str>)>) -> Option<Predicate> {
    if labels.is_none() && fields.is_empty() {
        return None;
    }
    Some(Arc::new(move |object| {
        labels.as_ref().is_none_or(|labels| labels.matches_pairs(&object.index().labels))
            && fields.iter().all(|(place, negated, value)| {
                let seen = match place {
                    Place::Name => &*object.key().name,
                    Place::Namespace => &*object.key().namespace,
                    Place::Field(at) => object.index().fields.get(*at).map_or("", |value| &**value),
                };
                (seen == &**value) != *negated
            })
    }))
}

fn bad(what: &str, error: &dyn std::error::Error) -> ApiError {
    ApiError::new(Reason::BadRequest, format!("unable to parse {what} selector: {error}"))
}
