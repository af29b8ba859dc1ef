//! The reference, docs/buildctl/configuration.md, names every key, variable and field that there is, and no other key.

use schemars::{JsonSchema, schema_for};

use crate::{
    api::{JobConfig, TestConfig},
    settings::{KEYS, seed},
};

const REFERENCE: &str = include_str!("../../../../docs/buildctl/configuration.md");

/// The part behind a heading, up to another one.
fn part(from: &str, to: &str) -> &'static str {
    let (_, rest) = REFERENCE.split_once(from).unwrap();
    rest.split_once(to).unwrap().0
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The names in a row's first cell: `a.b`, `.c` are `a.b` and `a.c`.
fn names(row: &str) -> Vec<String> {
    let cell = row.trim_start_matches('|').split('|').next().unwrap();
    let mut above = String::new();
    let full = |name: &str| {
        if let Some(last) = name.strip_prefix('.') {
            return format!("{above}.{last}");
        }
        above = name.rsplit_once('.').map_or("", |(above, _)| above).into();
        name.to_owned()
    };
    quoted(cell).map(full).collect()
}

#[test]
fn it_has_every_key_of_the_service_and_no_other() {
    let rows = part("## The service", "### Variables of the original")
        .lines()
        .filter(|line| line.starts_with("| `"));
    let mut documented: Vec<String> = rows.flat_map(names).collect();
    let mut keys: Vec<String> = KEYS.map(str::to_owned).to_vec();
    keys.push("credentials".to_owned());
    documented.sort();
    keys.sort();
    assert_eq!(documented, keys);
}

#[test]
fn it_has_every_variable_of_the_original() {
    let text = part("### Variables of the original", "## The client");
    let documented: Vec<&str> = quoted(text).collect();
    for (name, _) in seed::VARIABLES {
        assert!(documented.contains(&name), "{name}");
    }
}

#[test]
fn it_has_every_field_of_a_job() {
    let text = part("## Job files", "### References to secrets");
    let documented: Vec<&str> = quoted(text).collect();
    let of_test = fields::<TestConfig>().into_iter();
    let of_test = of_test.map(|field| format!("test.{field}"));
    // Which of these there are and what they replace is said below the table.
    let apart = ["test", "test.gpu_count"];
    let missing: Vec<String> = fields::<JobConfig>()
        .into_iter()
        .chain(of_test)
        .filter(|field| !apart.contains(&&**field) && !documented.contains(&&**field))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn fields<T: JsonSchema>() -> Vec<String> {
    let schema = schema_for!(T).to_value();
    let properties = schema["properties"].as_object().unwrap();
    properties.keys().cloned().collect()
}
