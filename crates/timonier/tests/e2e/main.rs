//! End to end: the real binary, real containers, real network namespaces, a real `kubectl`.
//!
//! Every test makes a network namespace and a data directory of its own and removes both, also when it fails. Needs root,
//! `ip`, `nsenter`, `nft`, a static busybox, the Python client and `kubectl` 1.30 or newer: `cargo xtask test` installs them.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test fails where it stands"
)]

mod application;
mod changes;
mod clients;
mod crash;
mod cri;
mod custom;
mod errors;
mod faults;
mod ingress;
mod kubectl;
mod kubectls;
mod network;
mod node;
mod nodes;
mod operations;
mod plugins;
mod pods;
mod policy;
mod proxy;
mod runtimes;
mod services;
mod sessions;
mod storage;
mod volumes;
mod workloads;

mod machine;
