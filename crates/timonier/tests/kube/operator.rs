//! What an operator is made of: a definition derived from a type, and a controller whose objects own others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::watcher;
use kube::{Api, Client, CustomResource, CustomResourceExt, Resource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::resources::MANAGER;

#[derive(CustomResource, Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[kube(group = "rust.example.com", version = "v1", kind = "Boat", namespaced, status = "BoatStatus", shortname = "bt")]
#[kube(scale(spec_replicas_path = ".spec.sails", status_replicas_path = ".status.sails"))]
#[kube(printcolumn(name = "Sails", type_ = "integer", json_path = ".spec.sails"))]
struct BoatSpec {
    /// How many sails it carries.
    #[schemars(range(min = 1, max = 9))]
    sails: i32,
    home: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
struct BoatStatus {
    sails: i32,
}

fn boat(name: &str, sails: i32) -> Boat {
    Boat::new(name, BoatSpec { sails, home: None })
}

pub(crate) async fn custom_resources(client: Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let apply = PatchParams::apply(MANAGER).force();
    definitions.patch("boats.rust.example.com", &apply, &Patch::Apply(Boat::crd())).await.unwrap();
    await_condition(definitions, "boats.rust.example.com", conditions::is_crd_established()).await.unwrap();
    let boats: Api<Boat> = Api::default_namespaced(client);
    boats.create(&PostParams::default(), &boat("one", 2)).await.unwrap();
    let refused = boats.create(&PostParams::default(), &boat("two", 10)).await.unwrap_err();
    assert!(refused.to_string().contains("spec.sails in body should be less than or equal to 9"), "{refused}");
    let applied = boats.patch("one", &apply, &Patch::Apply(boat("one", 3))).await.unwrap();
    assert_eq!((applied.spec.sails, applied.meta().generation), (3, Some(2)));
    let status = Patch::Merge(json!({"status": {"sails": 3}}));
    let reported = boats.patch_status("one", &PatchParams::default(), &status).await.unwrap();
    assert_eq!((reported.status, reported.metadata.generation), (Some(BoatStatus { sails: 3 }), Some(2)));
    assert_eq!(boats.get_scale("one").await.unwrap().status.unwrap().replicas, 3);
    boats.delete("one", &DeleteParams::default()).await.unwrap();
}

/// A controller that gives each boat a config map of its own, reports in the status and cleans up behind a finalizer.
pub(crate) async fn controls(client: Client) {
    let boats: Api<Boat> = Api::default_namespaced(client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let controller = Controller::new(boats.clone(), watcher::Config::default().streaming_lists())
        .owns(maps.clone(), watcher::Config::default());
    let running = tokio::spawn(controller.run(reconcile, try_again, Arc::new(client)).for_each(|_| async {}));
    boats.create(&PostParams::default(), &boat("sloop", 2)).await.unwrap();
    let sailing = |wanted: i32| {
        move |boat: Option<&Boat>| {
            boat.and_then(|boat| boat.status.as_ref()).is_some_and(|status| status.sails == wanted)
        }
    };
    await_condition(boats.clone(), "sloop", sailing(2)).await.unwrap();
    // What it owns is made again.
    let made = maps.get("sloop").await.unwrap();
    assert_eq!(made.owner_references()[0].kind, "Boat");
    maps.delete("sloop", &DeleteParams::default()).await.unwrap();
    let other = made.uid().unwrap();
    let again = move |map: Option<&ConfigMap>| map.is_some_and(|map| map.uid().is_some_and(|uid| uid != other));
    await_condition(maps.clone(), "sloop", again).await.unwrap();
    boats.patch("sloop", &PatchParams::default(), &Patch::Merge(json!({"spec": {"sails": 4}}))).await.unwrap();
    await_condition(boats.clone(), "sloop", sailing(4)).await.unwrap();
    // Its end: the controller lets go of it, and then the garbage collector takes what it owned.
    let (uid, owned) = (boats.get("sloop").await.unwrap().uid().unwrap(), maps.get("sloop").await.unwrap());
    boats.delete("sloop", &DeleteParams::default()).await.unwrap();
    await_condition(boats, "sloop", conditions::is_deleted(&uid)).await.unwrap();
    await_condition(maps.clone(), "sloop", conditions::is_deleted(&owned.uid().unwrap())).await.unwrap();
    assert!(maps.get_opt("sloop-sank").await.unwrap().is_some(), "the finalizer ran");
    running.abort();
}

async fn reconcile(boat: Arc<Boat>, client: Arc<Client>) -> Result<Action, finalizer_error::Error> {
    let boats: Api<Boat> = Api::default_namespaced((*client).clone());
    let maps: Api<ConfigMap> = Api::default_namespaced((*client).clone());
    finalizer(&boats, "rust.example.com/sink", boat, |event| async {
        match event {
            Event::Apply(boat) => sail(&boats, &maps, &boat).await,
            Event::Cleanup(boat) => {
                let name = format!("{}-sank", boat.name_any());
                let left = ConfigMap {
                    metadata: ObjectMeta { name: Some(name), ..ObjectMeta::default() },
                    ..ConfigMap::default()
                };
                maps.create(&PostParams::default(), &left).await?;
                Ok(Action::await_change())
            }
        }
    })
    .await
}

/// The error of [`finalizer`] around the client's.
mod finalizer_error {
    pub(super) type Error = kube::runtime::finalizer::Error<kube::Error>;
}

async fn sail(boats: &Api<Boat>, maps: &Api<ConfigMap>, boat: &Boat) -> Result<Action, kube::Error> {
    let name = boat.name_any();
    let metadata = ObjectMeta {
        name: Some(name.clone()),
        owner_references: boat.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    };
    let data = BTreeMap::from([("sails".to_owned(), boat.spec.sails.to_string())]);
    let map = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
    maps.patch(&name, &PatchParams::apply(MANAGER), &Patch::Apply(&map)).await?;
    let status = json!({"apiVersion": "rust.example.com/v1", "kind": "Boat", "status": {"sails": boat.spec.sails}});
    boats.patch_status(&name, &PatchParams::apply(MANAGER), &Patch::Apply(&status)).await?;
    Ok(Action::await_change())
}

#[expect(clippy::needless_pass_by_value, reason = "the library calls it so")]
fn try_again(boat: Arc<Boat>, error: &finalizer_error::Error, _: Arc<Client>) -> Action {
    eprintln!("{} is not reconciled: {error:?}", boat.name_any());
    Action::requeue(Duration::from_secs(1))
}
