//! Bearer tokens from a file, one line each: token, user name, user id and, in quotes, groups with commas between them.
//!
//! The file is read once, at the start, by the binary. Tokens are kept as digests: how long a comparison takes says nothing
//! about them. Public behaviour: the Kubernetes documentation's "Authenticating", static token file.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::UserInfo;

/// The tokens of a file.
#[derive(Clone, Default)]
pub struct StaticTokens {
    users: HashMap<[u8; 32], Arc<UserInfo>>,
}

/// A line cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct StaticTokensError {
    line: usize,
    why: String,
}

impl StaticTokens {
    /// Reads a file. Lines that begin with `#` and lines without a token are passed over; of two lines with one token the
    /// last one counts.
    pub fn parse(text: &str) -> Result<Self, StaticTokensError> {
        let mut users = HashMap::new();
        for (at, line) in text.lines().enumerate() {
            let wrong = |why: String| StaticTokensError { line: at + 1, why };
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let fields = fields(line).ok_or_else(|| wrong("a quote is not closed".to_owned()))?;
            let [token, name, uid, rest @ ..] = &fields[..] else {
                let found = fields.len();
                let why = format!("at least 3 columns are wanted (token, user name, user uid), found {found}");
                return Err(wrong(why));
            };
            if token.is_empty() {
                tracing::warn!(line = at + 1, "a line of the token file has no token");
                continue;
            }
            let groups = rest.first().map_or("", String::as_str);
            let groups: Vec<&str> = groups.split(',').map(str::trim).filter(|group| !group.is_empty()).collect();
            let user = UserInfo { uid: uid.clone(), ..UserInfo::new(name.clone(), &groups) };
            if users.insert(digest(token), Arc::new(user)).is_some() {
                tracing::warn!(line = at + 1, "a token stands twice in the token file");
            }
        }
        Ok(Self { users })
    }

    /// Whose token it is.
    pub fn user(&self, token: &str) -> Option<&Arc<UserInfo>> {
        if self.users.is_empty() { None } else { self.users.get(&digest(token)) }
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The columns of a line; a doubled quote within quotes is one. `None` where a quote is not closed.
fn fields(line: &str) -> Option<Vec<String>> {
    let (mut fields, mut rest) = (Vec::new(), line);
    loop {
        let trimmed = rest.trim_start();
        let (field, after) = match trimmed.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let end = trimmed.find(',').unwrap_or(trimmed.len());
                (trimmed[..end].trim().to_owned(), &trimmed[end..])
            }
        };
        fields.push(field);
        match after.trim_start().strip_prefix(',') {
            Some(next) => rest = next,
            None => return Some(fields),
        }
    }
}

fn quoted_field(quoted: &str) -> Option<(String, &str)> {
    let (mut field, mut rest) = (String::new(), quoted);
    loop {
        let end = rest.find('"')?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Some((field, rest)),
        }
    }
}

impl fmt::Debug for StaticTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.users.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_token_user_uid_and_groups() {
        let file = "# ours\nabc,eve,7\n\n\"d,e\",bob,8,\"devs, ops\"\n,nobody,1\n";
        let tokens = StaticTokens::parse(file).unwrap();
        let eve = tokens.user("abc").unwrap();
        assert_eq!((&*eve.name, &*eve.uid, &eve.groups[..]), ("eve", "7", &["system:authenticated".to_owned()][..]));
        assert_eq!(tokens.user("d,e").unwrap().groups, ["devs", "ops", "system:authenticated"]);
        assert!(tokens.user("").is_none() && tokens.user("d").is_none());
        assert_eq!(format!("{tokens:?}"), "2 tokens");
        for (file, why) in [
            ("abc,eve", "line 1: at least 3 columns are wanted (token, user name, user uid), found 2"),
            ("a,b,c\nx,\"y", "line 2: a quote is not closed"),
        ] {
            assert_eq!(StaticTokens::parse(file).unwrap_err().to_string(), why);
        }
    }
}
