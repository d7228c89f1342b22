//! Container logs as runtimes write them (`TIME STREAM TAG TEXT` a line, where tag `P` says that the line goes on), read from
//! the end, from a time, and as they grow.

use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::inotify;
use tokio::fs::File;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader};

/// A longer line is cut: runtimes break lines at 16 KiB, so only a damaged file has one.
const LINE_BYTES_MAX: usize = 1 << 20;
const BLOCK_BYTES: u64 = 64 << 10;

/// One line of a log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// The time as written.
    pub(crate) time: &'a str,
    /// Whether it came from the error stream.
    pub(crate) stderr: bool,
    /// What the program wrote, with its line end unless the line goes on.
    pub(crate) text: &'a [u8],
}

/// Takes a raw line (with its line end) apart; `None` where it is none.
pub(crate) fn parse(raw: &[u8]) -> Option<Line<'_>> {
    let (time, rest) = split(raw)?;
    let (stream, rest) = split(rest)?;
    let (tags, text) = split(rest)?;
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    Some(Line {
        time: std::str::from_utf8(time).ok()?,
        stderr: stream == b"stderr",
        text: if partial { text.strip_suffix(b"\n").unwrap_or(text) } else { text },
    })
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == b' ')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// The last lines of a log as the program wrote them, for a termination message.
pub(crate) async fn last_lines(path: &Path, lines_max: usize, bytes_max: usize) -> io::Result<String> {
    let mut reader = BufReader::new(File::open(path).await?);
    let start = tail_offset(reader.get_mut(), lines_max).await?;
    reader.seek(SeekFrom::Start(start)).await?;
    let mut content = Vec::new();
    let mut raw = Vec::new();
    while read_line(&mut reader, &mut raw).await? > 0 {
        content.extend_from_slice(parse(&raw).map_or(&raw[..], |line| line.text));
        raw.clear();
    }
    let from = content.len().saturating_sub(bytes_max);
    Ok(String::from_utf8_lossy(&content[from..]).into_owned())
}

async fn read_line(reader: &mut BufReader<File>, raw: &mut Vec<u8>) -> io::Result<usize> {
    let missing = LINE_BYTES_MAX.saturating_sub(raw.len()).max(1);
    reader.take(missing as u64).read_until(b'\n', raw).await
}

/// Where the last `lines` lines of a file begin.
async fn tail_offset(file: &mut File, lines: usize) -> io::Result<u64> {
    let end = file.metadata().await?.len();
    if lines == 0 {
        return Ok(end);
    }
    let (mut at, mut seen) = (end, 0);
    let mut block = Vec::new();
    while at > 0 {
        let from = at.saturating_sub(BLOCK_BYTES);
        file.seek(SeekFrom::Start(from)).await?;
        block.clear();
        (&mut *file).take(at - from).read_to_end(&mut block).await?;
        for (index, byte) in block.iter().enumerate().rev() {
            // The line end of the last line ends it and begins none.
            if *byte == b'\n' && from + index as u64 + 1 != end {
                seen += 1;
                if seen == lines {
                    return Ok(from + index as u64 + 1);
                }
            }
        }
        at = from;
    }
    Ok(0)
}

/// What a reader of a log wants of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) tail_lines: Option<usize>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) timestamps: bool,
    pub(crate) limit_bytes: Option<u64>,
    /// Only the output, only the error output, or both.
    pub(crate) stderr_only: Option<bool>,
}

/// Reads a log piece by piece.
pub(crate) struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    options: Options,
    left_bytes: u64,
    /// The beginning of a line whose end has not been written yet.
    raw: Vec<u8>,
}

impl Reader {
    /// Opens the log at the line where the options begin.
    pub(crate) async fn open(path: PathBuf, options: Options) -> io::Result<Self> {
        let mut file = File::open(&path).await?;
        let start = match options.tail_lines {
            Some(lines) => tail_offset(&mut file, lines).await?,
            None => 0,
        };
        file.seek(SeekFrom::Start(start)).await?;
        let left_bytes = options.limit_bytes.unwrap_or(u64::MAX);
        Ok(Self {
            path,
            file: BufReader::with_capacity(BLOCK_BYTES as usize, file),
            options,
            left_bytes,
            raw: Vec::new(),
        })
    }

    /// Whether the byte limit is used up.
    pub(crate) fn is_done(&self) -> bool {
        self.left_bytes == 0
    }

    /// What is left of the byte limit, if there is one.
    pub(crate) fn left_bytes(&self) -> Option<u64> {
        self.options.limit_bytes.map(|_| self.left_bytes)
    }

    /// The next lines, about a block of them; empty at the present end of the log.
    pub(crate) async fn next(&mut self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        while out.len() < BLOCK_BYTES as usize && !self.is_done() {
            // A line that is being written stays in `raw`: its rest comes with a later call.
            if read_line(&mut self.file, &mut self.raw).await? == 0 {
                break;
            }
            if !self.raw.ends_with(b"\n") && self.raw.len() < LINE_BYTES_MAX {
                continue;
            }
            let raw = std::mem::take(&mut self.raw);
            self.take_line(&raw, &mut out);
        }
        Ok(out)
    }

    fn take_line(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let Some(line) = parse(raw) else {
            tracing::warn!(log = %self.path.display(), "a log line was left out: it cannot be read");
            return;
        };
        if self.options.stderr_only.is_some_and(|stderr| stderr != line.stderr) {
            return;
        }
        if let Some(since) = self.options.since {
            match line.time.parse::<Timestamp>() {
                Ok(time) if time >= since => self.options.since = None,
                _ => return,
            }
        }
        let before = out.len();
        if self.options.timestamps {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        let taken = (out.len() - before) as u64;
        if taken > self.left_bytes {
            out.truncate(before + usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
        }
        self.left_bytes = self.left_bytes.saturating_sub(taken);
    }

    /// Goes on with the new file where the log was rotated; false where it was not.
    pub(crate) async fn follow_rotation(&mut self) -> io::Result<bool> {
        let open = self.file.get_ref().metadata().await?;
        let named = match tokio::fs::metadata(&self.path).await {
            Ok(named) => named,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if (open.dev(), open.ino()) == (named.dev(), named.ino()) {
            return Ok(false);
        }
        self.file = BufReader::with_capacity(BLOCK_BYTES as usize, File::open(&self.path).await?);
        self.raw.clear();
        Ok(true)
    }
}

/// Says when something in a directory was written, made, renamed or removed.
pub(crate) struct Watch {
    events: AsyncFd<std::os::fd::OwnedFd>,
}

impl Watch {
    /// Watches the directory of `log`.
    pub(crate) fn new(log: &Path) -> io::Result<Self> {
        use inotify::WatchFlags;
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF;
        Self::of(log.parent().unwrap_or(log), flags)
    }

    /// Watches a folder of whole files.
    pub(crate) fn folder(folder: &Path) -> io::Result<Self> {
        use inotify::WatchFlags;
        let flags = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO | WatchFlags::DELETE;
        Self::of(folder, flags)
    }

    fn of(directory: &Path, flags: inotify::WatchFlags) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&fd, directory, flags)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for types that may lend their descriptor away; this one owns it"
        )]
        let events = AsyncFd::new(fd)?;
        Ok(Self { events })
    }

    /// Waits for a change, and takes in all that happened so far.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        let mut guard = self.events.readable().await?;
        let mut buffer = [0_u8; 4096];
        loop {
            match rustix::io::read(self.events.get_ref(), &mut buffer[..]) {
                Ok(0) | Err(rustix::io::Errno::AGAIN) => break,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
        guard.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2030-01-01T00:00:01.5Z stdout F one\n2030-01-01T00:00:02Z stderr F two\n\
        2030-01-01T00:00:03Z stdout P thr\n2030-01-01T00:00:03Z stdout F ee\nnot a line\n2030-01-01T00:00:04Z stdout F four\n";

    async fn read(options: Options) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let mut reader = Reader::open(path, options).await.unwrap();
        String::from_utf8(reader.next().await.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn options_choose_what_is_shown() {
        let since = "2030-01-01T00:00:02Z".parse().ok();
        for (options, wanted) in [
            (Options::default(), "one\ntwo\nthree\nfour\n"),
            (Options { tail_lines: Some(3), ..Default::default() }, "ee\nfour\n"),
            (Options { tail_lines: Some(0), ..Default::default() }, ""),
            (Options { tail_lines: Some(99), limit_bytes: Some(6), ..Default::default() }, "one\ntw"),
            (
                Options { since, timestamps: true, tail_lines: Some(6), stderr_only: Some(true), ..Default::default() },
                "2030-01-01T00:00:02Z two\n",
            ),
        ] {
            assert_eq!(read(options.clone()).await, wanted, "{options:?}");
        }
    }

    #[tokio::test]
    async fn a_growing_and_rotated_log_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "t stdout F a\nt stdout F b").unwrap();
        let mut reader = Reader::open(path.clone(), Options::default()).await.unwrap();
        let watch = Watch::new(&path).unwrap();
        assert_eq!(reader.next().await.unwrap(), b"a\n");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, b"b\n").unwrap();
        watch.changed().await.unwrap();
        assert_eq!(reader.next().await.unwrap(), b"bb\n");
        assert!(!reader.follow_rotation().await.unwrap());
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        std::fs::write(&path, "t stdout F c\n").unwrap();
        watch.changed().await.unwrap();
        assert!(reader.follow_rotation().await.unwrap());
        assert_eq!(reader.next().await.unwrap(), b"c\n");
        assert_eq!(last_lines(&path, 5, 100).await.unwrap(), "c\n");
    }
}
