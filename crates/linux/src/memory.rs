//! This process's own memory.

use std::io;
use std::path::Path;

/// Tells the kernel that this process does not need its code right now: what was needed only to start stays in the page
/// cache, which the kernel may empty, and no longer counts as this process's. What goes on being used comes back at the next
/// call, without a read from the disk.
pub fn release_code() -> io::Result<()> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let exe = std::fs::read_link("/proc/self/exe")?;
    for range in maps.lines().filter_map(|line| code_range(line, &exe)) {
        #[expect(unsafe_code, reason = "advice about memory has no safe wrapper")]
        // SAFETY: the range is a private, executable, never written mapping of a file, by the kernel's own words: a page of it
        // that is dropped is read from the same file again.
        unsafe {
            if nix::libc::madvise(range.start as *mut _, range.len(), nix::libc::MADV_DONTNEED) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// The addresses of a line of `/proc/self/maps`, where it is code of `exe` that nobody can have written to.
fn code_range(line: &str, exe: &Path) -> Option<std::ops::Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (addresses, rights) = (fields.next()?, fields.next()?);
    let path = line.find('/').map(|at| &line[at..])?;
    if rights != "r-xp" || Path::new(path) != exe {
        return None;
    }
    let (from, to) = addresses.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(from)?..address(to)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_was_released_still_runs() {
        for _ in 0..3 {
            release_code().expect("a process may give advice about its own memory");
        }
        assert_eq!("it goes on".to_uppercase(), "IT GOES ON");
    }

    #[test]
    fn only_code_of_the_program_itself_is_released() {
        let exe = Path::new("/usr/bin/a program");
        let line = |rights: &str, path: &str| format!("7f00-8f00 {rights} 00001000 fe:00 1234    {path}");
        assert_eq!(code_range(&line("r-xp", "/usr/bin/a program"), exe), Some(0x7f00..0x8f00));
        for other in [
            line("rw-p", "/usr/bin/a program"),
            line("r-xp", "/usr/lib/libc.so.6"),
            line("r-xp", "[vdso]"),
            String::new(),
        ] {
            assert_eq!(code_range(&other, exe), None, "{other}");
        }
    }
}
