//! What names may look like, with upstream's messages. Each function returns every complaint; empty means valid.
//!
//! Public behaviour: apimachinery's `util/validation`.

const LABEL_REGEX: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_REGEX: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const UNDERSCORE_REGEX: &str = r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
const WILDCARD_REGEX: &str = r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1035_REGEX: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED_REGEX: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE_REGEX: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const CONFIG_KEY_REGEX: &str = "[-._a-zA-Z0-9]+";

const LABEL_LENGTH_MAX: usize = 63;
const SUBDOMAIN_LENGTH_MAX: usize = 253;
const PORT_NAME_LENGTH_MAX: usize = 15;

/// An RFC 1123 label: names of namespaces, of pods' containers and hosts.
pub fn dns1123_label(name: &str) -> Vec<String> {
    let mut errors = too_long(name, LABEL_LENGTH_MAX);
    if !is_dns1123_label(name) {
        let message = if is_dns1123_subdomain(name) {
            "must not contain dots".to_owned()
        } else {
            regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character",
                LABEL_REGEX,
                &["my-name", "123-abc"],
            )
        };
        errors.push(message);
    }
    errors
}

/// An RFC 1123 subdomain: names of most objects.
pub fn dns1123_subdomain(name: &str) -> Vec<String> {
    let mut errors = too_long(name, SUBDOMAIN_LENGTH_MAX);
    if !is_dns1123_subdomain(name) {
        errors.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character",
            SUBDOMAIN_REGEX,
            &["example.com"],
        ));
    }
    errors
}

/// An RFC 1123 subdomain, or the beginning of one: a generated name's base may end in `-`.
pub fn dns1123_subdomain_prefix(name: &str) -> Vec<String> {
    dns1123_subdomain(&without_last_dash(name))
}

/// As [`dns1123_subdomain`], with `_` where it may stand in DNS: search paths have names of services.
pub fn dns1123_subdomain_with_underscore(name: &str) -> Vec<String> {
    let mut errors = too_long(name, SUBDOMAIN_LENGTH_MAX);
    let label = |label: &str| is_dns1123_label(&label.strip_prefix('_').unwrap_or(label).replace('_', "-"));
    // An underscore leads or stands inside: what is left has neither at its ends.
    let edges = |label: &str| !label.strip_prefix('_').unwrap_or(label).starts_with('_') && !label.ends_with('_');
    if !name.split('.').all(|part| label(part) && edges(part)) {
        errors.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and \
             must start and end with an alphanumeric character",
            UNDERSCORE_REGEX,
            &["example.com"],
        ));
    }
    errors
}

/// A name for all hosts of a domain: `*.` and an RFC 1123 subdomain.
pub fn wildcard_dns1123_subdomain(name: &str) -> Vec<String> {
    let mut errors = too_long(name, SUBDOMAIN_LENGTH_MAX);
    if !name.strip_prefix("*.").is_some_and(is_dns1123_subdomain) {
        errors.push(regex_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
             of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            WILDCARD_REGEX,
            &["*.example.com"],
        ));
    }
    errors
}

/// The name of an HTTP header.
pub fn http_header(name: &str) -> Vec<String> {
    if !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
        return vec![];
    }
    let message = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![regex_error(message, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// A DNS 1035 label: names of services.
pub fn dns1035_label(name: &str) -> Vec<String> {
    let mut errors = too_long(name, LABEL_LENGTH_MAX);
    if !is_dns1123_label(name) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        errors.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            DNS1035_REGEX,
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// A qualified name: keys of labels and annotations, names of extended resources.
pub fn qualified_name(name: &str) -> Vec<String> {
    const MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                           alphanumeric character";
    const EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
    let mut errors = Vec::new();
    let part = match name.split_once('/') {
        None => name,
        Some((_, part)) if part.contains('/') => {
            return vec![format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex_error(MESSAGE, QUALIFIED_REGEX, EXAMPLES)
            )];
        }
        Some((prefix, part)) => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(dns1123_subdomain(prefix).into_iter().map(|error| format!("prefix part {error}")));
            }
            part
        }
    };
    if part.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if part.len() > LABEL_LENGTH_MAX {
        errors.push(format!("name part must be no more than {LABEL_LENGTH_MAX} characters"));
    }
    if !is_qualified_part(part) {
        errors.push(format!("name part {}", regex_error(MESSAGE, QUALIFIED_REGEX, EXAMPLES)));
    }
    errors
}

/// The value of a label.
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = too_long(value, LABEL_LENGTH_MAX);
    if !value.is_empty() && !is_qualified_part(value) {
        errors.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            LABEL_VALUE_REGEX,
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// The name of a port, an IANA service name.
pub fn port_name(name: &str) -> Vec<String> {
    let mut errors = too_long(name, PORT_NAME_LENGTH_MAX);
    let mut complain = |message: &str| errors.push(message.to_owned());
    if name.is_empty() || !name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-') {
        complain("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    }
    if !name.bytes().any(|c| c.is_ascii_lowercase()) {
        complain("must contain at least one letter (a-z)");
    }
    if name.contains("--") {
        complain("must not contain consecutive hyphens");
    }
    if name.starts_with('-') || name.ends_with('-') {
        complain("must not begin or end with a hyphen");
    }
    errors
}

/// The number of a port.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { vec![] } else { vec!["must be between 1 and 65535, inclusive".to_owned()] }
}

/// A key in a config map or secret.
pub fn config_map_key(key: &str) -> Vec<String> {
    let mut errors = too_long(key, SUBDOMAIN_LENGTH_MAX);
    if key.is_empty() || !key.bytes().all(is_qualified_byte) {
        errors.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            CONFIG_KEY_REGEX,
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match key {
        "." => errors.push("must not be '.'".to_owned()),
        ".." => errors.push("must not be '..'".to_owned()),
        _ if key.starts_with("..") => errors.push("must not start with '..'".to_owned()),
        _ => {}
    }
    errors
}

/// The name of an environment variable.
pub fn env_var_name(name: &str) -> Vec<String> {
    if name.is_empty() {
        vec!["environment variable name must be non-empty".to_owned()]
    } else if name.bytes().all(|c| (0x20..0x7f).contains(&c) && c != b'=') {
        vec![]
    } else {
        vec![
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        ]
    }
}

/// A name that is used as one segment of a path (roles, role bindings).
pub fn path_segment(name: &str) -> Vec<String> {
    match name {
        "." | ".." => return vec![format!("may not be '{name}'")],
        _ => {}
    }
    let found = ["/", "%"].into_iter().filter(|part| name.contains(part));
    found.map(|part| format!("may not contain '{part}'")).collect()
}

/// Whether it is an RFC 1123 label, whatever its length.
fn is_dns1123_label(name: &str) -> bool {
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = name.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if edge(*first) && edge(*last))
        && bytes.iter().all(|c| edge(*c) || *c == b'-')
}

fn is_dns1123_subdomain(name: &str) -> bool {
    name.split('.').all(is_dns1123_label)
}

fn is_qualified_byte(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.')
}

fn is_qualified_part(name: &str) -> bool {
    let bytes = name.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(a), Some(z)) if a.is_ascii_alphanumeric() && z.is_ascii_alphanumeric())
        && bytes.iter().copied().all(is_qualified_byte)
}

/// What upstream checks instead of a generated name's base: its last dash stands for the suffix, and takes the character
/// before it along.
pub fn without_last_dash(base: &str) -> String {
    let mut rest = base.chars();
    if rest.next_back() == Some('-') && rest.next_back().is_some() {
        return format!("{}a", rest.as_str());
    }
    base.to_owned()
}

fn too_long(name: &str, max: usize) -> Vec<String> {
    if name.len() > max { vec![format!("must be no more than {max} characters")] } else { vec![] }
}

fn regex_error(message: &str, regex: &str, examples: &[&str]) -> String {
    let examples: Vec<_> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_and_refuses_as_upstream_does() {
        type Check = fn(&str) -> Vec<String>;
        let long = "a".repeat(64);
        let table: &[(Check, &[&str], &[&str])] = &[
            (dns1123_label, &["a", "a-1", "1a"], &["", "-a", "a-", "A", "a.b", "a_b", &long]),
            (dns1123_subdomain, &["a", "a.b-c.1"], &["", "a..b", ".a", "a.", "a.-b", "Ab"]),
            (dns1035_label, &["a", "a-1"], &["1a", "", "a-"]),
            (qualified_name, &["a", "A_b.c-1", "x.io/A"], &["", "/a", "x/", "a/b/c", "_a", "X.io/a", &long]),
            (label_value, &["", "a", "A.b_c"], &["-a", "a b", &long]),
            (port_name, &["http", "h2-c", "1a"], &["", "1", "a--b", "-a", "HTTP", "abcdefghijklmnop"]),
            (config_map_key, &["a", "A.b_-"], &["", ".", "..", "..a", "a b"]),
            (env_var_name, &["A", "a.b c"], &["", "a=b", "\n"]),
            (dns1123_subdomain_prefix, &["a-", "a", "A-"], &["Ab-", "-"]),
            (dns1123_subdomain_with_underscore, &["_ldap._tcp.a", "a_b.c"], &["a_", "__a", "A"]),
            (wildcard_dns1123_subdomain, &["*.a.b"], &["*", "a.b", "*.*.a"]),
            (http_header, &["X-A1"], &["", "a b", "a_b"]),
            (path_segment, &["system:x"], &[".", "..", "a/b", "a%b"]),
        ];
        for (check, good, bad) in table {
            for name in *good {
                assert_eq!(check(name), Vec::<String>::new(), "{name}");
            }
            for name in *bad {
                assert_ne!(check(name), Vec::<String>::new(), "{name}");
            }
        }
    }

    #[test]
    fn says_it_in_upstreams_words() {
        assert_eq!(
            dns1123_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
              end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(port_name("a--b"), ["must not contain consecutive hyphens"]);
        assert_eq!(qualified_name("/a"), ["prefix part must be non-empty"]);
    }
}
