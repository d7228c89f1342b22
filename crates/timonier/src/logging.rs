//! Where log lines go: the error output, as text.

use tracing_subscriber::EnvFilter;

/// Starts logging. `filter` is in the form of tracing's directives, such as `info,kubelet=debug`.
pub(crate) fn start(filter: &str) -> anyhow::Result<()> {
    use std::io::IsTerminal;
    // The library warns of every answer that is an error, also of those that are asked for, such as whether a link is there.
    let filter = EnvFilter::builder().parse(format!("nlink=error,{filter}"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(true)
        // A log on a full disk is a lost line. Reporting that on the same error output would fail too, and end the request
        // that logged.
        .log_internal_errors(false)
        .try_init()
        .map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}
