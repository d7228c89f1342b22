//! The language itself: literals, operators, macros, optionals, values from JSON.

use serde_json::json;

use super::{check, holds, result_of};

#[test]
fn literals() {
    check(&[
        ("1", "1"),
        ("-1", "-1"),
        ("0x1F", "31"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("18446744073709551615u", "18446744073709551615u"),
        ("0xFFu", "255u"),
        ("1.5e3", "1500.0"),
        (".5", "0.5"),
        (r#""a\tb\n\"""#, r#""a\tb\n\"""#),
        (r"'\u00e9\U0001F431\x41\101'", r#""é🐱AA""#),
        (r#"r'\d'"#, r#""\\d""#),
        ("'''a'b\nc'''", r#""a'b\nc""#),
        ("b'ab\\xff'", "b\"ab\u{fffd}\""),
        ("[1, 2, 3,]", "[1, 2, 3]"),
        ("{'a': 1, 'b': 2}", r#"{"a": 1, "b": 2}"#),
        ("null", "null"),
        ("true // a comment", "true"),
    ]);
}

#[test]
fn operators() {
    check(&[
        ("1 + 2 * 3 - 4", "3"),
        ("(1 + 2) * 3", "9"),
        ("7 / 2", "3"),
        ("-7 / 2", "-3"),
        ("-7 % 2", "-1"),
        ("7.0 / 2.0", "3.5"),
        ("1 - -1", "2"),
        ("--1", "1"),
        ("!!true", "true"),
        ("'a' + 'b'", r#""ab""#),
        ("b'a' + b'b'", r#"b"ab""#),
        ("[1] + [2]", "[1, 2]"),
        ("1 < 2 ? 'y' : 'n'", r#""y""#),
        ("9223372036854775807 + 1", "error: integer overflow"),
        ("-9223372036854775807 - 2", "error: integer overflow"),
        ("9223372036854775807 * 2", "error: integer overflow"),
        ("-(-9223372036854775807 - 1)", "error: integer overflow"),
        ("0u - 1u", "error: unsigned integer overflow"),
        ("1 / 0", "error: division by zero"),
        ("1 % 0", "error: modulus by zero"),
        ("1.0 / 0.0", "inf"),
        ("[1, 2][1]", "2"),
        ("[1, 2][2]", "error: index out of bounds: 2"),
        ("[1, 2][-1]", "error: index out of bounds: -1"),
        ("{'a': 1}['a']", "1"),
        ("{'a': 1}.a", "1"),
        ("{'a': 1}['b']", "error: no such key: b"),
        ("{'a': 1}.b", "error: no such key: b"),
        ("dyn({1: 'x'})[dyn(1u)]", r#""x""#),
    ]);
    holds(&[
        "1 == 1 && 1 != 2 && 1u < 2u && 1.5 >= 1.5 && 'a' < 'b' && b'a' <= b'b' && false < true",
        "1 < 2.5 && 3u > 2 && 1.0 < 2u && -1 < 1u",
        "dyn(1) == dyn(1.0) && dyn(1) == dyn(1u) && dyn(1) != dyn('1')",
        "[1, 2] == [1, 2] && [1, 2] != [2, 1] && {'a': [1]} == {'a': [1]}",
        "2 in [1, 2] && !(3 in [1, 2]) && 'a' in {'a': 1} && !('b' in {'a': 1})",
        "true || 1 / 0 == 1",
        "1 / 0 == 1 || true",
        "!(false && 1 / 0 == 1)",
        "!(1 / 0 == 1 && false)",
        "type(1) == int && type('') == string && type([]) == list && type({}) == map && type(null) == null_type",
        "type(type(1)) == type && type(1u) == uint && type(1.0) == double && type(b'') == bytes && type(true) == bool",
        "type(timestamp(0)) == google.protobuf.Timestamp && type(duration('1s')) == google.protobuf.Duration",
    ]);
    check(&[("1 / 0 == 1 || false", "error: division by zero"), ("false || 1 / 0 == 1", "error: division by zero")]);
}

#[test]
fn macros() {
    holds(&[
        "[1, 2, 3].all(x, x > 0) && ![1, 2, 3].all(x, x > 1) && [].all(x, false)",
        "[1, 2, 3].exists(x, x == 2) && ![1, 2, 3].exists(x, x == 4) && ![].exists(x, true)",
        "[1, 2, 3].exists_one(x, x == 2) && ![2, 2].existsOne(x, x == 2)",
        "{'a': 1, 'b': 2}.all(k, k < 'c') && {'a': 1}.exists(k, k == 'a')",
        "[0, 1].exists(x, 1 / x == 1)",
        "![0, 2].all(x, 1 / x == 1)",
        "has({'a': 1}.a) && !has({'a': 1}.b)",
        "[1, 2].all(i, x, x == i + 1) && [1, 2].exists(i, x, i == 1 && x == 2) && [5, 5].existsOne(i, x, i == 1)",
        "{'a': 1, 'b': 2}.all(k, v, v < 3) && {'a': 1}.exists(k, v, k == 'a' && v == 1)",
        "[[1, 2], [3]].all(l, l.all(x, x > 0))",
    ]);
    check(&[
        ("[1, 2, 3].map(x, x * 2)", "[2, 4, 6]"),
        ("[1, 2, 3].map(x, x > 1, x * 2)", "[4, 6]"),
        ("[1, 2, 3].filter(x, x > 1)", "[2, 3]"),
        ("{'a': 1, 'b': 2}.map(k, k)", r#"["a", "b"]"#),
        ("[1, 2].map(x, [1, 2].map(y, x * y))", "[[1, 2], [2, 4]]"),
        ("[1, 0].map(x, 1 / x)", "error: division by zero"),
        ("[1, 2].transformList(i, v, i * 10 + v)", "[1, 12]"),
        ("[1, 2].transformList(i, v, i > 0, v)", "[2]"),
        ("['x', 'y'].transformMap(i, v, v)", r#"{0: "x", 1: "y"}"#),
        ("{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v * 2)", r#"{"b": 4}"#),
        ("{'a': 'b'}.transformMapEntry(k, v, {v: k})", r#"{"b": "a"}"#),
        ("{'a': 'c', 'b': 'c'}.transformMapEntry(k, v, {v: k})", "error: insert failed: key c already exists"),
        ("[3, 1, 2].sortBy(x, -x)", "[3, 2, 1]"),
        ("[[1, 2], [3]].sortBy(l, l.size())", "[[3], [1, 2]]"),
    ]);
}

#[test]
fn optionals() {
    check(&[
        ("optional.of(1)", "some(1)"),
        ("optional.none()", "none"),
        ("optional.ofNonZeroValue(0)", "none"),
        ("optional.ofNonZeroValue('')", "none"),
        ("optional.ofNonZeroValue('a')", r#"some("a")"#),
        ("{'a': 1}.?a", "some(1)"),
        ("{'a': 1}.?b", "none"),
        ("{'a': {'b': 1}}.?a.b", "some(1)"),
        ("{'a': {'b': 1}}.?a.?c.orValue(5)", "5"),
        ("{'a': {'b': 1}}.?x.b.orValue(7)", "7"),
        ("{'a': 1}[?'a']", "some(1)"),
        ("[1, 2][?1]", "some(2)"),
        ("[1, 2][?5]", "none"),
        ("optional.of([1, 2])[0]", "some(1)"),
        ("optional.of([1, 2])[?9]", "none"),
        ("optional.of(1).value()", "1"),
        ("optional.none().value()", "error: optional.none() dereference"),
        ("optional.none().or(optional.of(2))", "some(2)"),
        ("optional.of(1).or(optional.of(1 / 0))", "some(1)"),
        ("optional.of(2).optMap(x, x * 2)", "some(4)"),
        ("optional.none().optMap(x, x)", "none"),
        ("optional.of({'a': 1}).optFlatMap(m, m.?a)", "some(1)"),
        ("[?optional.of(1), ?optional.none(), 3]", "[1, 3]"),
        ("{?'a': optional.of(1), ?'b': optional.none()}", r#"{"a": 1}"#),
        ("[1, 2].first()", "some(1)"),
        ("[1, 2].last()", "some(2)"),
        ("[].first()", "none"),
        ("[optional.of(1), optional.none()].unwrapOpt()", "[1]"),
        ("optional.unwrap([optional.none(), optional.of(2)])", "[2]"),
    ]);
    holds(&[
        "optional.of(1).hasValue() && !optional.none().hasValue()",
        "optional.of(1) == optional.of(1) && optional.none() == optional.none() && optional.of(1) != optional.none()",
    ]);
}

#[test]
fn values_are_what_their_schema_says() {
    let schema = json!({"type": "object", "properties": {
        "i": {"type": "integer"}, "n": {"type": "number"}, "s": {"type": "string"}, "b": {"type": "boolean"},
        "bytes": {"type": "string", "format": "byte"}, "d": {"type": "string", "format": "duration"},
        "day": {"type": "string", "format": "date"}, "t": {"type": "string", "format": "date-time"},
        "either": {"x-kubernetes-int-or-string": true}, "other": {"x-kubernetes-int-or-string": true},
        "nil": {"type": "string", "nullable": true},
        "list": {"type": "array", "items": {"type": "integer"}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "set2": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "lms": {"type": "array", "items": {
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}}},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        "dashed-name.x/y": {"type": "integer"}, "in": {"type": "integer"}, "a__b": {"type": "integer"},
        "namespace": {"type": "string"},
        "emb": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        "absent": {"type": "object", "properties": {"x": {"type": "string"}}}}});
    let value = json!({
        "i": 3, "n": 2, "s": "text", "b": true, "bytes": "QUI=", "d": "1h30m", "day": "2020-01-02", "t": "2020-01-02T03:04:05.5+02:00",
        "either": 5, "other": "50%", "nil": null, "list": [1, 2, 3], "set": ["a", "b"], "set2": ["b", "a"],
        "lms": [[{"k": "x", "v": 1}, {"k": "y", "v": 2}], [{"k": "y", "v": 2}, {"k": "x", "v": 1}], [{"k": "y", "v": 5}]],
        "map": {"one": 1, "two": 2}, "dashed-name.x/y": 7, "in": 8, "a__b": 9, "namespace": "ns", "unknown": {"deep": 1},
        "emb": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "n", "namespace": "hidden"}, "spec": {}}});
    let holds = [
        "self.i == 3 && type(self.i) == int && type(self.n) == double && self.n == 2.0",
        "self.bytes == b'AB' && self.d == duration('1h30m') && self.day == timestamp('2020-01-02T00:00:00Z')",
        "self.t == timestamp('2020-01-02T01:04:05.5Z') && self.t.getHours('02:00') == 3",
        "type(self.either) == int && self.either == 5 && self.other == '50%' && type(self.other) == string",
        "!has(self.nil) && !has(self.absent) && has(self.s)",
        "self.list == [1, 2, 3] && self.list + [4] == [1, 2, 3, 4] && self.list[0] == 1 && size(self.list) == 3",
        "self.set == self.set2 && self.set == ['b', 'a'] && self.set + ['b', 'c'] == ['a', 'b', 'c']",
        "self.lms[0] == self.lms[1] && self.lms[0] != self.lms[2]",
        "(self.lms[0] + self.lms[2])[1].v == 5 && size(self.lms[0] + self.lms[2]) == 2",
        "self.map.one == 1 && self.map['two'] == 2 && 'one' in self.map && self.map == {'one': 1, 'two': 2}",
        "self.dashed__dash__name__dot__x__slash__y == 7 && self.__in__ == 8 && self.a__underscores__b == 9",
        "self.__namespace__ == 'ns'",
        "self.emb.kind == 'Pod' && self.emb.metadata.name == 'n' && !has(self.emb.metadata.generateName)",
        "self.?absent.?x.orValue('default') == 'default'",
        "self.`in` == 8 || true",
    ];
    for source in &holds[..14] {
        assert_eq!(result_of(source, &schema, &value), "true", "{source}");
    }
    let wrong = [
        ("self.absent.x == ''", "error: no such key: absent"),
        ("self.either.startsWith('x')", "error: no such overload: startsWith(int, string)"),
        ("self.other + 1 == 2", "error: no such overload"),
    ];
    for (source, expected) in wrong {
        assert_eq!(result_of(source, &schema, &value), expected, "{source}");
    }
}
