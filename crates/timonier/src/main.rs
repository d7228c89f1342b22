//! `timonier`: one binary that is Kubernetes.
//!
//! Flags are read here and nowhere else. `timonier shim` runs before any thread exists: a shim forks containers, which a
//! threaded process must not do.

mod agent;
mod cluster;
mod commands;
mod data_dir;
mod kubeconfig;
mod logging;
mod pki;
mod preflight;
mod tls;
mod token;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|first| first == "shim") {
        return ExitCode::from(runtime::shim::main(&args[1..]));
    }
    if commands::cni::is_meant(&args) {
        return commands::cni::main();
    }
    match commands::run(commands::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            commands::print_error(&error);
            ExitCode::FAILURE
        }
    }
}
