//! `timonier datastore backup|restore|check`: the cluster's objects in a file, and whether the datastore is whole.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use control::Body;
use futures::StreamExt;
use futures::stream::BoxStream;
use store::backup::Reader;
use store::embedded::{self, EmbeddedStore};
use store::{Revision, Store};

use super::{DataDirArg, say};
use crate::data_dir::{DATASTORE, DataDir};
use crate::preflight;

/// Backs up a running or stopped cluster, makes a new datastore from a backup, and looks for damage.
#[derive(Debug, Args)]
pub(super) struct Datastore {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    data: DataDirArg,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write everything that the datastore holds, as of one moment, to a new file. Writers go on.
    Backup {
        /// The file to make.
        file: PathBuf,
    },
    /// Make the datastore of a stopped cluster from a backup.
    Restore {
        /// The backup.
        file: PathBuf,
    },
    /// Read a stopped cluster's datastore, or a backup, and name all damage.
    Check {
        /// A backup; without it, the datastore.
        file: Option<PathBuf>,
    },
}

impl Datastore {
    pub(super) fn run(self) -> Result<()> {
        preflight::check_root("datastore")?;
        let data = self.data.open()?;
        match self.action {
            Action::Backup { file } => backup(&data, &file),
            Action::Restore { file } => restore(&data, &file),
            Action::Check { file: Some(file) } => check_backup(&file),
            Action::Check { file: None } => check(&data),
        }
    }
}

fn backup(data: &DataDir, file: &Path) -> Result<()> {
    if file.try_exists().with_context(|| format!("cannot look at {}", file.display()))? {
        bail!("{} exists: choose another name", file.display());
    }
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = write_backup(data, &partial).and_then(|()| read_backup(&partial));
    let (revision, keys) = match written {
        Ok(read) => read,
        Err(error) => {
            // What is there is no backup; that it cannot be removed would say less than why it was not finished.
            let _ = std::fs::remove_file(&partial);
            return Err(error);
        }
    };
    std::fs::rename(&partial, file).with_context(|| format!("cannot name {}", file.display()))?;
    say(format_args!("backed up {keys} keys at revision {revision} to {}", file.display()));
    Ok(())
}

fn write_backup(data: &DataDir, partial: &Path) -> Result<()> {
    let cannot = || format!("cannot write {}", partial.display());
    let file = crate::data_dir::open_private(partial).with_context(cannot)?;
    let mut out = BufWriter::new(file);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut pieces = open_backup(data).await?;
        while let Some(piece) = pieces.next().await {
            out.write_all(&piece?).with_context(cannot)?;
        }
        anyhow::Ok(())
    })?;
    let file = out.into_inner().map_err(std::io::IntoInnerError::into_error).with_context(cannot)?;
    file.sync_all().with_context(cannot)
}

/// From the running server, or from the file where there is none.
async fn open_backup(data: &DataDir) -> Result<BoxStream<'static, Result<Bytes>>> {
    if let Some(pid) = data.owner() {
        let client = crate::kubeconfig::client(data)?;
        let body = client.open(http::Method::GET, "/datastore/backup", None, Bytes::new()).await;
        let body = body.with_context(|| format!("process {pid} gives no backup"))?;
        return Ok(match body {
            Body::Full(bytes) => futures::stream::iter([Ok(bytes)]).boxed(),
            Body::Stream(pieces) => pieces.map(|piece| piece.context("the backup was cut off")).boxed(),
        });
    }
    let path = data.path(DATASTORE);
    if !path.try_exists().with_context(|| format!("cannot look at {}", path.display()))? {
        bail!("there is no datastore at {}: name the cluster's folder with --data-dir", path.display());
    }
    let store = EmbeddedStore::open(&path, embedded::Options::default()).context("cannot open the datastore")?;
    let export = store.export().await.context("cannot read the datastore")?;
    // The store stays open until its last piece is read.
    let pieces = store::backup::stream(export).map(move |piece| {
        let _open = &store;
        piece.context("cannot read the datastore")
    });
    Ok(pieces.boxed())
}

fn restore(data: &DataDir, file: &Path) -> Result<()> {
    let input = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    // Nothing is written before the whole backup is known to be right.
    let read = read_backup(file)?;
    data.create()?;
    let _lock = data.lock()?;
    let restored = embedded::restore(&data.path(DATASTORE), BufReader::new(input))
        .with_context(|| format!("cannot restore {}", file.display()))?;
    debug_assert_eq!(restored.from, read.0);
    say(format_args!(
        "restored {} keys of revision {}; the cluster goes on at revision {}",
        restored.keys, restored.from, restored.revision
    ));
    Ok(())
}

/// Reads a whole backup; gives its revision and the count of its keys.
fn read_backup(file: &Path) -> Result<(Revision, u64)> {
    let cannot = || format!("cannot use {}", file.display());
    let input = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    let reader = Reader::open(BufReader::new(input)).with_context(cannot)?;
    let (revision, mut keys) = (reader.revision(), 0);
    for item in reader {
        item.with_context(cannot)?;
        keys += 1;
    }
    Ok((revision, keys))
}

fn check_backup(file: &Path) -> Result<()> {
    let (revision, keys) = read_backup(file)?;
    say(format_args!("{}: whole, {keys} keys at revision {revision}", file.display()));
    Ok(())
}

fn check(data: &DataDir) -> Result<()> {
    let path = data.path(DATASTORE);
    if let Some(pid) = data.owner() {
        bail!(
            "process {pid} has the datastore open and checked it at its start: stop it with `timonier down` to check again"
        );
    }
    let report = embedded::check(&path).context("cannot check the datastore")?;
    for damage in &report.damages {
        say(format_args!("{}: {damage}", path.display()));
    }
    if !report.damages.is_empty() {
        bail!("{} is damaged in {} places: restore a backup", path.display(), report.damages.len());
    }
    let (first, last) = report.revisions.unwrap_or_default();
    say(format_args!(
        "{}: whole, {} keys, revisions {first} to {last}, {} bytes",
        path.display(),
        report.keys,
        report.bytes
    ));
    Ok(())
}
