//! Strategies of the `autoscaling` group.

pub mod horizontal_pod_autoscaler;
mod spec;
