//! Service accounts.

use std::sync::Arc;

use serde_json::Value;

use crate::registry::{Context, Descriptor, Strategy};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::SERVICE_ACCOUNTS, strategy: |_| Arc::new(ServiceAccountStrategy) };

struct ServiceAccountStrategy;

impl Strategy for ServiceAccountStrategy {
    fn prepare_for_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}
}
