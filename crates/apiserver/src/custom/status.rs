//! A definition's status: which names it has, whether it is served, how far its deletion is. Decides and touches nothing.
//!
//! Conditions, reasons and messages are upstream's naming, establishing and finalizing controllers'.

use serde_json::{Value, json};

use super::definition::Names;

/// Holds a deleted definition back until its objects are gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// A condition without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Which.
    pub kind: &'static str,
    /// `True` or `False`.
    pub status: &'static str,
    /// Why, for programs.
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
}

const fn condition(kind: &'static str, status: &'static str, reason: &'static str) -> Condition {
    Condition { kind, status, reason, message: String::new() }
}

impl Condition {
    fn saying(self, message: impl Into<String>) -> Self {
        Self { message: message.into(), ..self }
    }
}

/// A definition that has just been deleted.
pub const DELETION_PENDING: Condition = condition("Terminating", "True", "InstanceDeletionPending");

fn message_of(condition: &Condition) -> &str {
    match condition.reason {
        "InstanceDeletionPending" => {
            "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon"
        }
        "InstanceDeletionInProgress" => "CustomResource deletion is in progress",
        "InstanceDeletionCompleted" => "removed all instances",
        "NeverEstablished" => "resource was never established",
        _ => &condition.message,
    }
}

/// The objects of a deleted definition are being deleted.
pub fn deletion_in_progress() -> Condition {
    condition("Terminating", "True", "InstanceDeletionInProgress")
}

/// The objects of a deleted definition are gone, or there were never any.
pub fn deletion_completed(established: bool) -> Condition {
    condition("Terminating", "False", if established { "InstanceDeletionCompleted" } else { "NeverEstablished" })
}

/// Some objects of a deleted definition could not be deleted.
pub fn deletion_failed(why: &str) -> Condition {
    let failed = condition("Terminating", "True", "InstanceDeletionFailed");
    failed.saying(format!("could not issue all deletes: {why}"))
}

/// Sets a condition of a status. Its time is that of the last change of its value.
pub fn set_condition(status: &mut Value, condition: &Condition, now: &str) {
    let Some(conditions) = status.as_object_mut().map(|fields| fields.entry("conditions").or_insert_with(|| json!([])))
    else {
        return;
    };
    let Some(conditions) = conditions.as_array_mut() else { return };
    let known = conditions.iter_mut().find(|it| it["type"] == condition.kind);
    let since = known.as_ref().filter(|it| it["status"] == condition.status).map(|it| it["lastTransitionTime"].clone());
    let new = json!({"type": condition.kind, "status": condition.status,
        "lastTransitionTime": since.unwrap_or_else(|| now.into()), "reason": condition.reason,
        "message": message_of(condition)});
    match known {
        Some(known) => *known = new,
        None => conditions.push(new),
    }
}

/// Whether a condition holds.
pub fn holds(definition: &Value, kind: &str) -> bool {
    let conditions = definition["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|it| it["type"] == kind && it["status"] == "True")
}

/// The names of others in the same group.
#[derive(Debug, Default)]
pub struct Taken {
    /// Plurals, singulars and short names.
    pub resources: Vec<String>,
    /// Kinds and list kinds.
    pub kinds: Vec<String>,
}

impl Taken {
    /// Adds the names of another definition.
    pub fn add(&mut self, names: &Names) {
        self.resources.extend([&names.plural, &names.singular].map(Clone::clone));
        self.resources.extend(names.short_names.iter().cloned());
        self.kinds.extend([&names.kind, &names.list_kind].map(Clone::clone));
    }
}

/// The status that a definition should have: names that are free are accepted, and with them all it is established. What was
/// established stays so.
pub fn plan(definition: &Value, taken: &Taken, now: &str) -> Value {
    let mut status = definition["status"].clone();
    if !status.is_object() {
        status = json!({});
    }
    let requested: Names = serde_json::from_value(definition["spec"]["names"].clone()).unwrap_or_default();
    let accepted: Names = serde_json::from_value(status["acceptedNames"].clone()).unwrap_or_default();
    let (names, conflict) = accept(&requested, accepted, taken);
    status["acceptedNames"] = to_value(&names);
    let accepted = match &conflict {
        None => condition("NamesAccepted", "True", "NoConflicts").saying("no conflicts found"),
        Some((reason, message)) => condition("NamesAccepted", "False", reason).saying(message),
    };
    set_condition(&mut status, &accepted, now);
    if !holds(definition, "Established") {
        let established = if conflict.is_none() {
            condition("Established", "True", "InitialNamesAccepted").saying("the initial names have been accepted")
        } else {
            condition("Established", "False", "NotAccepted").saying("not all names are accepted")
        };
        set_condition(&mut status, &established, now);
    }
    status
}

/// The names that are accepted, and the last conflict.
fn accept(requested: &Names, mut accepted: Names, taken: &Taken) -> (Names, Option<(&'static str, String)>) {
    let mut conflict = None;
    let mut free = |name: &str, own: &str, others: &[String], reason: &'static str| {
        let free = name == own || !others.iter().any(|other| other == name);
        if !free {
            conflict = Some((reason, format!("{name:?} is already in use")));
        }
        free
    };
    if free(&requested.plural, &accepted.plural, &taken.resources, "PluralConflict") {
        accepted.plural.clone_from(&requested.plural);
    }
    if free(&requested.singular, &accepted.singular, &taken.resources, "SingularConflict") {
        accepted.singular.clone_from(&requested.singular);
    }
    let shorts = requested.short_names.iter().filter(|name| !accepted.short_names.contains(name));
    let refused: Vec<&String> = shorts.filter(|name| !free(name, "", &taken.resources, "ShortNamesConflict")).collect();
    if refused.is_empty() {
        accepted.short_names.clone_from(&requested.short_names);
    }
    if free(&requested.kind, &accepted.kind, &taken.kinds, "KindConflict") {
        accepted.kind.clone_from(&requested.kind);
    }
    if free(&requested.list_kind, &accepted.list_kind, &taken.kinds, "ListKindConflict") {
        accepted.list_kind.clone_from(&requested.list_kind);
    }
    accepted.categories.clone_from(&requested.categories);
    (accepted, conflict)
}

fn to_value(names: &Names) -> Value {
    let mut value = json!({"plural": names.plural, "kind": names.kind});
    for (field, text) in [("singular", &names.singular), ("listKind", &names.list_kind)] {
        if !text.is_empty() {
            value[field] = text.as_str().into();
        }
    }
    for (field, texts) in [("shortNames", &names.short_names), ("categories", &names.categories)] {
        if !texts.is_empty() {
            value[field] = json!(texts);
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(names: &[(&str, &str)]) -> Taken {
        let mut taken = Taken::default();
        for (plural, kind) in names {
            taken.add(&Names { plural: (*plural).to_owned(), kind: (*kind).to_owned(), ..Names::default() });
        }
        taken
    }

    #[test]
    fn names_are_accepted_or_say_why_not() {
        let names = json!({"plural": "as", "singular": "a", "kind": "A", "listKind": "AList", "shortNames": ["x"]});
        type Row = (&'static [(&'static str, &'static str)], &'static str, &'static str);
        let table: &[Row] = &[
            (&[], "True", "no conflicts found"),
            (&[("bs", "B")], "True", "no conflicts found"),
            (&[("a", "B")], "False", "\"a\" is already in use"),
            (&[("x", "B")], "False", "\"x\" is already in use"),
            (&[("bs", "A")], "False", "\"A\" is already in use"),
        ];
        for (others, expected, message) in table {
            let definition = json!({"spec": {"names": names}, "status": {}});
            let status = plan(&definition, &taken(others), "now");
            let conditions = status["conditions"].as_array().unwrap();
            assert_eq!((&conditions[0]["status"], &conditions[0]["message"]), (&json!(expected), &json!(message)));
            assert_eq!(conditions[1]["status"], *expected, "established with its names");
            let again = plan(&json!({"spec": {"names": names}, "status": status}), &taken(others), "later");
            assert_eq!(again, status, "a plan that is done is done");
        }
    }

    #[test]
    fn what_is_established_stays_so_and_keeps_its_names() {
        let names = json!({"plural": "as", "kind": "A"});
        let definition = json!({"spec": {"names": names}, "status": {}});
        let status = plan(&definition, &Taken::default(), "now");
        let renamed = json!({"plural": "as", "kind": "A", "singular": "taken"});
        let status = plan(&json!({"spec": {"names": renamed}, "status": status}), &taken(&[("taken", "B")]), "later");
        assert!(holds(&json!({"status": status}), "Established"));
        assert!(!holds(&json!({"status": status}), "NamesAccepted"));
        assert_eq!(status["acceptedNames"], names);
    }
}
