//! Pure functions on JSON values: selectors, quantities, names, field paths and patches.
//!
//! No clock, no I/O, no tokio, no logging: whatever is here can be called from anywhere, also per object in a list. The
//! texts of errors are upstream's wherever a user or a client library meets them.

pub mod apply;
pub mod cel;
pub mod cron;
pub mod duration;
pub mod fields;
pub mod jsonpath;
pub mod labels;
pub mod names;
pub mod patch;
pub mod path;
pub mod pattern;
pub mod pod_resources;
pub mod quantity;
pub mod quota;
pub mod strategic;
pub mod time;

pub use fields::FieldSelector;
pub use labels::Selector;
pub use path::Path;
pub use quantity::Quantity;
