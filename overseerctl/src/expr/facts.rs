//! What cel-go 0.27 says to expressions, and so do we: the answers are its own, written down by running it.

use super::{OutputFilter, Validator};

/// Expressions about a parameter that are refused, with the first line of the message.
#[rustfmt::skip]
const REFUSED_OF_VALUE: &[(&str, &str)] = &[
    ("foo == 1", "1:1: undeclared reference to 'foo' (in container '')"),
    ("value > 5", "1:7: found no matching overload for '_>_' applied to '(string, int)'"),
    ("value == 5", "1:7: found no matching overload for '_==_' applied to '(string, int)'"),
    ("value.split(',')", "1:12: undeclared reference to 'split' (in container '')"),
    ("value.lowerAscii()", "1:17: undeclared reference to 'lowerAscii' (in container '')"),
    ("value.trim()", "1:11: undeclared reference to 'trim' (in container '')"),
    ("value.substring(1)", "1:16: undeclared reference to 'substring' (in container '')"),
    ("value.replace('a', 'b')", "1:14: undeclared reference to 'replace' (in container '')"),
    ("value.format([1])", "1:13: undeclared reference to 'format' (in container '')"),
    ("base64.encode(b'x')", "1:1: undeclared reference to 'base64' (in container '')"),
    ("math.greatest(1, 2)", "1:1: undeclared reference to 'math' (in container '')"),
    ("sets.contains([1], [1])", "1:1: undeclared reference to 'sets' (in container '')"),
    ("optional.of(value)", "1:1: undeclared reference to 'optional' (in container '')"),
    ("optional.none()", "1:1: undeclared reference to 'optional' (in container '')"),
    ("max(1, 2)", "1:4: undeclared reference to 'max' (in container '')"),
    ("strings.quote(value)", "1:1: undeclared reference to 'strings' (in container '')"),
    ("isNaN(1.0)", "1:6: undeclared reference to 'isNaN' (in container '')"),
    ("has(value.x)", "1:4: type 'string' does not support field selection"),
    ("has(value)", "1:5: invalid argument to has() macro"),
    ("has(value, value)", "1:4: undeclared reference to 'has' (in container '')"),
    ("1 == 1.0", "1:3: found no matching overload for '_==_' applied to '(int, double)'"),
    ("1u == 1", "1:4: found no matching overload for '_==_' applied to '(uint, int)'"),
    ("1 < 2.0", "1:3: found no matching overload for '_<_' applied to '(int, double)'"),
    ("1 + 1u", "1:3: found no matching overload for '_+_' applied to '(int, uint)'"),
    ("1 + 1.0", "1:3: found no matching overload for '_+_' applied to '(int, double)'"),
    ("1.0 % 2.0", "1:5: found no matching overload for '_%_' applied to '(double, double)'"),
    ("value != null", "1:7: found no matching overload for '_!=_' applied to '(string, null)'"),
    ("value[0]", "1:6: found no matching overload for '_[_]' applied to '(string, int)'"),
    ("value.x", "1:6: type 'string' does not support field selection"),
    ("value.contains(5)", "1:15: found no matching overload for 'contains' applied to 'string.(int)'"),
    ("value.contains()", "1:15: found no matching overload for 'contains' applied to 'string.()'"),
    ("value.contains('a', 'b')", "1:15: found no matching overload for 'contains' applied to 'string.(string, string)'"),
    ("contains(value, 'a')", "1:9: found no matching overload for 'contains' applied to '(string, string)'"),
    ("size()", "1:5: found no matching overload for 'size' applied to '()'"),
    ("size(1)", "1:5: found no matching overload for 'size' applied to '(int)'"),
    ("value.size(1)", "1:11: found no matching overload for 'size' applied to 'string.(int)'"),
    ("matches(value)", "1:8: found no matching overload for 'matches' applied to '(string)'"),
    ("value.all(c, true)", "1:1: expression of type 'string' cannot be range of a comprehension (must be list, map, or dynamic)"),
    ("value.map(c, c)", "1:1: expression of type 'string' cannot be range of a comprehension (must be list, map, or dynamic)"),
    ("value && true", "1:1: expected type 'bool' but found 'string'"),
    ("value || 1", "1:1: expected type 'bool' but found 'string'"),
    ("value ? 1 : 2", "1:7: found no matching overload for '_?_:_' applied to '(string, int, int)'"),
    ("value == 'a' ? true : 'x'", "1:14: found no matching overload for '_?_:_' applied to '(bool, bool, string)'"),
    ("!value", "1:1: found no matching overload for '!_' applied to '(string)'"),
    ("-value", "1:1: found no matching overload for '-_' applied to '(string)'"),
    ("-true", "1:1: found no matching overload for '-_' applied to '(bool)'"),
    ("value in 'abc'", "1:7: found no matching overload for '@in' applied to '(string, string)'"),
    ("1 in ['a']", "1:3: found no matching overload for '@in' applied to '(int, list(string))'"),
    ("'a' + 1", "1:5: found no matching overload for '_+_' applied to '(string, int)'"),
    ("'a' * 3", "1:5: found no matching overload for '_*_' applied to '(string, int)'"),
    ("[1] - [2]", "1:5: found no matching overload for '_-_' applied to '(list(int), list(int))'"),
    ("[1] + ['a']", "1:5: found no matching overload for '_+_' applied to '(list(int), list(string))'"),
    ("{'a': 1}[1]", "1:9: found no matching overload for '_[_]' applied to '(map(string, int), int)'"),
    ("[1]['a']", "1:4: found no matching overload for '_[_]' applied to '(list(int), string)'"),
    ("[1][0.0]", "1:4: found no matching overload for '_[_]' applied to '(list(int), double)'"),
    ("[1].all(x, x)", "1:12: expected type 'bool' but found 'int'"),
    ("[1].filter(x, x)", "1:11: found no matching overload for '_?_:_' applied to '(int, list(int), list(int))'"),
    ("[1].exists(x, y)", "1:15: undeclared reference to 'y' (in container '')"),
    ("[1].exists(x.y, true)", "1:13: argument must be a simple name"),
    ("[1].all(x)", "1:8: undeclared reference to 'all' (in container '')"),
    ("[1].existsOne(x, true)", "1:14: undeclared reference to 'existsOne' (in container '')"),
    ("x == 1 && [1].all(x, x > 0)", "1:1: undeclared reference to 'x' (in container '')"),
    ("int(true)", "1:4: found no matching overload for 'int' applied to '(bool)'"),
    ("int([1])", "1:4: found no matching overload for 'int' applied to '(list(int))'"),
    ("bool(1)", "1:5: found no matching overload for 'bool' applied to '(int)'"),
    ("bytes(1)", "1:6: found no matching overload for 'bytes' applied to '(int)'"),
    ("string([1])", "1:7: found no matching overload for 'string' applied to '(list(int))'"),
    ("timestamp(1.5)", "1:10: found no matching overload for 'timestamp' applied to '(double)'"),
    ("duration(1.5)", "1:9: found no matching overload for 'duration' applied to '(double)'"),
    ("timestamp(0) + timestamp(0)", "1:14: found no matching overload for '_+_' applied to '(timestamp, timestamp)'"),
    ("duration('1h') - timestamp(0)", "1:16: found no matching overload for '_-_' applied to '(duration, timestamp)'"),
    ("duration('1s') * 2", "1:16: found no matching overload for '_*_' applied to '(duration, int)'"),
    ("timestamp(0).getHours(1)", "1:22: found no matching overload for 'getHours' applied to 'timestamp.(int)'"),
    ("duration('1s').getHours('UTC')", "1:24: found no matching overload for 'getHours' applied to 'duration.(string)'"),
    ("getHours(timestamp(0))", "1:9: found no matching overload for 'getHours' applied to '(timestamp)'"),
    ("type()", "1:5: found no matching overload for 'type' applied to '()'"),
    ("dyn()", "1:4: found no matching overload for 'dyn' applied to '()'"),
    ("null < 1", "1:6: found no matching overload for '_<_' applied to '(null, int)'"),
    ("true + true", "1:6: found no matching overload for '_+_' applied to '(bool, bool)'"),
    ("google.protobuf.Foo", "1:1: undeclared reference to 'google' (in container '')"),
    ("Foo{}", "1:4: undeclared reference to 'Foo' (in container '')"),
    ("value.?x", "1:6: unsupported syntax '.?'"),
    ("value[?0]", "1:6: unsupported syntax '[?'"),
    ("if == 1", "1:1: reserved identifier: if"),
    ("value == ", "1:10: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}"),
    ("(value", "1:7: Syntax error: missing ')' at '<EOF>'"),
    ("value = 'a'", "1:7: Syntax error: token recognition error at: '= '"),
    ("value === 'a'", "1:9: Syntax error: token recognition error at: '= '"),
    ("'abc", "1:1: Syntax error: token recognition error at: ''abc'"),
    (r"'\q' == value", r"1:1: Syntax error: token recognition error at: ''\q'"),
    ("value and true", "1:7: Syntax error: mismatched input 'and' expecting <EOF>"),
    ("9223372036854775808 == 1", "1:1: invalid int literal"),
    ("1e309 > 0.0", "1:1: invalid double literal"),
    ("18446744073709551616u == 1u", "1:1: invalid uint literal"),
    (r"'\ud800' == value", "1:1: invalid unicode code point"),
    ("[1,,2] == []", "1:4: Syntax error: mismatched input ',' expecting ']'"),
    ("{'a' 1} == {}", "1:6: Syntax error: missing ':' at '1'"),
    (" ", "1:2: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}"),
];

/// Expressions about a line of output that are refused.
#[rustfmt::skip]
const REFUSED_OF_OUTPUT: &[(&str, &str)] = &[
    ("data == 'x'", "1:1: undeclared reference to 'data' (in container '')"),
    ("output.data.split(' ')", "1:18: undeclared reference to 'split' (in container '')"),
    ("output[0] == 'x'", "1:7: found no matching overload for '_[_]' applied to '(map(string, dyn), int)'"),
    ("output.json.tags.foo()", "1:21: undeclared reference to 'foo' (in container '')"),
    ("json.level == 'error'", "1:1: undeclared reference to 'json' (in container '')"),
    ("value == 'x'", "1:1: undeclared reference to 'value' (in container '')"),
    ("output.data()", "1:12: undeclared reference to 'data' (in container '')"),
    ("output == 1", "1:8: found no matching overload for '_==_' applied to '(map(string, dyn), int)'"),
    ("1 in output", "1:3: found no matching overload for '@in' applied to '(int, map(string, dyn))'"),
    ("output + output", "1:8: found no matching overload for '_+_' applied to '(map(string, dyn), map(string, dyn))'"),
    ("output.all(k, k > 1)", "1:17: found no matching overload for '_>_' applied to '(string, int)'"),
    ("has(output)", "1:5: invalid argument to has() macro"),
];

/// Expressions about a parameter, a value, and the answer.
#[rustfmt::skip]
const ANSWERS_ON_VALUE: &[(&str, &str, Result<bool, &str>)] = &[
    ("value == 'a'", "a", Ok(true)),
    ("value == 'a'", "b", Ok(false)),
    ("value != ''", "", Ok(false)),
    ("value < 'b'", "a", Ok(true)),
    ("size(value) == 2", "é中", Ok(true)),
    ("value.size() > 3", "abcd", Ok(true)),
    ("value.contains('ell')", "hello", Ok(true)),
    ("value.startsWith('he') && value.endsWith('lo')", "hello", Ok(true)),
    ("value.matches('^[a-z]+$')", "abc", Ok(true)),
    ("value.matches('^[a-z]+$')", "abc1", Ok(false)),
    (r"value.matches(r'^\w+$')", "é", Ok(false)),
    (r"value.matches(r'^\d{2,3}$')", "123", Ok(true)),
    ("value.matches('[[a]')", "[", Ok(true)),
    ("value.matches('(')", "a", Err("CEL eval error: error parsing regexp: missing closing ): `(`")),
    ("value.matches('a**')", "a", Err("CEL eval error: error parsing regexp: invalid nested repetition operator: `**`")),
    ("matches(value, 'b')", "abc", Ok(true)),
    ("value.matches(value)", "a.c", Ok(true)),
    ("value in ['dev', 'prod']", "prod", Ok(true)),
    ("!(value in ['dev', 'prod'])", "qa", Ok(true)),
    ("value in {'a': 1}", "a", Ok(true)),
    ("int(value) > 5", "6", Ok(true)),
    ("int(value) > 5", "x", Err("CEL eval error: type conversion error from 'string' to 'int'")),
    ("int(value) > 5", " 6", Err("CEL eval error: type conversion error from 'string' to 'int'")),
    ("int(value) >= 1 && int(value) <= 65535", "70000", Ok(false)),
    ("uint(value) == 5u", "+5", Err("CEL eval error: type conversion error from 'string' to 'uint'")),
    ("double(value) < 1.5", "1_0.5e-1", Ok(true)),
    ("double(value) > 0.0", "1e400", Err("CEL eval error: type conversion error from 'string' to 'double'")),
    ("bool(value)", "T", Ok(true)),
    ("bool(value)", "yes", Err("CEL eval error: type conversion error from 'string' to 'bool'")),
    ("duration(value) > duration('1m')", "1h30m", Ok(true)),
    ("duration(value) > duration('1m')", "1d", Err("CEL eval error: type conversion error from 'string' to 'google.protobuf.Duration'")),
    ("duration(value) == duration('90m')", "1.5h", Ok(true)),
    ("timestamp(value) < timestamp('2030-01-01T00:00:00Z')", "2024-02-29T12:34:56+02:00", Ok(true)),
    ("timestamp(value) < timestamp(0)", "2024-02-30T00:00:00Z", Err("CEL eval error: type conversion error from 'string' to 'google.protobuf.Timestamp'")),
    ("timestamp(value).getHours() == 10", "2024-02-29T12:34:56+02:00", Ok(true)),
    ("timestamp(value).getHours('+02:00') == 12", "2024-02-29T12:34:56+02:00", Ok(true)),
    ("timestamp(value).getHours('-01:30') == 9", "2024-02-29T12:34:56+02:00", Ok(true)),
    ("timestamp(value).getHours('No/Where') == 9", "2024-02-29T12:34:56+02:00", Err("CEL eval error: unknown time zone No/Where")),
    ("timestamp(value).getDayOfYear() == 59", "2024-02-29T12:34:56Z", Ok(true)),
    ("string(timestamp(value)) == value", "2024-02-29T12:34:56.5+02:00", Ok(true)),
    ("string(duration(value)) == '5400s'", "1h30m", Ok(true)),
    ("string(1e6) == '1e+06'", "", Ok(true)),
    ("string(0.1) + string(1u) + string(-1) == '0.11-1'", "", Ok(true)),
    ("int(duration('1s')) == 1000000000", "", Ok(true)),
    ("duration(5) == duration('5ns')", "", Err("CEL eval error: type conversion error from 'int' to 'google.protobuf.Duration'")),
    ("1 / 0 == 1", "", Err("CEL eval error: division by zero")),
    ("1 % 0 == 1", "", Err("CEL eval error: modulus by zero")),
    ("9223372036854775807 + 1 > 0", "", Err("CEL eval error: integer overflow")),
    ("0u - 1u > 0u", "", Err("CEL eval error: unsigned integer overflow")),
    ("-(-9223372036854775808) > 0", "", Err("CEL eval error: integer overflow")),
    ("1 / 0 == 1 || true", "", Ok(true)),
    ("true || 1 / 0 == 1", "", Ok(true)),
    ("1 / 0 == 1 && false", "", Ok(false)),
    ("1 / 0 == 1 || false", "", Err("CEL eval error: division by zero")),
    ("dyn(1) == 1.0 && dyn(1) == 1u", "", Ok(true)),
    ("dyn(1) == 'a'", "", Ok(false)),
    ("dyn(1) < 'a'", "", Err("CEL eval error: no such overload")),
    ("[1, 2] == [1, 2] && {'a': 1} == {'a': 1}", "", Ok(true)),
    ("dyn([1]) == [1.0]", "", Ok(true)),
    (r"'\u00e9' == value", "é", Ok(true)),
    (r"r'\d' == value", r"\d", Ok(true)),
    ("'''a\nb''' == value", "a\nb", Ok(true)),
    ("b'abc' == bytes(value)", "abc", Ok(true)),
    ("[1, 2, 3].all(x, x > 0)", "", Ok(true)),
    ("[1, 0].all(x, 1 / x > 0)", "", Err("CEL eval error: division by zero")),
    ("[0, 2].exists(x, 1 / x == 0)", "", Ok(true)),
    ("[0, 1].exists_one(x, 1 / x > 0)", "", Err("CEL eval error: division by zero")),
    ("[1, 2, 2].exists_one(x, x == 1)", "", Ok(true)),
    ("[1, 2, 3].map(x, x * 2) == [2, 4, 6]", "", Ok(true)),
    ("[1, 2, 3].map(x, x > 1, x * 2) == [4, 6]", "", Ok(true)),
    ("[1, 2, 3].filter(x, x > 1) == [2, 3]", "", Ok(true)),
    ("{'a': 1}.map(k, k) == ['a']", "", Ok(true)),
    ("['a', 'b'].exists(p, value.startsWith(p))", "bx", Ok(true)),
    ("[1].exists(value, value == 1)", "", Ok(true)),
    ("[1].exists(x, .value == 'a')", "a", Ok(true)),
    ("[[1], [2]].all(x, x.all(y, y > 0))", "", Ok(true)),
    ("[1].exists(x, x > 0) && 1 < 2.0", "", Ok(true)),
    ("[1, 2][2] == 1", "", Err("CEL eval error: index out of bounds: 2")),
    ("{'a': 1}.b == 1", "", Err("CEL eval error: no such key: b")),
    ("has({'a': 1}.a) && !has({'a': 1}.b)", "", Ok(true)),
    ("has(dyn(1).a)", "", Ok(false)),
    ("has(dyn([1]).a)", "", Err("CEL eval error: unsupported index type 'string' in list")),
    ("{'a': 1, 'a': 2}.a == 2", "", Ok(true)),
    ("{1: 'a'}[dyn(1.0)] == 'a'", "", Ok(true)),
    ("dyn(null) in {1: 1}", "", Ok(false)),
    ("[1] + dyn({'a': 1}) == [1]", "", Err("CEL eval error: no such overload")),
    ("type(value) == string && type(1) != type(1u)", "", Ok(true)),
    ("type(timestamp(0)) == google.protobuf.Timestamp", "", Ok(true)),
    ("int == int", "", Ok(true)),
    ("value", "x", Err("CEL expression did not evaluate to bool (got string)")),
    ("1", "", Err("CEL expression did not evaluate to bool (got int64)")),
    ("1u", "", Err("CEL expression did not evaluate to bool (got uint64)")),
    ("1.5", "", Err("CEL expression did not evaluate to bool (got float64)")),
    ("b'a'", "", Err("CEL expression did not evaluate to bool (got []uint8)")),
    ("null", "", Err("CEL expression did not evaluate to bool (got structpb.NullValue)")),
    ("[1]", "", Err("CEL expression did not evaluate to bool (got []ref.Val)")),
    ("[1] + [2]", "", Err("CEL expression did not evaluate to bool (got []interface {})")),
    ("{'a': 1}", "", Err("CEL expression did not evaluate to bool (got map[ref.Val]ref.Val)")),
    ("type(1)", "", Err("CEL expression did not evaluate to bool (got string)")),
    ("duration('1s')", "", Err("CEL expression did not evaluate to bool (got time.Duration)")),
    ("timestamp(0)", "", Err("CEL expression did not evaluate to bool (got time.Time)")),
    ("[].map(x, x)", "", Err("CEL expression did not evaluate to bool (got []ref.Val)")),
];

/// A line of JSON that most of the following are about.
const JSON: &str = r#"{"level":"error","n":12,"f":1.5,"tags":["a","b"],"o":{"k":{"z":null}},"b":true,"big":9007199254740993,"z":null}"#;

/// Expressions about a line of standard output, the line, and whether it is kept.
#[rustfmt::skip]
const ANSWERS_ON_OUTPUT: &[(&str, &str, bool)] = &[
    ("output.data.contains('x')", "a x b", true),
    ("output.data.contains('x')", "abc", false),
    ("output.stream == 'stdout'", "", true),
    ("output['stream'] == 'stderr'", "", false),
    ("output.json.level == 'error'", JSON, true),
    ("output.json.level == 'error'", "plain", false),
    ("output.json.level == 'error'", "[1]", false),
    ("output.json.level == 'error'", r#"{"level":"info","level":"error"}"#, true),
    ("has(output.json.level)", "plain", false),
    ("!has(output.json.level)", "plain", true),
    ("!has(output.json.level)", "null", true),
    ("has(output.json.o.k.z)", JSON, true),
    ("has(output.json.n.x)", JSON, false),
    ("!has(output.json.tags.x)", JSON, false),
    ("has(output.json.q.x)", JSON, false),
    ("output.json.n == 12", JSON, true),
    ("output.json.n == 12.0 && output.json.n == 12u", JSON, true),
    ("output.json.n > 10 && output.json.n < 12.5", JSON, true),
    ("output.json.n + 1 == 13", JSON, false),
    ("output.json.n + 1.0 == 13.0", JSON, true),
    ("int(output.json.n) % 5 == 2", JSON, true),
    ("output.json.n in [1, 12]", JSON, true),
    ("type(output.json.n) == double", JSON, true),
    ("output.json.big == 9007199254740992.0", JSON, true),
    ("int(output.json.big) == 9007199254740993", JSON, false),
    ("output.json.b", JSON, true),
    ("output.json.n", JSON, false),
    ("output.json.b && output.json.f >= 1.5", JSON, true),
    ("'a' in output.json.tags", JSON, true),
    ("output.json.tags.exists(t, t == 'b')", JSON, true),
    ("output.json.tags.size() == 2 && size(output.json.o) == 1", JSON, true),
    ("output.json.tags[0] == 'a'", JSON, true),
    ("output.json.tags[5] == 'a'", JSON, false),
    ("output.json.tags + ['c'] == ['a', 'b', 'c']", JSON, true),
    ("output.json.o.k.z == null", JSON, true),
    ("output.json.z in output.json", JSON, false),
    ("!(output.json.z in output.json)", JSON, true),
    ("output.json.q == 1 || true", JSON, true),
    ("output.json.q == 1 || output.data.contains('error')", JSON, true),
    ("output.json.q == 1", JSON, false),
    ("output.json == {}", "plain", true),
    ("output.json == {}", "{} x", true),
    ("output.json == {}", r#"{"a":1e400}"#, true),
    ("output.json.s == '\u{fffd}'", r#"{"s":"\ud800"}"#, true),
    ("size(output) == 3 && 'data' in output", "x", true),
    ("output.exists(k, output[k] == 'x')", "x", true),
    ("output['da' + 'ta'] == 'x'", "x", true),
    ("output.foo == 'x'", "x", false),
    ("[{'data': 1}].exists(output, output.data == 1)", "x", true),
    ("[1].exists(x, .output.data == 'x')", "x", true),
    ("output.data.matches('ERROR|WARN')", "[WARN] disk", true),
    ("output.data.matches('(?i)error')", "Error", true),
    ("output.data.matches(output.json.level)", JSON, true),
    ("!output.data.matches('(')", "x", false),
    ("output.json.level.startsWith('err') ? output.json.n == 12 : false", JSON, true),
    ("output.data", "x", false),
    ("output.json", JSON, false),
];

/// The message of an error up to its first line break, without what all have in front.
fn first_line(error: &super::ExprError) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("ERROR: <input>:")
        .unwrap_or(line)
        .to_owned()
}

#[test]
fn expressions_about_values_are_refused_like_in_cel_go() {
    for (expression, message) in REFUSED_OF_VALUE {
        let error = Validator::compile(expression).expect_err(expression);
        assert_eq!(first_line(&error), *message, "{expression}");
        assert!(!error.hint().is_empty(), "{expression}");
    }
}

#[test]
fn expressions_about_output_are_refused_like_in_cel_go() {
    for (expression, message) in REFUSED_OF_OUTPUT {
        let error = OutputFilter::compile(expression).expect_err(expression);
        assert_eq!(first_line(&error), *message, "{expression}");
    }
}

#[test]
fn values_are_judged_like_in_cel_go() {
    for (expression, value, answer) in ANSWERS_ON_VALUE {
        let validator =
            Validator::compile(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
        let expected = answer.map_err(str::to_owned);
        assert_eq!(
            validator.check(value),
            expected,
            "{expression} on {value:?}"
        );
    }
}

#[test]
fn lines_are_kept_like_in_cel_go() {
    for (expression, line, kept) in ANSWERS_ON_OUTPUT {
        let filter = OutputFilter::compile(expression)
            .unwrap_or_else(|error| panic!("{expression}: {error}"));
        assert_eq!(
            filter.keep("stdout", line),
            *kept,
            "{expression} on {line:?}"
        );
    }
}
