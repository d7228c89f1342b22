//! The command line: one file a verb, one line in the list.

mod agent;
pub(crate) mod cni;
mod datastore;
mod down;
mod encryption;
mod image;
mod kubeconfig;
mod process;
mod reset;
mod scheduler;
mod server;
mod status;
mod token;
mod up;

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::data_dir::DataDir;

/// Kubernetes in one binary.
#[derive(Debug, Parser)]
#[command(name = "timonier", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster on this machine.
    Up(up::Up),
    /// Start a cluster's server on this machine, in the foreground.
    Server(server::Server),
    /// Make this machine a node of a cluster whose server is elsewhere.
    Agent(agent::Agent),
    /// Make, list and delete what machines join with.
    Token(token::Token),
    /// Stop the cluster's process. Running pods go on, and the next `up` finds them.
    Down(down::Down),
    /// Show whether the cluster runs, and what runs in it.
    Status(status::Status),
    /// Print the administrator's kubeconfig.
    Kubeconfig(kubeconfig::Kubeconfig),
    /// Change the key that secrets are encrypted with.
    Encryption(encryption::Encryption),
    /// Import and list container images.
    Image(image::Image),
    /// Ask the scheduler why it does what it does.
    Scheduler(scheduler::Scheduler),
    /// Back up, restore and check the datastore.
    Datastore(datastore::Datastore),
    /// Remove everything that Timonier made on this machine, data included.
    Reset(reset::Reset),
}

/// Where the cluster's data lies.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataDirArg {
    /// The folder that holds the cluster: datastore, keys, images, containers.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/timonier", global = true)]
    data_dir: PathBuf,
}

impl DataDirArg {
    pub(crate) fn open(&self) -> Result<DataDir> {
        DataDir::new(&self.data_dir)
    }
}

/// Runs one command.
pub(crate) fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Up(up) => up.run(),
        Command::Server(server) => server.run(),
        Command::Agent(agent) => agent.run(),
        Command::Token(token) => token.run(),
        Command::Down(down) => down.run(),
        Command::Status(status) => status.run(),
        Command::Kubeconfig(kubeconfig) => kubeconfig.run(),
        Command::Encryption(encryption) => encryption.run(),
        Command::Image(image) => image.run(),
        Command::Scheduler(scheduler) => scheduler.run(),
        Command::Datastore(datastore) => datastore.run(),
        Command::Reset(reset) => reset.run(),
    }
}

/// Prints to the command's output. A reader that has gone (`| head`) is no error.
pub(crate) fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// One sentence on the error output: what was wrong and why.
pub(crate) fn print_error(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "error: {}", base::chain(error.as_ref()));
}
