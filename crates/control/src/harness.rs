//! Tests a component against an API in memory: no cluster, no sockets, virtual time.
//!
//! [`Api`] keeps what controllers rely on: revisions and conflicts, generated names, status apart from the rest, generations,
//! finalizers and deletion marks, watches with initial events. It knows no defaults, no validation and no admission: tests
//! give whole objects. It can fail at a chosen write, lose that write's answer, and show changes late.
//! [`check_converges`] holds a controller to reaching the same end through all of that.

mod converge;
mod world;

pub use converge::{Env, Step, check_component, check_converges};
pub use world::{Api, Fault, HarnessClock};
