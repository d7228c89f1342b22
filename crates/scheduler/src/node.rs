//! A node as it arrives, before it goes into the image.

use api::Object;
use serde::Deserialize;

use crate::resources::{Amounts, ResourceList};
use crate::wire;

/// What an API object says about a node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeInfo {
    /// Its name.
    pub name: Box<str>,
    /// What pods may use of it.
    pub allocatable: Amounts,
    /// How many pods may run.
    pub pods_max: i64,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// Labels, sorted by key.
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Names of images with their sizes in bytes.
    pub images: Vec<(Box<str>, i64)>,
}

/// `core/v1 Taint`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Taint {
    /// Its key.
    pub key: Box<str>,
    /// Its value.
    #[serde(default = "empty")]
    pub value: Box<str>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: Box<str>,
}

fn empty() -> Box<str> {
    "".into()
}

impl NodeInfo {
    /// Reads the parts of a node that matter.
    pub fn read(object: &Object) -> Result<Self, serde_json::Error> {
        let wire: Wire = wire::decode(object)?;
        let status = wire.status;
        let list = status.allocatable.as_ref().or(status.capacity.as_ref()).cloned().unwrap_or_default();
        let pods = list.get("pods").and_then(|text| machinery::Quantity::parse(text).ok());
        let images = status.images.into_iter().flat_map(|image| {
            let size = image.size_bytes;
            image.names.into_iter().map(move |name| (name, size))
        });
        Ok(Self {
            name: (&*object.key().name).into(),
            allocatable: Amounts::read(&list),
            pods_max: pods.map_or(0, |pods| pods.value()),
            unschedulable: wire.spec.unschedulable,
            labels: object.index().labels.to_vec(),
            taints: wire.spec.taints,
            images: images.collect(),
        })
    }
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Spec {
    unschedulable: bool,
    taints: Vec<Taint>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    allocatable: Option<ResourceList>,
    capacity: Option<ResourceList>,
    images: Vec<Image>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Image {
    names: Vec<Box<str>>,
    size_bytes: i64,
}
