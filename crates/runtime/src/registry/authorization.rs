//! What a registry asks for before it hands out an image, and how it gets it: basic credentials, or a token from the server
//! that its challenge names. The distribution project's token specification and RFC 9110 define both.

use std::collections::BTreeMap;

use base64::Engine;
use http::header;
use serde::Deserialize;

use super::PullError;
use super::config::{Credentials, Endpoint};
use super::connection::{Request, Route, scheme};

/// A challenge longer than this is none.
const HEADER_BYTES_MAX: usize = 8 << 10;
/// Challenges and parameters that are read.
const CHALLENGES_MAX: usize = 16;
const PARAMETERS_MAX: usize = 32;
/// A token server's answer.
const TOKEN_BYTES_MAX: u64 = 1 << 20;

/// One way to be let in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Challenge {
    /// In lower case: `bearer`, `basic`.
    pub scheme: String,
    /// With names in lower case.
    pub parameters: BTreeMap<String, String>,
}

/// Reads a `WWW-Authenticate` header; what cannot be understood ends it.
pub fn challenges(header: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = &header[..header.len().min(HEADER_BYTES_MAX).min(last_boundary(header))];
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            return found;
        }
        let padded = after.trim_start_matches([' ', '\t']);
        match (padded.strip_prefix('='), found.last_mut()) {
            (Some(value), Some(challenge)) => {
                let Some((value, after)) = parameter_value(value.trim_start_matches([' ', '\t'])) else { return found };
                if challenge.parameters.len() < PARAMETERS_MAX {
                    challenge.parameters.insert(word.to_ascii_lowercase(), value);
                }
                rest = after;
            }
            (Some(_), None) => return found,
            (None, _) => {
                if found.len() == CHALLENGES_MAX {
                    return found;
                }
                found.push(Challenge { scheme: word.to_ascii_lowercase(), ..Challenge::default() });
                rest = after;
            }
        }
    }
}

/// The end of the last whole character within the limit.
fn last_boundary(text: &str) -> usize {
    (0..=text.len().min(HEADER_BYTES_MAX)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

fn token(text: &str) -> (&str, &str) {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    text.split_at(text.find(|c| !is_part(c)).unwrap_or(text.len()))
}

fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = token(text);
        return (!value.is_empty()).then(|| (value.to_owned(), rest));
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((value, &quoted[at + 1..])),
            _ => value.push(c),
        }
    }
    None
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

/// The header that answers a registry's refusal; `None` where nothing that we have answers it.
pub(super) async fn answer(
    route: &Route,
    endpoint: &Endpoint,
    refusal: &http::HeaderMap,
) -> Result<Option<String>, PullError> {
    let headers = refusal.get_all(header::WWW_AUTHENTICATE).iter();
    let all: Vec<_> = headers.filter_map(|value| value.to_str().ok()).flat_map(challenges).collect();
    if let Some(bearer) = all.iter().find(|challenge| challenge.scheme == "bearer") {
        return fetch_token(route, endpoint, bearer).await.map(Some);
    }
    let asked = all.iter().any(|challenge| challenge.scheme == "basic");
    match &endpoint.credentials {
        Some(Credentials::Basic { username, password }) if asked => Ok(Some(basic(username, password))),
        _ => Ok(None),
    }
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}")))
}

async fn fetch_token(route: &Route, endpoint: &Endpoint, challenge: &Challenge) -> Result<String, PullError> {
    let refused = |why: String| PullError::Token { registry: endpoint.authority.clone(), why };
    let realm = challenge.parameters.get("realm").ok_or_else(|| refused("the challenge names no realm".to_owned()))?;
    let plain = scheme(realm) != Some("https");
    if plain && endpoint.secure {
        return Err(refused(format!("it sends us to {realm:?}, which is not HTTPS")));
    }
    let own_scope = format!("repository:{}:pull", endpoint.repository);
    let scope = challenge.parameters.get("scope").unwrap_or(&own_scope);
    let service = challenge.parameters.get("service").map(String::as_str).unwrap_or_default();
    let query = format!("service={}&scope={}", encode(service), encode(scope));
    let request = match &endpoint.credentials {
        Some(Credentials::Identity(token)) => Request {
            url: realm.clone(),
            form: Some(format!("grant_type=refresh_token&client_id=timonier&refresh_token={}&{query}", encode(token))),
            ..Request::default()
        },
        credentials => Request {
            url: format!("{realm}{}{query}", if realm.contains('?') { '&' } else { '?' }),
            authorization: match credentials {
                Some(Credentials::Basic { username, password }) => Some(basic(username, password)),
                _ => None,
            },
            ..Request::default()
        },
    };
    let mut answer = route.send(request).await?;
    let body = answer.bytes(TOKEN_BYTES_MAX).await?;
    if !answer.status.is_success() {
        return Err(refused(format!("the token server answers {}", answer.status)));
    }
    let tokens: TokenAnswer = serde_json::from_slice(&body)
        .map_err(|error| refused(format!("the token server's answer cannot be understood: {error}")))?;
    let token = tokens.token.or(tokens.access_token).filter(|token| !token.is_empty());
    Ok(format!("Bearer {}", token.ok_or_else(|| refused("the token server sends no token".to_owned()))?))
}

/// Percent-encodes a value of a query.
fn encode(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut all, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => all.push(char::from(byte)),
            _ => drop(write!(all, "%{byte:02X}")),
        }
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(header: &str) -> String {
        let list = challenges(header);
        let one = |challenge: &Challenge| {
            let parameters: Vec<_> = challenge.parameters.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("{}[{}]", challenge.scheme, parameters.join(";"))
        };
        list.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn challenges_are_read() {
        for (header, wanted) in [
            (
                r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#,
                "bearer[realm=https://auth.example/token;scope=repository:a/b:pull,push;service=r.example]",
            ),
            (r#"Basic realm="a \"b\"""#, r#"basic[realm=a "b"]"#),
            (
                r#"Negotiate, Basic realm=x , Bearer realm="y" , error=z"#,
                "negotiate[] basic[realm=x] bearer[error=z;realm=y]",
            ),
            (r#"Bearer realm="unfinished"#, "bearer[]"),
            ("realm=x", ""),
            ("", ""),
            ("\u{fc}", ""),
        ] {
            assert_eq!(shown(header), wanted, "{header}");
        }
    }

    #[test]
    fn values_are_encoded() {
        assert_eq!(encode("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
    }

    /// One more was let in than the limit says.
    #[test]
    fn there_are_only_so_many_challenges_and_the_last_has_its_parameters() {
        let header: String = (0..40).map(|number| format!("scheme{number} realm=\"{number}\", ")).collect();
        let found = challenges(&header);
        assert_eq!(found.len(), CHALLENGES_MAX);
        assert_eq!(found[CHALLENGES_MAX - 1].parameters["realm"], "15");
    }
}
