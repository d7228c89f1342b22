//! `timonier image import FILE` and `timonier image list`: the image store, also while the cluster is stopped.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use runtime::images::Store;

use super::{DataDirArg, say};
use crate::preflight;

/// Works on the store's files directly; a running cluster sees the result at once.
#[derive(Debug, Args)]
pub(super) struct Image {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    data: DataDirArg,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Import an archive: OCI layout or `docker save`, plain, gzip or zstd.
    Import {
        /// The archive; `-` for standard input.
        file: PathBuf,
    },
    /// List the images.
    List,
}

impl Image {
    pub(super) fn run(self) -> Result<()> {
        preflight::check_root("image")?;
        let data = self.data.open()?;
        data.create()?;
        let store = Store::open(&data.path("runtime")).context("cannot open the image store")?;
        match self.action {
            Action::Import { file } => {
                let imported = if file.as_os_str() == "-" {
                    store.import(std::io::stdin().lock())
                } else {
                    let reader =
                        std::fs::File::open(&file).with_context(|| format!("cannot open {}", file.display()))?;
                    store.import(reader)
                };
                for image in imported.with_context(|| format!("cannot import {}", file.display()))? {
                    say(format_args!("imported {}", image.names.join(", ")));
                }
            }
            Action::List => list(&store)?,
        }
        Ok(())
    }
}

fn list(store: &Store) -> Result<()> {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(["IMAGE", "ID", "SIZE"]);
    for image in store.list().context("cannot read the image store")? {
        let id: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
        let size = format!("{:.1} MiB", image.size as f64 / f64::from(1 << 20));
        for name in &image.names {
            table.add_row([name, &id, &size]);
        }
    }
    say(table.trim_fmt());
    Ok(())
}
