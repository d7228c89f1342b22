//! The objects that bindings give their policies as parameters.

use std::sync::Arc;

use api::{Key, Resource, Scope, resources};
use machinery::Selector;
use serde_json::Value;

use super::Binding;
use crate::admission::Attempt;
use crate::custom::Definitions;
use crate::registry::tree::text;
use crate::watch_cache::Caches;

/// Where parameters come from.
pub(in crate::admission) struct Params {
    pub(in crate::admission) caches: Arc<Caches>,
    pub(in crate::admission) definitions: Arc<Definitions>,
}

impl Params {
    /// The objects that a binding gives its policy as parameters, each in turn; one null where it gives none.
    pub(in crate::admission) async fn of(
        &self,
        param_kind: Option<&(String, String)>,
        binding: &Binding,
        attempt: &Attempt<'_>,
    ) -> Result<Vec<Value>, String> {
        let (Some((api_version, kind)), Some(wanted)) = (param_kind, &binding.params) else {
            return Ok(vec![Value::Null]);
        };
        let unknown = || format!("paramKind kind `{api_version}, Kind={kind}` not known");
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let (cache, scope) = match resources::by_kind(group, version, kind) {
            Some(resource) => (self.caches.of(resource).await.map_err(|error| error.message)?, resource.scope),
            None => {
                let table = self.definitions.table();
                let is_it = |row: &Resource| *row.group == *group && *row.version == *version && *row.kind == **kind;
                let served = table.served.iter().find(|served| is_it(&served.resource)).ok_or_else(unknown)?;
                (served.cache.clone().ok_or_else(unknown)?, served.resource.scope)
            }
        };
        self.caches.loaded(&cache).await.map_err(|error| error.message)?;
        let namespace = match (scope, text(&wanted["namespace"]), &*attempt.key.namespace) {
            (Scope::Cluster, "", _) => "",
            (Scope::Cluster, ..) => {
                return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
            }
            (_, "", "") => {
                let why = "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
                return Err(why.to_owned());
            }
            (_, "", own) => own,
            (_, given, _) => given,
        };
        let name = text(&wanted["name"]);
        let found: Vec<Value> = if name.is_empty() {
            let selector = Selector::from_label_selector(&wanted["selector"]).map_err(|error| error.to_string())?;
            let snapshot = self.caches.snapshot(&cache);
            let within = Some(namespace).filter(|namespace| !namespace.is_empty());
            let entries = snapshot.entries(within).filter(|entry| selector.matches(|key| entry.object.label(key)));
            entries.map(|entry| entry.object.to_value()).collect()
        } else {
            cache.get(&Key::new(namespace, name)).map(|object| object.to_value()).into_iter().collect()
        };
        if found.is_empty() && wanted["parameterNotFoundAction"] == "Deny" {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
        }
        Ok(found)
    }
}
