//! A container's log file, in the format that CRI defines: `TIME stdout F line`, or tag `P` for a part of a line that was
//! longer than [`LINE_BYTES_MAX`] or never ended.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base::{Clock, SystemClock};

/// A longer line is written in parts, so that a program that never ends a line costs bounded memory.
pub(super) const LINE_BYTES_MAX: usize = 16 << 10;

/// Which of a process' two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The log of one container.
#[derive(Debug)]
pub(super) struct Log {
    path: Option<PathBuf>,
    file: Option<File>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Log {
    pub(super) fn open(path: Option<PathBuf>) -> io::Result<Self> {
        let file = path.as_deref().map(open_append).transpose()?;
        Ok(Self { path, file, stdout: Vec::new(), stderr: Vec::new() })
    }

    /// Opens the file anew, after it was moved away.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        self.file = self.path.as_deref().map(open_append).transpose()?;
        Ok(())
    }

    /// Takes bytes of a stream; whole lines are written.
    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        let now = time_stamp();
        let rest = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let text = format_lines(&now, stream, rest, bytes);
        self.put(&text)
    }

    /// Writes what is left of lines that never ended.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let now = time_stamp();
        let mut text = Vec::new();
        for (stream, rest) in [(Stream::Stdout, &mut self.stdout), (Stream::Stderr, &mut self.stderr)] {
            if !rest.is_empty() {
                push_line(&mut text, &now, stream, "P", rest);
                rest.clear();
            }
        }
        self.put(&text)
    }

    fn put(&mut self, text: &[u8]) -> io::Result<()> {
        match (&mut self.file, text.is_empty()) {
            (Some(file), false) => file.write_all(text),
            _ => Ok(()),
        }
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn time_stamp() -> String {
    format!("{:.9}", SystemClock.now())
}

fn format_lines(now: &str, stream: Stream, rest: &mut Vec<u8>, mut bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes.len() + 64);
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let (line, after) = bytes.split_at(end);
        rest.extend(line);
        bytes = &after[1..];
        push_parts(&mut text, now, stream, rest);
        push_line(&mut text, now, stream, "F", rest);
        rest.clear();
    }
    rest.extend(bytes);
    push_parts(&mut text, now, stream, rest);
    text
}

fn push_parts(text: &mut Vec<u8>, now: &str, stream: Stream, rest: &mut Vec<u8>) {
    while rest.len() > LINE_BYTES_MAX {
        push_line(text, now, stream, "P", &rest[..LINE_BYTES_MAX]);
        rest.drain(..LINE_BYTES_MAX);
    }
}

fn push_line(text: &mut Vec<u8>, now: &str, stream: Stream, tag: &str, line: &[u8]) {
    for part in [now.as_bytes(), b" ", stream.name().as_bytes(), b" ", tag.as_bytes(), b" ", line, b"\n"] {
        text.extend(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> (String, usize) {
        let mut rest = Vec::new();
        let text: Vec<u8> =
            chunks.iter().flat_map(|chunk| format_lines("T", Stream::Stdout, &mut rest, chunk)).collect();
        (String::from_utf8(text).unwrap(), rest.len())
    }

    #[test]
    fn lines_are_whole_wherever_the_chunks_end() {
        assert_eq!(lines(&[b"a\nb", b"c\n\nd"]), ("T stdout F a\nT stdout F bc\nT stdout F \n".to_owned(), 1));
    }

    #[test]
    fn long_lines_come_in_parts() {
        let long = vec![b'x'; LINE_BYTES_MAX + 1];
        let (text, rest) = lines(&[&long, b"\n"]);
        let expected = format!("T stdout P {}\nT stdout F x\n", "x".repeat(LINE_BYTES_MAX));
        assert_eq!((text == expected, rest), (true, 0));
        // A line of exactly the limit is whole.
        let (text, _) = lines(&[&vec![b'x'; LINE_BYTES_MAX], b"\n"]);
        assert!(text.starts_with("T stdout F "));
    }

    #[test]
    fn the_time_has_nine_digits() {
        let now = time_stamp();
        assert_eq!((now.len(), now.ends_with('Z'), &now[19..20]), (30, true, "."), "{now}");
    }
}
