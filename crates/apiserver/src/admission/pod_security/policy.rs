//! Which standard a namespace's labels ask for.

use std::fmt;

use serde_json::Value;

use crate::invalid::FieldError;

/// How strict a standard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Everything goes.
    Privileged,
    /// No known way to more rights.
    Baseline,
    /// Hardened.
    Restricted,
}

/// Of which minor version of Kubernetes a standard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// The newest that this server knows.
    Latest,
    /// `v1.N`
    Minor(u32),
}

/// A standard, such as `baseline:v1.30`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LevelVersion {
    /// How strict.
    pub level: Level,
    /// In which version.
    pub version: Version,
}

/// What a namespace asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    /// Pods that violate this are refused.
    pub enforce: LevelVersion,
    /// Violations are written to the audit log.
    pub audit: LevelVersion,
    /// Violations are told to the client.
    pub warn: LevelVersion,
}

const OPEN: LevelVersion = LevelVersion { level: Level::Privileged, version: Version::Latest };
const PREFIX: &str = "pod-security.kubernetes.io/";

impl Policy {
    /// Reads a namespace's labels. What cannot be read is strict where it refuses, and silent where it only tells.
    pub(super) fn of(labels: &Value) -> (Self, Vec<FieldError>) {
        let mut policy = Self { enforce: OPEN, audit: OPEN, warn: OPEN };
        let mut errors = Vec::new();
        let label = |name: &str| labels[format!("{PREFIX}{name}")].as_str();
        let enforced = read(&mut errors, label, "enforce", &mut policy.enforce, Level::Restricted);
        read(&mut errors, label, "audit", &mut policy.audit, Level::Privileged);
        read(&mut errors, label, "warn", &mut policy.warn, Level::Privileged);
        // Who refuses pods also warns of what will make such pods.
        if label("warn").is_none() && enforced && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if label("warn-version").is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }

    /// Whether nothing is asked for.
    pub(super) fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|standard| standard.level == Level::Privileged)
    }
}

/// Reads one mode's two labels; whether the level is there and right.
fn read<'a>(
    errors: &mut Vec<FieldError>,
    label: impl Fn(&str) -> Option<&'a str>,
    mode: &str,
    standard: &mut LevelVersion,
    when_wrong: Level,
) -> bool {
    let mut wrong = |name: &str, value: &str, why: &str| {
        errors.push(FieldError::invalid(format!("metadata.labels[{PREFIX}{name}]"), &value.into(), why));
    };
    let mut leveled = false;
    if let Some(given) = label(mode) {
        let level = match given {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        };
        leveled = level.is_some();
        standard.level = level.unwrap_or(when_wrong);
        if !leveled {
            wrong(mode, given, "must be one of privileged, baseline, restricted");
        }
    }
    let name = format!("{mode}-version");
    if let Some(given) = label(&name) {
        let version = parse_version(given);
        standard.version = version.unwrap_or(Version::Latest);
        if version.is_none() {
            wrong(&name, given, r#"must be "latest" or "v1.x""#);
        }
    }
    leveled
}

fn parse_version(text: &str) -> Option<Version> {
    if text == "latest" {
        return Some(Version::Latest);
    }
    let minor = text.strip_prefix("v1.")?;
    let plain = minor == "0" || (!minor.starts_with('0') && minor.bytes().all(|byte| byte.is_ascii_digit()));
    plain.then(|| minor.parse().ok()).flatten().map(Version::Minor)
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Version::Latest => write!(f, "{level}:latest"),
            Version::Minor(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_name_standards_and_warnings_follow_what_is_enforced() {
        for (labels, expected, wrong) in [
            (json!({}), "privileged:latest privileged:latest privileged:latest", ""),
            (json!({"enforce": "baseline"}), "baseline:latest privileged:latest baseline:latest", ""),
            (
                json!({"enforce": "restricted", "enforce-version": "v1.30"}),
                "restricted:v1.30 privileged:latest restricted:v1.30",
                "",
            ),
            (
                json!({"enforce": "restricted", "warn": "privileged", "audit": "baseline"}),
                "restricted:latest baseline:latest privileged:latest",
                "",
            ),
            (
                json!({"enforce": "strict"}),
                "restricted:latest privileged:latest privileged:latest",
                r#"metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted"#,
            ),
            (
                json!({"warn-version": "v1.01"}),
                "privileged:latest privileged:latest privileged:latest",
                r#"metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: "v1.01": must be "latest" or "v1.x""#,
            ),
        ] {
            let full: serde_json::Map<String, Value> = labels
                .as_object()
                .unwrap()
                .iter()
                .map(|(key, value)| (format!("{PREFIX}{key}"), value.clone()))
                .collect();
            let (policy, errors) = Policy::of(&full.into());
            assert_eq!(format!("{} {} {}", policy.enforce, policy.audit, policy.warn), expected, "{labels}");
            let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(errors.join("; "), wrong);
        }
    }
}
