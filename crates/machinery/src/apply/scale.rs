//! Managers of a workload as its `/scale` shows them, and back: there, the only field is `spec.replicas`.

use super::managers::{Manager, Managers};
use super::path::Step;
use super::set::Set;

/// The version of `Scale`.
pub const API_VERSION: &str = "autoscaling/v1";

fn in_scale() -> [Step; 2] {
    [Step::field("spec"), Step::field("replicas")]
}

/// Those who own the replicas, as managers of the scale. `path` leads to the replicas in the workload.
pub fn to_scale(workload: &Managers, path: &[Step]) -> Managers {
    let owners = workload.0.iter().filter(|manager| manager.fields.contains(path));
    let owners = owners.map(|manager| {
        let mut fields = Set::default();
        fields.insert(&in_scale());
        Manager { fields, api_version: API_VERSION.to_owned(), ..manager.clone() }
    });
    Managers(owners.collect())
}

/// The workload's managers after a write to its scale: who lost the replicas there loses them here, who came to own them there
/// owns them here. `api_version` is the workload's.
pub fn to_workload(workload: &Managers, scale: &Managers, path: &[Step], api_version: &str) -> Managers {
    let mut replicas = Set::default();
    replicas.insert(path);
    let same =
        |a: &Manager, b: &Manager| a.name == b.name && a.operation == b.operation && a.subresource == b.subresource;
    let owns =
        |manager: &Manager| scale.0.iter().any(|other| same(other, manager) && other.fields.contains(&in_scale()));
    let mut managers = Managers::default();
    for manager in &workload.0 {
        let mut manager = manager.clone();
        if !owns(&manager) {
            manager.fields = manager.fields.difference(&replicas);
        }
        if !manager.fields.is_empty() {
            managers.0.push(manager);
        }
    }
    for owner in scale.0.iter().filter(|owner| owner.fields.contains(&in_scale())) {
        if !workload.0.iter().any(|known| same(known, owner) && known.fields.contains(path)) {
            managers.0.push(Manager { fields: replicas.clone(), api_version: api_version.to_owned(), ..owner.clone() });
        }
    }
    managers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::Operation;

    fn manager(name: &str, subresource: &str, paths: &[&[&str]]) -> Manager {
        Manager {
            name: name.to_owned(),
            operation: Operation::Update,
            api_version: "apps/v1".to_owned(),
            subresource: subresource.to_owned(),
            time: String::new(),
            fields: Set::of(paths),
        }
    }

    #[test]
    fn replicas_change_hands_in_both() {
        let path = [Step::field("spec"), Step::field("replicas")];
        let replicas: &[&[&str]] = &[&["spec", "replicas"]];
        let workload = Managers(vec![
            manager("maker", "", &[&["spec", "replicas"], &["spec", "paused"]]),
            manager("x", "", &[&["a"]]),
        ]);
        let mut scale = to_scale(&workload, &path);
        assert_eq!(
            scale.0.iter().map(|one| (&*one.name, &*one.api_version)).collect::<Vec<_>>(),
            [("maker", API_VERSION)]
        );
        assert_eq!(to_workload(&workload, &scale, &path, "apps/v1"), workload, "nothing happened");
        scale.0 = vec![Manager { api_version: API_VERSION.to_owned(), ..manager("scaler", "scale", replicas) }];
        let after = to_workload(&workload, &scale, &path, "apps/v1");
        let expected = [
            manager("maker", "", &[&["spec", "paused"]]),
            manager("x", "", &[&["a"]]),
            manager("scaler", "scale", replicas),
        ];
        assert_eq!(after.0, expected);
    }
}
