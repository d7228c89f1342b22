//! What expressions cost, in fact and at most: numbers that upstream keeps stable, since rules depend on them.

use serde_json::{Value as Json, json};

use crate::cel::{CALL_COST_MAX, Declared, Program};

fn actual(source: &str, schema: &Json, value: &Json) -> u64 {
    let declared = Declared::of_schema(schema, false).unwrap();
    let program = Program::compile(source, &[("self", declared.to_type())]);
    let program = program.unwrap_or_else(|issues| panic!("{source}: {issues}"));
    let (_, cost) = program.evaluate(vec![declared.value(value).unwrap()], CALL_COST_MAX);
    cost
}

fn estimated(source: &str, schema: &Json) -> u64 {
    let declared = Declared::of_schema(schema, false).unwrap();
    let compiled = Program::compile_with_cost(source, &[("self", declared.to_type())], &declared);
    compiled.unwrap_or_else(|issues| panic!("{source}: {issues}")).1
}

fn schema(properties: &Json) -> Json {
    json!({"type": "object", "properties": properties})
}

fn list(of: &Json) -> Json {
    json!({"type": "array", "items": of})
}

fn int() -> Json {
    json!({"type": "integer"})
}

fn text() -> Json {
    json!({"type": "string"})
}

#[test]
fn of_scalars_and_texts() {
    let of = schema(
        &json!({"a": text(), "b": text(), "i": int(), "n": {"type": "number"}, "e": {"x-kubernetes-int-or-string": true},
        "d": {"type": "string", "format": "duration"}, "enum": {"type": "string", "enum": ["Pending", "Available"]},
        "s3": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}}}),
    );
    let value = json!({"a": "Rook takes 👑", "b": "Rook takes 👑", "i": 5, "n": 10.0, "e": "25%", "d": "1h2m3s4ms", "enum": "Pending",
        "s3": vec![1; 1000]});
    let table = [
        ("self.a == 'Rook takes 👑' && 'Rook takes 👑' == self.a && self.a == self.b", 14),
        ("self.a.startsWith('Rook')", 4),
        ("!self.a.startsWith('knight')", 5),
        ("self.a.matches('^[^0-9]*$')", 8),
        ("!self.a.matches('^[0-9]*$')", 7),
        ("type(self.a) == string", 4),
        ("size(self.a) == 12", 4),
        ("self.a.charAt(3) == 'k'", 4),
        ("self.a.indexOf('o') == 1", 4),
        ("self.a.replace(' ', 'x') == 'Rookxtakesx👑'", 7),
        ("self.a.split(' ') == ['Rook', 'takes', '👑']", 6),
        ("self.a.substring(5) == 'takes 👑'", 5),
        ("self.a.substring(4, 10).trim() == 'takes'", 6),
        ("self.a.lowerAscii() == self.a.lowerAscii()", 10),
        ("'%e'.format([3.14]) == '3.140000×10⁰⁰'", 3),
        ("'%o %o %o'.format([7, 8, 9]) == '7 10 11'", 2),
        ("double(self.i) < self.n", 6),
        ("double(5) < 10.0", 1),
        ("self.d == duration('1h2m') + duration('3s4ms')", 4),
        ("self.enum in ['Pending', 'Available']", 2),
        ("type(self.e) == int ? self.e == 1 : self.e == '25%'", 7),
        ("self.e == 1 || self.e == '25%'", 6),
        ("self.e != ['anything']", 3),
        (r"type(self.e) == string && self.e.matches(r'(\d+(\.\d+)?%)')", 10),
        ("sets.contains(self.s3, [1])", 1003),
        ("!sets.equivalent(self.s3, [1, 2, 3])", 6004),
    ];
    for (source, expected) in table {
        assert_eq!(actual(source, &of, &value), expected, "{source}");
    }
}

#[test]
fn of_lists_and_maps() {
    let maps = list(&schema(&json!({"k": text(), "v": text(), "v2": text()})));
    let of = schema(
        &json!({"array": list(&int()), "l": list(&int()), "map": {"type": "object", "additionalProperties": int()}, "lm": maps,
        "a1": schema(&json!({"b1": schema(&json!({"c1": int()})), "d2": schema(&json!({"e2": int()}))}))}),
    );
    let value = json!({"array": [1, 1, 2, 2, 3, 3, 4, 5], "l": [1, 2, 3], "map": {"b": 1, "d": 2}, "a1": {"b1": {"c1": 4}},
        "lm": [{"k": "a1", "v": "b1"}, {"k": "a2", "v": "b2"}, {"k": "a3", "v": "b3", "v2": "z"}]});
    let table = [
        ("1 in self.l", 5),
        ("self.l[0] in self.l", 8),
        ("self.l + [4, 5] == [1, 2, 3, 4, 5]", 4),
        ("has(self.l) && has(self.map)", 2),
        ("has(self.a1.b1.c1)", 3),
        ("!(has(self.a1.d2) && has(self.a1.d2.e2))", 3),
        ("self.array.all(e, e > 0)", 43),
        ("self.array.exists(e, e > 2)", 36),
        ("self.array.exists_one(e, e > 4)", 22),
        ("!self.array.all(e, e < 2)", 21),
        ("!self.array.exists(e, e < 0)", 52),
        ("size(self.array.filter(e, e%2 == 0)) == 3", 68),
        ("self.array.map(e, e * 20).filter(e, e > 50).exists(e, e == 60)", 194),
        ("self.array.all(i, e, e > 0)", 43),
        ("self.array.transformList(i, e, e > 2, e * 2).size() > 0", 77),
        ("self.array.transformList(i, e, e * 2).size() > 0", 117),
        ("!('a' in self.map)", 4),
        ("!has(self.map.a)", 3),
        ("self.map.all(k, self.map[k] > 0)", 17),
        ("!self.map.exists(k, self.map[k] == 3)", 20),
        ("self.map.exists_one(k, self.map[k] == 2)", 14),
        ("size(self.map.filter(k, self.map[k] > 1)) == 1", 26),
        ("self.map.all(k, v, v > 0)", 13),
        ("self.map.transformMap(k, v, v > 1, v + 1).size() == 1", 14),
        ("self.map.transformMap(k, v, v + 1).size() == 2", 15),
        ("self.map.transformMapEntry(k, v, v > 1, {k + '2': v + 1}).size() == 1", 45),
        ("self.map.transformMapEntry(k, v, {k + '2': v + 1}).size() == 2", 77),
        ("self.lm.all(m, m.k.startsWith('a'))", 21),
        ("self.lm.all(m, !has(m.v2) || m.v2 == 'z')", 21),
        ("self.lm.exists(m, m.k == 'a1' && m.v == 'b1')", 16),
        ("self.lm.map(m, m.v).exists(v, v == 'b1')", 55),
        ("self.lm.filter(m, has(m.v2) && m.v2 == 'z').map(m, m.v2).size() == 1", 39),
        ("self.lm.exists(m, m.v2 == 'z')", 24),
        ("!self.lm.all(m, m.v2 != 'z')", 22),
    ];
    for (source, expected) in table {
        assert_eq!(actual(source, &of, &value), expected, "{source}");
    }
}

#[test]
fn at_most() {
    let maps = list(&schema(&json!({"k": text(), "v": text(), "v2": text()})));
    let of = schema(
        &json!({"i": int(), "n": {"type": "number"}, "s": text(), "by": {"type": "string", "format": "byte"},
        "d": {"type": "string", "format": "duration"}, "t": {"type": "string", "format": "date-time"},
        "enum": {"type": "string", "enum": ["Pending", "Available"]}, "l": list(&int()), "array": list(&int()), "set": list(&text()), "set2": list(&text()),
        "map": {"type": "object", "additionalProperties": int()}, "lm": maps, "e": {"x-kubernetes-int-or-string": true},
        "short": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 5}}}),
    );
    let table = [
        ("int(self.n) == self.i", 5),
        ("bytes(self.s) == self.by", 629_150),
        ("string(self.i) == self.s", 314_578),
        ("string(self.by) == self.s", 629_150),
        ("duration(self.s) == self.d", 6),
        ("string(self.t) == self.s", 314_578),
        ("self.d == duration('1h2m') + duration('3s4ms')", 6),
        ("self.enum in ['Pending', 'Available']", 14),
        ("1 in self.l", 1_572_865),
        ("self.l + self.l == [1, 2, 3, 1, 2, 3]", 16),
        ("self.l.all(k, size(self.l) > 0)", 11_010_044),
        ("self.l.exists_one(k, self.l == [2])", 23_592_949),
        ("size(self.l.filter(k, size(self.l) > 1)) == 1", 26_738_686),
        ("self.set == ['c', 'b', 'a']", 13),
        ("self.set == self.set2", 104_862),
        ("self.set.all(k, size(self.set) > 0)", 7_340_028),
        ("'b' in self.map", 3),
        ("self.map.all(k, self.map[k] > 0)", 3_595_115),
        ("self.map.exists_one(k, self.map[k] == 2)", 2_696_338),
        ("size(self.map.filter(k, self.map[k] > 1)) == 1", 8_089_017),
        ("has(self.lm[0].v)", 3),
        ("self.lm.all(m, m.k.startsWith('a'))", 6_291_453),
        ("self.lm.exists(m, m.k == 'a1' && m.v == 'b1')", 10_485_753),
        ("self.lm.map(m, m.v).exists(v, v == 'b1')", 19_922_939),
        ("self.array.all(e, e > 0)", 7_864_318),
        ("self.array.map(e, e * 20).filter(e, e > 50).exists(e, e == 60)", 53_477_367),
        ("size(self.array.filter(e, e%2 == 0)) == 3", 25_165_823),
        ("type(self.e) == int ? self.e == 1 : self.e == '25%'", 7),
        ("self.e != ['anything']", 13),
        (
            "type(self.e) == int ? self.i <= self.e : double(self.i) / double(self.i) >= double(self.e.replace('%', '')) / 100.0",
            629_162,
        ),
    ];
    for (source, expected) in table {
        assert_eq!(estimated(source, &of), expected, "{source}");
    }
    assert!(estimated("self.short.all(x, x.matches('^a*$'))", &of) < 1000);
}
