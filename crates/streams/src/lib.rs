//! Sessions over upgraded connections: exec, attach and port-forward as every client of Kubernetes speaks them.
//!
//! The kubelet serves them, the API server translates them, a container runtime is asked for them: all by what is here. Bytes
//! come over SPDY/3.1 or over WebSocket ([`spdy`], [`websocket`]); what they mean is in [`exec`] and [`port_forward`].

pub mod exec;
pub mod port_forward;
pub mod session;
pub mod spdy;
pub mod upgrade;
pub mod websocket;

pub use session::{BoxDuplex, Duplex, ExecSession, Input, Output, TerminalSize};
