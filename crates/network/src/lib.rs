//! The pod network and the service proxy.
