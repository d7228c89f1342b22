//! The few fields of storage objects that placement reads.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::pod::NodeSelectorTerm;

pub(super) type Annotations = BTreeMap<Box<str>, Box<str>>;

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Metadata {
    pub(super) annotations: Annotations,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Status {
    pub(super) phase: Box<str>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct WireClaim {
    pub(super) metadata: Metadata,
    pub(super) spec: ClaimSpec,
    pub(super) status: Status,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ClaimSpec {
    pub(super) storage_class_name: Box<str>,
    pub(super) volume_name: Box<str>,
    pub(super) volume_mode: Box<str>,
    pub(super) volume_attributes_class_name: Box<str>,
    pub(super) access_modes: Vec<Box<str>>,
    pub(super) resources: Requests,
    pub(super) selector: Value,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Requests {
    pub(super) requests: BTreeMap<Box<str>, Box<str>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct WireVolume {
    pub(super) metadata: Metadata,
    pub(super) spec: VolumeSpec,
    pub(super) status: Status,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct VolumeSpec {
    pub(super) storage_class_name: Box<str>,
    pub(super) volume_mode: Box<str>,
    pub(super) volume_attributes_class_name: Box<str>,
    pub(super) access_modes: Vec<Box<str>>,
    pub(super) capacity: BTreeMap<Box<str>, Box<str>>,
    pub(super) claim_ref: Option<Reference>,
    pub(super) node_affinity: Option<Affinity>,
    pub(super) csi: Option<Csi>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Reference {
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
    pub(super) uid: Box<str>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Affinity {
    pub(super) required: Option<Required>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Required {
    pub(super) node_selector_terms: Vec<NodeSelectorTerm>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Csi {
    pub(super) driver: Box<str>,
    pub(super) volume_handle: Box<str>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireClass {
    pub(super) provisioner: Box<str>,
    pub(super) volume_binding_mode: Box<str>,
    pub(super) allowed_topologies: Vec<TopologyTerm>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct TopologyTerm {
    pub(super) match_label_expressions: Vec<TopologyLabel>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct TopologyLabel {
    pub(super) key: Box<str>,
    pub(super) values: Vec<Box<str>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct WireCsiNode {
    pub(super) spec: CsiNodeSpec,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct CsiNodeSpec {
    pub(super) drivers: Vec<CsiNodeDriver>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct CsiNodeDriver {
    pub(super) name: Box<str>,
    pub(super) allocatable: Option<Allocatable>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Allocatable {
    pub(super) count: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct WireCsiDriver {
    pub(super) spec: CsiDriverSpec,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct CsiDriverSpec {
    pub(super) storage_capacity: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireCapacity {
    pub(super) storage_class_name: Box<str>,
    pub(super) capacity: Option<Box<str>>,
    pub(super) maximum_volume_size: Option<Box<str>>,
    pub(super) node_topology: Value,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct WireAttachment {
    pub(super) spec: AttachmentSpec,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct AttachmentSpec {
    pub(super) node_name: Box<str>,
    pub(super) source: AttachmentSource,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct AttachmentSource {
    pub(super) persistent_volume_name: Box<str>,
}
