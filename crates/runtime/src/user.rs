//! Who a container runs as: what the pod or the image says, looked up in the image's own `/etc/passwd` and `/etc/group`.

use std::path::{Path, PathBuf};

use linux::rooted::Rooted;

/// A larger account file is read up to here.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// An identity with everything that a process needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The primary group first, each once.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// What was asked for.
#[derive(Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// `user`, `user:group`, by name or number; empty for root.
    pub(crate) user: &'a str,
    /// In place of any group of `user`.
    pub(crate) gid: Option<u32>,
    /// Besides those of the image's `/etc/group`, or (`strict`) instead of them.
    pub(crate) supplemental: &'a [u32],
    /// Only the supplemental groups.
    pub(crate) strict: bool,
}

/// A user or group that the image does not know.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the image's {file} has no {name:?}; a numeric id needs no entry")]
pub(crate) struct UnknownName {
    file: &'static str,
    name: String,
}

/// The account files of an image: each from the highest layer that has it, unless a higher one removed it.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads them from layers, lowest first.
    pub(crate) fn read(layers: &[PathBuf]) -> std::io::Result<Self> {
        let read = |name: &str| {
            for layer in layers.iter().rev() {
                let root = Rooted::open(layer)?;
                let path = Path::new("etc").join(name);
                if let Some(text) = root.read_text(&path, FILE_BYTES_MAX)? {
                    return Ok(text);
                }
                if hides_lower(&root, &path) {
                    break;
                }
            }
            Ok::<_, std::io::Error>(String::new())
        };
        Ok(Self { passwd: read("passwd")?, group: read("group")? })
    }

    /// Looks an identity up.
    pub(crate) fn resolve(&self, wanted: &Wanted<'_>) -> Result<Identity, UnknownName> {
        let (user, group) = wanted.user.split_once(':').unwrap_or((wanted.user, ""));
        let user = if user.is_empty() { "0" } else { user };
        let number = user.parse::<u32>().ok();
        let mut entries = self.passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let entry = entries.find(|fields| match number {
            Some(uid) => fields.get(2).and_then(|field| field.parse().ok()) == Some(uid),
            None => fields.first() == Some(&user),
        });
        let field = |index: usize| entry.as_ref().and_then(|fields| fields.get(index).copied());
        let uid = match number.or_else(|| field(2)?.parse().ok()) {
            Some(uid) => uid,
            None => return Err(UnknownName { file: "/etc/passwd", name: user.to_owned() }),
        };
        let gid = match (wanted.gid, group) {
            (Some(gid), _) => gid,
            (None, "") => field(3).and_then(|field| field.parse().ok()).unwrap_or(0),
            (None, group) => self.group_id(group)?,
        };
        let mut groups = vec![gid];
        if !wanted.strict {
            groups.extend(self.memberships(field(0).unwrap_or(user)));
        }
        groups.extend(wanted.supplemental);
        let mut seen = std::collections::BTreeSet::new();
        groups.retain(|gid| seen.insert(*gid));
        let home = field(5).filter(|home| !home.is_empty()).unwrap_or(if uid == 0 { "/root" } else { "/" }).to_owned();
        Ok(Identity { uid, gid, groups, home })
    }

    fn group_id(&self, name: &str) -> Result<u32, UnknownName> {
        if let Ok(gid) = name.parse() {
            return Ok(gid);
        }
        let mut entries = self.group.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let entry = entries.find(|fields| fields.first() == Some(&name));
        entry
            .and_then(|fields| fields.get(2)?.parse().ok())
            .ok_or_else(|| UnknownName { file: "/etc/group", name: name.to_owned() })
    }

    fn memberships(&self, user: &str) -> Vec<u32> {
        let entries = self.group.lines().map(|line| line.split(':').collect::<Vec<_>>());
        entries
            .filter(|fields| fields.get(3).is_some_and(|members| members.split(',').any(|member| member == user)))
            .filter_map(|fields| fields.get(2)?.parse().ok())
            .collect()
    }
}

/// Whether a layer removes a file of the layers below it, or hides their directory.
fn hides_lower(root: &Rooted, path: &Path) -> bool {
    use rustix::fs::{FileType, Mode, OFlags};
    let whiteout = root
        .metadata(path)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0);
    let parent = path.parent().unwrap_or(Path::new(""));
    let opaque = root.open_at(parent, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).is_ok_and(|directory| {
        let mut value = [0u8; 4];
        rustix::fs::fgetxattr(&directory, "trusted.overlay.opaque", &mut value)
            .is_ok_and(|count| value[..count] == *b"y")
    });
    whiteout || opaque
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:\nbroken\n".to_owned(),
            group: "root:x:0:\napp:x:1001:\nwheel:x:10:app,root\nlogs:x:44:app\n".to_owned(),
        }
    }

    #[test]
    fn identities() {
        let check = |wanted: Wanted<'_>, expected: Result<(u32, u32, &[u32], &str), &str>| {
            let found = accounts().resolve(&wanted);
            let found = found.as_ref().map(|id| (id.uid, id.gid, id.groups.as_slice(), id.home.as_str()));
            assert_eq!(found.map_err(|error| error.name.as_str()), expected, "{wanted:?}");
        };
        check(Wanted::default(), Ok((0, 0, &[0, 10], "/root")));
        check(Wanted { user: "app", ..Wanted::default() }, Ok((1000, 1001, &[1001, 10, 44], "/home/app")));
        check(Wanted { user: "1000", ..Wanted::default() }, Ok((1000, 1001, &[1001, 10, 44], "/home/app")));
        check(Wanted { user: "app:wheel", ..Wanted::default() }, Ok((1000, 10, &[10, 44], "/home/app")));
        check(Wanted { user: "7:8", ..Wanted::default() }, Ok((7, 8, &[8], "/")));
        let wanted = Wanted { user: "1000", gid: Some(5), supplemental: &[6, 5], strict: true };
        check(wanted, Ok((1000, 5, &[5, 6], "/home/app")));
        check(Wanted { user: "nobody", ..Wanted::default() }, Err("nobody"));
        check(Wanted { user: "app:nogroup", ..Wanted::default() }, Err("nogroup"));
    }
}
