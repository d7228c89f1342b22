//! The node agent: pod workers over CRI, probes, volumes, status, lease and the node server.
