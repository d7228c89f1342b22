//! `timonier image import FILE`, `image list` and `image remove IMAGE...`: the image store, also while the cluster is stopped.
//! What a container uses is never removed, and what was imported only when that is said.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
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
    /// Remove images with all their names, and the layers that no other image needs.
    #[command(visible_alias = "rm")]
    Remove {
        /// Names, digests or ids.
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Also what was imported, which may be nowhere else.
        #[arg(long)]
        imported: bool,
    },
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
            Action::Remove { images, imported } => {
                for name in images {
                    remove(&store, &name, imported)?;
                }
            }
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

/// By its id, so that a name that moves meanwhile takes no other image with it.
fn remove(store: &Store, name: &str, imported: bool) -> Result<()> {
    let Some(image) = store.find(name).context("cannot read the image store")? else {
        bail!("there is no image {name}; `timonier image list` shows what there is");
    };
    if image.pinned && !imported {
        bail!("image {name} was imported and may be nowhere else; `--imported` removes it all the same");
    }
    if !store.remove(&image.id).with_context(|| format!("cannot remove {name}"))? {
        bail!("image {name} was removed meanwhile");
    }
    say(format_args!("removed {name}"));
    Ok(())
}
