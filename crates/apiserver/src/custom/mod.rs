//! Custom resources: a CustomResourceDefinition is served as if it were a row of the built-in table.
//!
//! [`Definitions`] follows the definitions' cache and is exactly as fresh as it: whoever has seen that a definition is
//! established finds its resource served. A [`definition`] is read without its schemas, which are compiled when an object
//! needs one. Objects of all versions lie in one cache, in the form that is stored; another version differs by its
//! `apiVersion` and, where the schemas do, by what they name and default. Behaviour is that of `apiextensions.k8s.io/v1`.
//! Left out: conversion by webhook.

pub mod columns;
pub mod controller;
pub mod decode;
pub mod definition;
pub mod definitions;
pub mod scale;
pub mod schema;
pub mod status;
pub mod strategy;

mod convert;

pub use convert::{from_stored, normalized, object_from_stored, to_stored};
pub use definition::{Schemas, Version};
pub use definitions::Definitions;
