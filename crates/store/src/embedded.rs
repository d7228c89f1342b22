//! The embedded store: redb under one group-commit thread.
