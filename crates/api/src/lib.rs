//! The Kubernetes API as data: the resource table, the schema, typed objects and their codecs, keys, encoded objects.
//!
//! Only this crate names k8s-openapi and instantiates its codecs (compile time): others call plain functions through
//! [`Typed`]. What is stored, cached, listed and watched is an [`Object`]: encoded JSON with an index beside it.

pub mod error;
pub mod object;
pub mod openapi;
pub mod protobuf;
pub mod resource;
pub mod resources;
pub mod schema;
pub mod storage_key;
pub mod typed;

pub use error::{ApiError, Reason};
pub use object::{EncodeError, Index, Key, Object, OwnerReference};
pub use resource::{Resource, Row, Scope, StoredAs, Subresource, Verb};
pub use typed::{Body, Typed};
