//! What is said of expressions that cannot be compiled.

use serde_json::json;

use super::result_of;

#[test]
fn wrong_expressions_are_told_as_cel_go_tells_them() {
    let schema = json!({"type": "object", "properties": {
        "name": {"type": "string"}, "count": {"type": "integer"}, "list": {"type": "array", "items": {"type": "string"}},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}}, "int-or": {"x-kubernetes-int-or-string": true}}});
    let table = [
        ("self.x == 1", "ERROR: <input>:1:5: undefined field 'x'\n | self.x == 1\n | ....^"),
        (
            "self.count + self.name == 1",
            "ERROR: <input>:1:12: found no matching overload for '_+_' applied to '(int, string)'\n | self.count + self.name == 1\n | ...........^",
        ),
        ("foo == 1", "ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo == 1\n | ^"),
        ("foo(1)", "ERROR: <input>:1:4: undeclared reference to 'foo' (in container '')\n | foo(1)\n | ...^"),
        (
            "self.name.foo()",
            "ERROR: <input>:1:14: undeclared reference to 'foo' (in container '')\n | self.name.foo()\n | .............^",
        ),
        (
            "self.name.startsWith(1)",
            "ERROR: <input>:1:21: found no matching overload for 'startsWith' applied to 'string.(int)'\n | self.name.startsWith(1)\n | ....................^",
        ),
        (
            "self.count.all(x, true)",
            "ERROR: <input>:1:5: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)\n | self.count.all(x, true)\n | ....^",
        ),
        (
            "self.name && true",
            "ERROR: <input>:1:5: expected type 'bool' but found 'string'\n | self.name && true\n | ....^",
        ),
        (
            "self.name == null",
            "ERROR: <input>:1:11: found no matching overload for '_==_' applied to '(string, null)'\n | self.name == null\n | ..........^",
        ),
        ("[1, 'a'] == []", "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a'] == []\n | ....^"),
        (
            "self.list.map(self.name, true)",
            "ERROR: <input>:1:19: argument is not an identifier\n | self.list.map(self.name, true)\n | ..................^",
        ),
        ("has(self)", "ERROR: <input>:1:5: invalid argument to has() macro\n | has(self)\n | ....^"),
        (
            "self.list.all(i, i, true)",
            "ERROR: <input>:1:18: duplicate variable name: i\n | self.list.all(i, i, true)\n | .................^",
        ),
        ("if == 1", "ERROR: <input>:1:1: reserved identifier: if\n | if == 1\n | ^"),
        (
            "duration('x') == duration('1s')",
            "ERROR: <input>:1:10: invalid duration argument\n | duration('x') == duration('1s')\n | .........^",
        ),
        (
            "self.name.matches('(')",
            "ERROR: <input>:1:19: invalid matches argument\n | self.name.matches('(')\n | ..................^",
        ),
        (
            "'%d'.format([self.name])",
            "ERROR: <input>:1:18: error during formatting: decimal clause can only be used on integers, was given string\n | '%d'.format([self.name])\n | .................^",
        ),
        (
            "'%d'.format([1, 2])",
            "ERROR: <input>:1:12: too many arguments supplied to string.format (expected 1, got 2)\n | '%d'.format([1, 2])\n | ...........^",
        ),
        (
            "self.x ||\n  self.name == 'é' + self.y",
            "ERROR: <input>:1:5: undefined field 'x'\n | self.x ||\n | ....^\nERROR: <input>:2:26: undefined field 'y'\n |   self.name == 'é' + self.y\n | ................．........^",
        ),
        (
            "self.count ==",
            "ERROR: <input>:1:14: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | self.count ==\n | .............^",
        ),
        ("(1", "ERROR: <input>:1:3: Syntax error: missing ')' at '<EOF>'\n | (1\n | ..^"),
        ("1 )", "ERROR: <input>:1:3: Syntax error: extraneous input ')' expecting <EOF>\n | 1 )\n | ..^"),
        ("1 @", "ERROR: <input>:1:3: Syntax error: token recognition error at: '@'\n | 1 @\n | ..^"),
        ("9223372036854775808", "ERROR: <input>:1:1: invalid int literal\n | 9223372036854775808\n | ^"),
    ];
    for (source, expected) in table {
        assert_eq!(result_of(source, &schema, &json!({})), expected, "{source}");
    }
}
