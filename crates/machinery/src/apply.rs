//! Server-side apply: who owns which field of an object, and what follows when another applies a configuration.
//!
//! Public behaviour: "Server-Side Apply" in the Kubernetes documentation, KEP-555, and sigs.k8s.io/structured-merge-diff,
//! whose field sets and error texts clients see.

pub mod schema;
