//! One table a library.

use super::{check, holds};

#[test]
fn standard_functions() {
    check(&[
        ("size('héllo')", "5"),
        ("size(b'h\\xc3\\xa9')", "3"),
        ("[1, 2].size()", "2"),
        ("int('42') + int(1.9) + int(2u)", "45"),
        ("int('x')", r#"error: strconv.ParseInt: parsing "x": invalid syntax"#),
        ("int(1e30)", "error: integer overflow"),
        ("uint(-1)", "error: unsigned integer overflow"),
        ("uint('7')", "7u"),
        ("double('1.5') + double(1)", "2.5"),
        ("string(1) + string(1.5) + string(true) + string(b'x') + string(2u)", r#""11.5truex2""#),
        ("string(1e30)", r#""1e+30""#),
        ("string(b'\\xff')", "error: invalid UTF-8 in bytes, cannot convert to string"),
        ("bool('true') && bool('1')", "true"),
        ("bytes('a')", r#"b"a""#),
        ("string(duration('90m'))", r#""5400s""#),
        ("duration('1h') + duration('1.5s')", "3601.5s"),
        ("timestamp('2020-02-28T23:00:00Z') + duration('2h')", "2020-02-29T01:00:00Z"),
        ("timestamp('2020-01-01T00:00:00Z') - timestamp('2019-12-31T00:00:00Z')", "86400s"),
        ("timestamp(0)", "1970-01-01T00:00:00Z"),
        ("timestamp('9999-12-31T23:59:59Z')", "9999-12-31T23:59:59Z"),
        ("timestamp('9999-12-31T23:59:59Z') + duration('1s')", "error: timestamp overflow"),
        ("int(timestamp('1970-01-01T00:01:00Z'))", "60"),
        ("timestamp('2024-03-10T12:34:56.789Z').getFullYear()", "2024"),
        ("timestamp('2024-03-10T12:34:56.789Z').getMonth()", "2"),
        ("timestamp('2024-03-10T12:34:56.789Z').getDate()", "10"),
        ("timestamp('2024-03-10T12:34:56.789Z').getDayOfMonth()", "9"),
        ("timestamp('2024-03-10T12:34:56.789Z').getDayOfYear()", "69"),
        ("timestamp('2024-03-10T12:34:56.789Z').getDayOfWeek()", "0"),
        ("timestamp('2024-03-10T12:34:56.789Z').getHours('America/New_York')", "8"),
        ("timestamp('2024-03-10T12:34:56.789Z').getHours('-05:00')", "7"),
        ("timestamp('2024-03-10T12:34:56.789Z').getMilliseconds()", "789"),
        ("duration('90m').getHours() + duration('90m').getMinutes()", "91"),
    ]);
    holds(&[
        "'abc'.startsWith('ab') && 'abc'.endsWith('bc') && 'abc'.contains('b') && !'abc'.contains('x')",
        "'abc'.matches('^[a-c]+$') && matches('abc', 'b') && !'abc'.matches('^b$')",
        "duration('60s') == duration('1m') && duration('-1s') < duration('0s')",
    ]);
}

#[test]
fn strings() {
    check(&[
        ("'héllo'.charAt(1)", r#""é""#),
        ("'a'.charAt(1)", r#""""#),
        ("'a'.charAt(2)", "error: index out of range: 2"),
        ("'hello mellow'.indexOf('ello')", "1"),
        ("'hello mellow'.indexOf('ello', 2)", "7"),
        ("'hello'.indexOf('x')", "-1"),
        ("'hello'.indexOf('')", "0"),
        ("'hello mellow'.lastIndexOf('ello')", "7"),
        ("'hello mellow'.lastIndexOf('ello', 6)", "1"),
        ("'hello'.lastIndexOf('')", "5"),
        ("'hello'.indexOf('l', -1)", "error: index out of range: -1"),
        ("['a', 'b'].join()", r#""ab""#),
        ("['a', 'b'].join('-')", r#""a-b""#),
        ("'TacoCat é'.lowerAscii()", r#""tacocat é""#),
        ("'TacoCat é'.upperAscii()", r#""TACOCAT é""#),
        ("'he he'.replace('he', 'we')", r#""we we""#),
        ("'he he'.replace('he', 'we', 1)", r#""we he""#),
        ("'ab'.replace('', '-')", r#""-a-b-""#),
        ("'a,b,c'.split(',')", r#"["a", "b", "c"]"#),
        ("'a,b,c'.split(',', 2)", r#"["a", "b,c"]"#),
        ("'a,b,c'.split(',', 0)", "[]"),
        ("'abc'.split('')", r#"["a", "b", "c"]"#),
        ("'tacocat'.substring(4)", r#""cat""#),
        ("'tacocat'.substring(0, 4)", r#""taco""#),
        ("'a'.substring(1, 0)", "error: invalid substring range. start: 1, end: 0"),
        ("'a'.substring(2)", "error: index out of range: 2"),
        ("'  a \\t'.trim()", r#""a""#),
        ("strings.quote('a\"\\n')", r#""\"a\\\"\\n\"""#),
        ("'%s %d %f %x %X %b %o %%'.format(['a', 1, 1.5, 255, 'z', 5, 8])", r#""a 1 1.500000 ff 7A 101 10 %""#),
        ("'%.2f %.1f'.format([1234.567, -0.25])", r#""1,234.57 -0.2""#),
        ("'%e'.format([3.14])", r#""3.140000×10⁰⁰""#),
        ("'%s'.format([[1, 'a', {'k': true}]])", r#""[1, \"a\", {\"k\":true}]""#),
        ("'%s %s'.format([duration('1m'), timestamp(0)])", r#""60s 1970-01-01T00:00:00Z""#),
        ("'%s'.format([null])", r#""null""#),
        (
            "'%d'.format([dyn('x')])",
            "error: error during formatting: decimal clause can only be used on integers, was given string",
        ),
    ]);
}

#[test]
fn lists() {
    check(&[
        ("[1, 3, 2].sum()", "6"),
        ("[1.5, 2.5].sum()", "4.0"),
        ("[duration('1s'), duration('2s')].sum()", "3s"),
        ("[3, 1, 2].min()", "1"),
        ("['a', 'c'].max()", r#""c""#),
        ("[1].filter(x, x > 1).min()", "error: min called on empty list"),
        ("[1, 2, 2].indexOf(2)", "1"),
        ("[1, 2, 2].lastIndexOf(2)", "2"),
        ("[1].indexOf(5)", "-1"),
        ("[1, 2, 2, 1].distinct()", "[1, 2]"),
        ("[[1], [2, 3]].flatten()", "[1, 2, 3]"),
        ("[[[1], [2]], [[3]]].flatten(2)", "[1, 2, 3]"),
        ("[1, 2, 3].reverse()", "[3, 2, 1]"),
        ("[1, 2, 3, 4].slice(1, 3)", "[2, 3]"),
        ("[1].slice(0, 2)", "error: cannot slice(0, 2), list is length 1"),
        ("[3, 1, 2].sort()", "[1, 2, 3]"),
        ("['b', 'a'].sort()", r#"["a", "b"]"#),
        ("lists.range(4)", "[0, 1, 2, 3]"),
    ]);
    holds(&["[1, 2, 2].isSorted() && !['b', 'a'].isSorted() && [1].filter(x, false).isSorted()"]);
}

#[test]
fn sets() {
    holds(&[
        "sets.contains([1, 2, 3], [2, 1]) && !sets.contains([1], [2])",
        "sets.equivalent([1, 2, 2], [2, 1]) && !sets.equivalent([1], [1, 2])",
        "sets.intersects([1, 2], [2, 3]) && !sets.intersects([1], [2])",
    ]);
}

#[test]
fn regex() {
    check(&[
        ("'abc 123'.find('[0-9]+')", r#""123""#),
        ("'abc'.find('[0-9]+')", r#""""#),
        ("'1 22 333'.findAll('[0-9]+')", r#"["1", "22", "333"]"#),
        ("'1 22 333'.findAll('[0-9]+', 2)", r#"["1", "22"]"#),
    ]);
}

#[test]
fn urls() {
    check(&[
        ("url('https://user@example.com:80/a b?k=v1&k=v2&e=').getScheme()", r#""https""#),
        ("url('https://user@example.com:80/').getHost()", r#""example.com:80""#),
        ("url('https://example.com:80/').getHostname()", r#""example.com""#),
        ("url('https://[::1]:80/').getHostname()", r#""::1""#),
        ("url('https://[::1]:80/').getPort()", r#""80""#),
        ("url('https://example.com/with space').getEscapedPath()", r#""/with%20space""#),
        ("url('https://example.com/?k=v1&k=v2&e=').getQuery()", r#"{"e": [""], "k": ["v1", "v2"]}"#),
        ("url('/path').getHost()", r#""""#),
    ]);
    holds(&[
        "isURL('https://a') && isURL('/abs') && !isURL('../rel') && !isURL('a b') && !isURL('https://a:80x') && !isURL('')",
        "url('https://a/') == url('https://a/')",
    ]);
}

#[test]
fn quantities() {
    holds(&[
        "isQuantity('1.5Gi') && isQuantity('1m') && !isQuantity('1.3GB') && !isQuantity('x')",
        "quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('1m').isLessThan(quantity('1'))",
        "quantity('1k').compareTo(quantity('1000')) == 0 && quantity('2').compareTo(quantity('1')) == 1",
        "quantity('50k').asInteger() == 50000 && quantity('1.5').isInteger() == false",
        "quantity('1500m').asApproximateFloat() == 1.5 && sign(quantity('-5')) == -1",
        "quantity('50k').add(quantity('10')).sub(10) == quantity('50k') && quantity('5').add(1) == quantity('6')",
    ]);
    check(&[
        ("quantity('1.5').asInteger()", "error: cannot convert value to integer"),
        (
            "quantity('x')",
            "error: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ]);
}

#[test]
fn addresses() {
    holds(&[
        "isIP('127.0.0.1') && isIP('::1') && !isIP('1.2.3') && !isIP('::ffff:1.2.3.4') && !isIP('fe80::1%eth0')",
        "ip('127.0.0.1').family() == 4 && ip('::1').family() == 6 && ip('::1').isLoopback()",
        "ip('0.0.0.0').isUnspecified() && ip('224.0.0.1').isLinkLocalMulticast() && ip('fe80::1').isLinkLocalUnicast()",
        "ip('192.168.0.1').isGlobalUnicast() && !ip('255.255.255.255').isGlobalUnicast()",
        "ip.isCanonical('127.0.0.1') && !ip.isCanonical('2001:DB8::ABCD') && string(ip('2001:DB8::ABCD')) == '2001:db8::abcd'",
        "cidr('192.168.0.0/24').containsIP('192.168.0.1') && !cidr('192.168.0.0/24').containsIP(ip('192.168.1.1'))",
        "cidr('192.168.0.0/24').containsCIDR('192.168.0.0/25') && !cidr('192.168.0.0/24').containsCIDR(cidr('192.168.0.0/23'))",
        "cidr('192.168.0.5/24').masked() == cidr('192.168.0.0/24') && cidr('::1/128').prefixLength() == 128",
        "cidr('192.168.0.5/24').ip() == ip('192.168.0.5') && string(cidr('10.0.0.0/8')) == '10.0.0.0/8'",
        "isCIDR('10.0.0.0/8') && !isCIDR('10.0.0.0/33') && !isCIDR('10.0.0.0/08') && type(ip('::1')) == net.IP",
        "cidr('0.0.0.0/0').containsIP('8.8.8.8')",
    ]);
}

#[test]
fn formats() {
    check(&[
        ("format.dns1123Label().validate('my-name')", "none"),
        ("format.dns1123Label().validate('My').value().size()", "1"),
        ("format.named('dns1123Subdomain').value().validate('a.b')", "none"),
        ("format.named('nope')", "none"),
        ("format.uuid().validate('123e4567-e89b-12d3-a456-426614174000')", "none"),
        ("format.uuid().validate('x')", r#"some(["does not match the UUID format"])"#),
        ("format.byte().validate('aGVsbG8=')", "none"),
        ("format.date().validate('2021-13-01')", r#"some(["invalid date"])"#),
        ("format.datetime().validate('2021-01-01T00:00:00Z')", "none"),
        ("format.uri().validate('https://a')", "none"),
        ("format.labelValue().validate('a b').hasValue()", "true"),
        ("format.dns1035LabelPrefix().validate('a-')", "none"),
    ]);
}

#[test]
fn versions() {
    holds(&[
        "isSemver('1.2.3') && isSemver('1.2.3-alpha.1+build') && !isSemver('1.2') && !isSemver('v1.2.3') && !isSemver('1.02.3')",
        "isSemver('v1.2', true) && semver('v1.02', true) == semver('1.2.0')",
        "semver('1.2.3').major() == 1 && semver('1.2.3').minor() == 2 && semver('1.2.3').patch() == 3",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.0.0').isGreaterThan(semver('1.0.0-rc.1'))",
        "semver('1.0.0-alpha.2').compareTo(semver('1.0.0-alpha.10')) == -1",
        "semver('1.0.0+a') == semver('1.0.0+b')",
    ]);
}
