//! The garbage collector runs to rest over built-in and custom resources, undisturbed and with something going wrong.

use api::resources;
use control::harness::{Api, Env, Step, check_component};

use super::*;
use crate::fixtures::{definition, settings};

fn make(env: Env) -> Arc<dyn Component> {
    let Env { api, client, informers, random, recorder } = env;
    let clock = Arc::new(api.clock());
    GarbageCollector::new(Ctx { client, informers, clock, random, recorder, settings: settings() })
}

/// A config map with its uid for a name, and its owners, of which `!` marks a blocking one.
fn map(name: &str, owners: &[&str]) -> Value {
    let owners: Vec<Value> = owners
        .iter()
        .map(|owner| {
            let uid = owner.trim_start_matches('!');
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": uid, "uid": uid,
            "blockOwnerDeletion": owner.starts_with('!')})
        })
        .collect();
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "n", "uid": name, "ownerReferences": owners}})
}

fn names(api: &Api) -> Vec<String> {
    let maps = api.list(resources::CONFIG_MAPS).into_iter();
    maps.map(|map| map["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

fn delete(api: &Api, finalizer: Option<&str>) {
    if let Some(finalizer) = finalizer {
        let mut top = api.get(resources::CONFIG_MAPS, "n", "top").expect("the top");
        top["metadata"]["finalizers"] = json!([finalizer]);
        api.put(top);
    }
    api.delete(resources::CONFIG_MAPS, "n", "top");
}

#[tokio::test(start_paused = true)]
async fn in_the_background_dependents_follow_their_last_owner() {
    let objects = [
        map("top", &[]),
        map("other", &[]),
        map("one", &["top"]),
        map("two", &["one"]),
        map("both", &["top", "other"]),
    ];
    let steps = [Step::Do(&|api| assert_eq!(names(api).len(), 5)), Step::Do(&|api| delete(api, None))];
    let end = check_component(&make, &|_| {}, &objects, &steps).await;
    assert_eq!(names(&end), ["both", "other"]);
    let both = end.get(resources::CONFIG_MAPS, "n", "both").expect("kept");
    assert_eq!(both["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(start_paused = true)]
async fn in_the_foreground_the_owner_goes_last() {
    let mut held = map("held", &["!one"]);
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let objects = [map("top", &[]), map("one", &["!top"]), held, map("loose", &["top"])];
    let steps = [
        Step::Do(&|api| delete(api, Some(FOREGROUND))),
        Step::Do(&|api| {
            assert_eq!(names(api), ["held", "one", "top"], "all wait for the one that is held");
            api.change_each(resources::CONFIG_MAPS, |map| {
                let held = map["metadata"]["name"] == "held";
                held && map["metadata"].as_object_mut().is_some_and(|meta| meta.remove("finalizers").is_some())
            });
            api.delete(resources::CONFIG_MAPS, "n", "held");
        }),
    ];
    let end = check_component(&make, &|_| {}, &objects, &steps).await;
    assert!(names(&end).is_empty(), "{:?}", names(&end));
}

#[tokio::test(start_paused = true)]
async fn orphans_stay() {
    let objects = [map("top", &[]), map("one", &["top"]), map("two", &["one"])];
    let steps = [Step::Do(&|api| delete(api, Some(ORPHAN)))];
    let end = check_component(&make, &|_| {}, &objects, &steps).await;
    assert_eq!(names(&end), ["one", "two"]);
    let one = end.get(resources::CONFIG_MAPS, "n", "one").expect("kept");
    assert_eq!(one["metadata"]["ownerReferences"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_comes_after_its_owner_went_is_deleted_and_one_of_an_unknown_kind_is_kept() {
    let mut foreign = map("foreign", &[]);
    foreign["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "example.com/v1", "kind": "Thing", "name": "x", "uid": "x"}]);
    let steps = [Step::Do(&|api: &Api| drop(api.put(map("late", &["gone"]))))];
    let end = check_component(&make, &|_| {}, &[map("plain", &[]), foreign], &steps).await;
    assert_eq!(names(&end), ["foreign", "plain"]);
}

/// A custom resource: its uid is its name. `!` marks an owner whose deletion it blocks.
fn custom(kind: &str, name: &str, owner: &str) -> Value {
    let mut object = json!({"apiVersion": "example.com/v1", "kind": kind, "metadata": {"name": name, "uid": name}});
    if kind != "Fleet" {
        object["metadata"]["namespace"] = "n".into();
    }
    if let Some((kind, owner)) = owner.split_once('/') {
        let uid = owner.trim_start_matches('!');
        let version = if kind == "ConfigMap" { "v1" } else { "example.com/v1" };
        object["metadata"]["ownerReferences"] = json!([{"apiVersion": version, "kind": kind, "name": uid, "uid": uid,
            "blockOwnerDeletion": owner.starts_with('!')}]);
    }
    object
}

fn definitions() -> [Value; 2] {
    [definition("fleets", "Fleet", "Cluster"), definition("boats", "Boat", "Namespaced")]
}

fn all_names(api: &Api) -> Vec<String> {
    let mut names: Vec<String> = api
        .all()
        .into_iter()
        .filter(|object| object["kind"] != "CustomResourceDefinition")
        .map(|object| object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    names.sort();
    names
}

fn delete_custom(api: &Api, mut object: Value, finalizer: Option<&str>) {
    if let Some(finalizer) = finalizer {
        object["metadata"]["finalizers"] = json!([finalizer]);
        api.put(object.clone());
    }
    api.delete_object(&object);
}

#[tokio::test(start_paused = true)]
async fn dependents_of_custom_resources_follow_them() {
    let mut map = map("map", &[]);
    map["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "example.com/v1", "kind": "Boat", "name": "boat", "uid": "boat"}]);
    let objects = [
        custom("Fleet", "fleet", ""),
        custom("Boat", "boat", "Fleet/fleet"),
        custom("Boat", "dinghy", "Boat/boat"),
        map,
        custom("Boat", "loose", ""),
    ];
    let objects: Vec<Value> = definitions().into_iter().chain(objects).collect();
    let steps = [
        Step::Do(&|api: &Api| assert_eq!(all_names(api).len(), 5)),
        Step::Do(&|api: &Api| delete_custom(api, custom("Fleet", "fleet", ""), None)),
    ];
    let end = check_component(&make, &|_| {}, &objects, &steps).await;
    assert_eq!(all_names(&end), ["loose"]);
}

#[tokio::test(start_paused = true)]
async fn custom_resources_wait_for_dependents_or_let_them_go() {
    let objects = [
        custom("Fleet", "fleet", ""),
        custom("Boat", "boat", "Fleet/!fleet"),
        custom("Boat", "dinghy", "Boat/!boat"),
        custom("Boat", "owner", ""),
        custom("Boat", "orphan", "Boat/owner"),
    ];
    let objects: Vec<Value> = definitions().into_iter().chain(objects).collect();
    let steps = [
        Step::Do(&|api: &Api| delete_custom(api, custom("Fleet", "fleet", ""), Some(FOREGROUND))),
        Step::Do(&|api: &Api| assert_eq!(all_names(api), ["orphan", "owner"])),
        Step::Do(&|api: &Api| delete_custom(api, custom("Boat", "owner", ""), Some(ORPHAN))),
    ];
    let end = check_component(&make, &|_| {}, &objects, &steps).await;
    assert_eq!(all_names(&end), ["orphan"]);
}

#[tokio::test(start_paused = true)]
async fn an_owner_whose_definition_comes_later_is_believed_in_until_it_can_be_asked() {
    let objects = [custom_owned_map("kept", "boat"), custom_owned_map("gone", "nobody")];
    let define = |api: &Api| {
        api.put(definition("boats", "Boat", "Namespaced"));
        api.put(custom("Boat", "boat", ""));
    };
    let steps = [Step::Do(&|api: &Api| assert_eq!(names(api), ["gone", "kept"])), Step::Do(&define)];
    let end = check_component(&make, &|_| {}, &objects, &steps).await;
    assert_eq!(names(&end), ["kept"]);
}

fn custom_owned_map(name: &str, owner: &str) -> Value {
    let mut map = map(name, &[]);
    map["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "example.com/v1", "kind": "Boat", "name": owner, "uid": owner}]);
    map
}

/// A definition that moved to its next version left the old version's watch behind, which found nothing any more.
#[tokio::test(start_paused = true)]
async fn a_resource_that_is_served_in_another_version_is_watched_in_that() {
    let objects = [definition("boats", "Boat", "Namespaced"), custom("Boat", "boat", "")];
    let next = |api: &Api| {
        let mut next = definition("boats", "Boat", "Namespaced");
        next["spec"]["versions"][0]["name"] = "v2".into();
        api.put(next);
    };
    let late = |api: &Api| {
        let mut late = custom("Boat", "late", "Boat/gone");
        late["apiVersion"] = "example.com/v2".into();
        api.put(late);
    };
    let steps = [Step::Do(&next), Step::Do(&late)];
    let end = check_component(&make, &|_| {}, &objects, &steps).await;
    assert_eq!(all_names(&end), ["boat"]);
}

/// Each waited for the next, and none ever went. Conformance: "should not be blocked by dependency circle".
#[tokio::test(start_paused = true)]
async fn a_circle_of_owners_goes_when_one_of_them_is_deleted() {
    let objects = [map("top", &["!last"]), map("middle", &["!top"]), map("last", &["!middle"])];
    let steps =
        [Step::Do(&|api: &Api| assert_eq!(names(api).len(), 3)), Step::Do(&|api: &Api| delete(api, Some(FOREGROUND)))];
    let end = check_component(&make, &|_| {}, &objects, &steps).await;
    assert!(names(&end).is_empty(), "{:?}", names(&end));
}

/// Conformance: "should not delete dependents that have both valid owner and owner that's waiting for dependents to be
/// deleted".
#[tokio::test(start_paused = true)]
async fn in_the_foreground_a_dependent_with_another_owner_stays() {
    let objects = [map("top", &[]), map("other", &[]), map("both", &["!top", "other"]), map("one", &["!top"])];
    let steps = [Step::Do(&|api: &Api| delete(api, Some(FOREGROUND)))];
    let end = check_component(&make, &|_| {}, &objects, &steps).await;
    assert_eq!(names(&end), ["both", "other"]);
    let both = end.get(resources::CONFIG_MAPS, "n", "both").expect("kept");
    assert_eq!(both["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(1));
}
