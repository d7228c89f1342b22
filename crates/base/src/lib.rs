//! What every other crate stands on: clock, stop signal, named tasks, metrics, back-off, error chains and a seeded random
//! source.
//!
//! Nothing here knows Kubernetes. Time enters the program only through [`clock`], so that a test can set it.

pub mod backoff;
pub mod chain;
pub mod clock;
pub mod metrics;
pub mod seeded;
pub mod stop;
pub mod tasks;

pub use backoff::Backoff;
pub use chain::chain;
pub use clock::{Clock, FakeClock, SharedClock, SystemClock};
pub use seeded::Random;
pub use stop::Stop;
pub use tasks::Tasks;
