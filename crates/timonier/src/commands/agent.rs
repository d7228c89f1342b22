//! `timonier agent`: makes this machine a node of a cluster whose server is elsewhere.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

use super::DataDirArg;
use super::process::{Process, start_detached};
use crate::agent::{self, Options};
use crate::token::JoinToken;

/// The environment variable that a token may stand in.
const TOKEN_VARIABLE: &str = "TIMONIER_TOKEN";

/// The first start joins, and wants --server and a token; later ones want neither. Ctrl-C ends it; pods go on.
#[derive(Debug, Args)]
pub(super) struct Agent {
    #[command(flatten)]
    process: Process,
    /// What `timonier token create` printed on the server. Other users of the machine can see it in the list of processes:
    /// --token-file or the environment variable TIMONIER_TOKEN hide it.
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// The same, from a file.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    data: DataDirArg,
}

impl Agent {
    pub(super) fn run(self) -> Result<()> {
        let data = self.data.open()?;
        if self.process.detaches() {
            let token = self.token()?.map(|token| token.reveal());
            let mut args = without_token(std::env::args_os().skip(1));
            if token.is_some() {
                // Through a pipe: what stands in arguments and environment can be seen for as long as the process lives.
                args.extend(["--token-file", "/dev/stdin"].map(Into::into));
            }
            return start_detached(&data, args, token.as_deref());
        }
        let started = Instant::now();
        let token = self.token();
        self.process.run_here("agent", |on_ready| {
            agent::run(&data, &self.options, token?.as_ref(), move |node| {
                on_ready(&format!("Timonier is ready: node {node} after {:.2} s.", started.elapsed().as_secs_f64()))
            })
        })
    }

    #[expect(clippy::disallowed_methods, reason = "the environment is read here, in the binary")]
    fn token(&self) -> Result<Option<JoinToken>> {
        let text = match (&self.token, &self.token_file) {
            (Some(token), _) => Some(token.clone()),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path);
                Some(text.with_context(|| format!("cannot read the token file {}", path.display()))?)
            }
            (None, None) => std::env::var(TOKEN_VARIABLE).ok(),
        };
        text.map(|text| text.parse()).transpose()
    }
}

/// The arguments without those that are about the token, and without `--detach`.
fn without_token(args: impl Iterator<Item = std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let mut kept = Vec::new();
    let mut args = args;
    while let Some(arg) = args.next() {
        if arg == "--token" || arg == "--token-file" {
            args.next();
        } else if arg != "--detach" && !arg.to_string_lossy().starts_with("--token") {
            kept.push(arg);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detached_process_shows_no_token() {
        let args = "agent --token secret --server https://a:1 --detach --token=secret --token-file=f --token-file f --log info";
        let kept = without_token(args.split(' ').map(Into::into));
        assert_eq!(kept, ["agent", "--server", "https://a:1", "--log", "info"]);
    }
}
