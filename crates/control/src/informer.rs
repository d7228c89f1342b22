//! Shared informer caches: one watch for each resource and scope, encoded objects with indexes, and coalesced changes.
