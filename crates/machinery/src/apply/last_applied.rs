//! From kubectl's client-side apply to server-side apply: the annotation in which it keeps what it applied last.
//!
//! Only `kubectl` itself, by its default name, gets this: who wants no such help says another name.

use serde_json::Value;

use super::compare::compare;
use super::conflict::Conflicts;
use super::managers::Managers;
use super::set::Set;
use super::tracker::{Applied, ApplyError, Tracker, Writer};
use super::typed::{check, fields};

/// The annotation.
pub const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager that it is for.
const KUBECTL: &str = "kubectl";
/// A larger annotation would make the object invalid: upstream's bound on all annotations together.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

impl Tracker<'_> {
    /// [`apply`](Self::apply), where `kubectl` may take over what it applied itself before, client-side, and the annotation that
    /// says so is kept up to date.
    pub fn apply_for_users(
        &self,
        live: Option<&Value>,
        config: &Value,
        managers: Managers,
        writer: Writer<'_>,
        force: bool,
    ) -> Result<Applied, ApplyError> {
        if writer.name != KUBECTL {
            return self.apply(live, config, managers, writer, force);
        }
        let mut applied = match self.apply(live, config, managers.clone(), writer, force) {
            Err(ApplyError::Conflicts(conflicts)) => {
                let left = self.conflicts_left(live, conflicts);
                if !left.0.is_empty() {
                    return Err(ApplyError::Conflicts(left));
                }
                self.apply(live, config, managers, writer, true)
            }
            other => other,
        }?;
        keep_annotation(live, config, &mut applied);
        Ok(applied)
    }

    /// The conflicts that are not about fields which kubectl applied client-side and nobody changed since.
    fn conflicts_left(&self, live: Option<&Value>, conflicts: Conflicts) -> Conflicts {
        match live.and_then(|live| self.applied_before(live)) {
            Some(allowed) => conflicts.without(&allowed),
            None => conflicts,
        }
    }

    fn applied_before(&self, live: &Value) -> Option<Set> {
        let last: Value = serde_json::from_str(annotation(live)?).ok()?;
        let root = self.versions.root(self.api_version)?;
        if last["apiVersion"] != self.api_version || check(&last, root).is_err() {
            return None;
        }
        let change = compare(Some(&last), live, root);
        let set = fields(&last, root).difference(&change.modified);
        Some(set.difference(&change.added).difference(&change.removed))
    }
}

fn annotation(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][ANNOTATION].as_str().filter(|text| !text.is_empty())
}

fn keep_annotation(live: Option<&Value>, config: &Value, applied: &mut Applied) {
    let Some(object) = applied.object.as_ref().or(live).filter(|object| annotation(object).is_some()) else { return };
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.shift_remove(ANNOTATION);
    }
    config.sort_all_objects();
    let text = format!("{config}\n");
    if annotation(object) == Some(&*text) {
        return;
    }
    let mut object = object.clone();
    if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.insert(ANNOTATION.to_owned(), text.into());
        let bytes: usize = annotations.iter().map(|(name, text)| name.len() + text.as_str().map_or(0, str::len)).sum();
        if bytes > ANNOTATIONS_BYTES_MAX {
            annotations.shift_remove(ANNOTATION);
        }
    }
    applied.object = Some(object);
}
