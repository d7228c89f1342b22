//! Strategies of the `admissionregistration.k8s.io` group: policies whose expressions must be readable, and their bindings.

mod validating_admission_policy;

pub use self::validating_admission_policy::{BINDING, POLICY};
