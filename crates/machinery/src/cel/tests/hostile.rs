//! What a stranger may send: nothing takes long, nothing takes the stack, everything ends.

use serde_json::json;

use super::{result, result_of};

const STACK: usize = 1 << 20;
const LIMIT: &str = "error: operation cancelled: actual cost limit exceeded";

/// On the stack that a server's thread has.
fn on_a_small_stack(test: fn()) {
    std::thread::Builder::new().stack_size(STACK).spawn(test).unwrap().join().unwrap();
}

#[test]
fn depth_is_bounded() {
    on_a_small_stack(|| {
        let deep = |open: &str, inner: &str, close: &str, count: usize| {
            format!("{}{inner}{}", open.repeat(count), close.repeat(count))
        };
        let refused = "expression recursion limit exceeded";
        for count in [300, 5_000] {
            for source in [
                deep("(", "1", ")", count),
                deep("[", "1", "]", count),
                deep("{'a':", "1", "}", count),
                deep("size(", "1", ")", count),
                deep("true ? true : ", "true", "", count),
                deep("1 + ", "1", "", count),
                deep("self.a[", "1", "]", count),
                format!("self{}", ".a".repeat(count)),
                format!("self{}", "[0]".repeat(count)),
                deep("[1].all(x, ", "true", ")", count),
            ] {
                assert!(result(&source).contains(refused), "{}", &source[..40]);
            }
        }
        // What is less deep is not refused, and fits.
        assert_eq!(result(&deep("(", "true", ")", 95)), "true");
        assert_eq!(result(&deep("[1].all(x, ", "true", ")", 60)), "true");
        assert_eq!(result(&format!("{}true", "true && ".repeat(5_000))), "true");
        assert_eq!(result(&format!("{} > 0", deep("int(", "1", ")", 95))), "true");
        assert_eq!(result(&format!("{}1 > 0", "1 + ".repeat(190))), "true");
    });
}

#[test]
fn length_is_bounded() {
    assert!(result(&"1".repeat(200_000)).contains("expression code point size exceeds limit"));
    assert!(
        result(&format!("[{}].size() > 0", "1,".repeat(60_000))).contains("expression code point size exceeds limit")
    );
    // Each of these copies what it is applied to.
    let copies = format!("optional.of(1){}.hasValue()", ".optMap(x, x)".repeat(40));
    assert!(result(&copies).contains("too many parts"));
}

#[test]
fn loops_end_by_their_cost() {
    let numbers = vec!["0"; 1000].join(",");
    for source in [
        format!("[{numbers}].all(a, [{numbers}].all(b, [{numbers}].all(c, a == b && b == c)))"),
        format!("[{numbers}].map(a, [{numbers}]).map(b, b.map(c, b)).size() > 0"),
        format!("[{numbers}].exists(a, ![{numbers}].exists(b, a == 1 || b == 1) && [{numbers}].exists(c, c == 1))"),
        "lists.range(1000000).all(a, lists.range(1000000).all(b, true))".to_owned(),
        "lists.range(900000).map(a, 'a').join('aaaaaaaaaaaa').matches('(a*)*b')".to_owned(),
    ] {
        assert_eq!(result(&source), LIMIT, "{}", &source[..30]);
    }
}

#[test]
fn what_has_no_cost_is_metered() {
    // Equality costs the length of the shorter list, whatever is in it; adding lists costs nothing at all.
    let schema = json!({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "integer"}}}});
    let value = json!({"l": vec![0; 300_000]});
    for source in [
        "lists.range(100).all(i, [self.l, self.l] == [self.l, self.l])",
        "lists.range(10000).all(i, (self.l + self.l).size() > 0)",
        "lists.range(1000).all(i, '%s'.format([self.l]).size() > 0)",
    ] {
        assert_eq!(result_of(source, &schema, &value), LIMIT, "{source}");
    }
}

#[test]
fn nonsense_is_refused() {
    for source in [
        "",
        " ",
        "\0",
        "'",
        "\"\"\"",
        "'\\",
        "'\\u12'",
        "`",
        "``",
        "0x",
        "1e",
        ".",
        "a.",
        "a.?",
        "?",
        "a?b",
        "{1",
        "[,]",
        "b'\\u0041'",
        "a{b:",
        "\u{1F600}",
        "a[?",
        "1.a",
        "'a' 'b'",
        "()",
        "--",
        "!",
        "in",
        "in in in",
    ] {
        let said = result(source);
        assert!(said.starts_with("ERROR: "), "{source:?} {said}");
    }
}
