//! `conformance_map.tsv` names a test of ours for what conformance tests ask: each that is named is in the tree.

use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn every_test_that_the_map_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    let mut covered = 0;
    for line in include_str!("conformance_map.tsv").lines().filter(|line| !line.starts_with('#')) {
        let cells: Vec<&str> = line.split('\t').collect();
        let &[group, name, test] = cells.as_slice() else {
            wrong.push(format!("not three cells: {line}"));
            continue;
        };
        if !seen.insert((group, name)) {
            wrong.push(format!("twice: {line}"));
        }
        if test == "-" {
            continue;
        }
        covered += 1;
        if !test.split_once("::").is_some_and(|(file, function)| is_test(&root.join(file), function)) {
            wrong.push(format!("no such test: {line}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(covered > 0 && covered <= seen.len());
}

/// Whether a file has a function of that name whose attributes say that it is a test.
fn is_test(file: &Path, function: &str) -> bool {
    let Ok(text) = std::fs::read_to_string(file) else { return false };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let defines = |line: &str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ").and_then(|rest| rest.strip_prefix(function)).is_some_and(|rest| rest.starts_with('('))
    };
    lines.iter().position(|line| defines(line)).is_some_and(|at| {
        let attributes = lines[..at].iter().rev().take_while(|line| line.starts_with('#') || line.starts_with("//"));
        attributes.into_iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}
