//! How an image is tested. What is described but never run is no test: without commands and entry point the image is published
//! as it was built, which is what the original does.

use std::collections::BTreeSet;

use super::{Wrong, is_variable, is_word, secret};
use crate::{
    api::{JobConfig, TestConfig, TestConstraint, VaultSecret},
    spec::{Constraint, Defaults, Test, TestSecret},
};

/// Most commands of one job; each is a run of its own.
const COMMANDS: usize = 256;

/// The comparisons that Nomad knows: `nomad/structs/structs.go` (`Constraint*`) and `scheduler/feasible` (`checkConstraint`).
const OPERANDS: [&str; 19] = [
    "=",
    "==",
    "is",
    "!=",
    "not",
    "<",
    "<=",
    ">",
    ">=",
    "distinct_hosts",
    "distinct_property",
    "is_not_set",
    "is_set",
    "regexp",
    "semver",
    "set_contains",
    "set_contains_all",
    "set_contains_any",
    "version",
];

/// The original's rules for secrets, in its words.
pub(super) fn vault_rules(config: &JobConfig, wrong: &mut Wrong) {
    let Some(test) = &config.test else { return };
    if !test.vault_secrets.is_empty() && test.vault_policies.is_empty() {
        wrong.say("vault_policies is required when vault_secrets are specified");
    }
    for (index, secret) in test.vault_secrets.iter().enumerate() {
        let empty = |text: &String| text.trim().is_empty();
        if empty(&secret.path) {
            wrong.say(format!("vault_secrets[{index}]: path is required"));
        }
        if secret.fields.is_empty() {
            wrong.say(format!(
                "vault_secrets[{index}]: fields map cannot be empty"
            ));
        }
        if secret
            .fields
            .iter()
            .any(|(field, name)| empty(field) || empty(name))
        {
            wrong.say(format!(
                "vault_secrets[{index}]: invalid field mapping (empty field or env var)"
            ));
        }
    }
}

pub(super) fn test(config: &JobConfig, defaults: &Defaults, wrong: &mut Wrong) -> Option<Test> {
    let test = config.test.as_ref()?;
    if !test.python_command.trim().is_empty() {
        wrong.say("test.python_command: tests from outside are not known here; use test.commands");
    }
    commands(test, wrong);
    variables(test, wrong);
    policies(test, defaults, wrong);
    let secrets = test.vault_secrets.iter().enumerate();
    let secrets = secrets
        .filter_map(|(index, secret)| vault_secret(index, secret, defaults, wrong))
        .collect();
    let constraints = test.constraints.iter().enumerate();
    let constraints = constraints
        .map(|(index, asked)| constraint(index, asked, wrong))
        .collect();
    (!test.commands.is_empty() || test.entry_point).then(|| Test {
        commands: test.commands.clone(),
        entry_point: test.entry_point,
        env: test.env.clone(),
        secrets,
        gpu: test.gpu_required || test.gpu_count > 0,
        constraints,
        mode: test.mode.unwrap_or_default(),
    })
}

fn commands(test: &TestConfig, wrong: &mut Wrong) {
    if test.commands.len() > COMMANDS {
        wrong.say(format!(
            "test.commands: {} are more than {COMMANDS}",
            test.commands.len()
        ));
    }
    for (index, command) in test.commands.iter().enumerate() {
        if command.trim().is_empty() {
            wrong.say(format!(
                "test.commands[{index}] is empty and would test nothing"
            ));
        }
        if command.contains('\0') {
            wrong.say(format!("test.commands[{index}] has a NUL in it"));
        }
    }
}

/// Names of variables, each set by one place only.
fn variables(test: &TestConfig, wrong: &mut Wrong) {
    let mut seen = BTreeSet::new();
    let secret = test
        .vault_secrets
        .iter()
        .flat_map(|secret| secret.fields.values());
    for name in test
        .env
        .keys()
        .chain(secret)
        .filter(|name| !name.is_empty())
    {
        if !is_variable(name) {
            wrong.say(format!(
                "test: `{}` is no name of a variable (letters, digits and `_`)",
                name.escape_debug()
            ));
        }
        if !seen.insert(name) {
            wrong.say(format!(
                "test: the variable `{}` is set twice",
                name.escape_debug()
            ));
        }
    }
    for (name, value) in &test.env {
        if value.contains('\0') {
            wrong.say(format!(
                "test.env: the value of `{}` has a NUL in it",
                name.escape_debug()
            ));
        }
    }
}

/// Policies are names of roles, of which the service may allow some only.
fn policies(test: &TestConfig, defaults: &Defaults, wrong: &mut Wrong) {
    for policy in &test.vault_policies {
        let allowed = &defaults.vault_roles;
        if !is_word(policy) {
            wrong.say(format!(
                "test.vault_policies: `{}` is no name of a policy",
                policy.escape_debug()
            ));
        } else if !allowed.is_empty() && !allowed.contains(policy) {
            wrong.say(format!(
                "test.vault_policies: `{policy}` is not among the roles of this service (known: {})",
                allowed.join(", ")
            ));
        }
    }
}

fn vault_secret(
    index: usize,
    asked: &VaultSecret,
    defaults: &Defaults,
    wrong: &mut Wrong,
) -> Option<TestSecret> {
    let place = format!("test.vault_secrets[{index}]");
    for field in asked.fields.keys().filter(|field| !field.trim().is_empty()) {
        if !is_word(field) {
            wrong.say(format!(
                "{place}: `{}` is no name of a field (letters, digits, `_`, `.` and `-`)",
                field.escape_debug()
            ));
        }
    }
    if asked.path.trim().is_empty() {
        return None; // said already
    }
    Some(TestSecret {
        at: secret(&place, asked.path.trim(), defaults, wrong)?,
        fields: asked.fields.clone(),
    })
}

fn constraint(index: usize, asked: &TestConstraint, wrong: &mut Wrong) -> Constraint {
    let place = format!("test.constraints[{index}]");
    let (attribute, value) = (asked.attribute.trim(), asked.value.trim());
    let operand = match asked.operand.trim() {
        "" => "=",
        operand => operand,
    };
    if !OPERANDS.contains(&operand) {
        wrong.say(format!(
            "{place}.operand: `{}` is not known (known: {})",
            operand.escape_debug(),
            OPERANDS.join(", ")
        ));
    }
    let needs_attribute = operand != "distinct_hosts";
    if (needs_attribute || !attribute.is_empty()) && !is_attribute(attribute) {
        wrong.say(format!(
            "{place}.attribute: `{}` is not of the form ${{attr.cpu.arch}}",
            attribute.escape_debug()
        ));
    }
    if value.chars().any(char::is_control) || value.len() > 1024 {
        wrong.say(format!(
            "{place}.value: it is one line of at most 1024 characters"
        ));
    }
    Constraint {
        attribute: attribute.to_owned(),
        operand: operand.to_owned(),
        value: value.to_owned(),
    }
}

/// `${meta.zone}`: one interpolation of a node's property, or a plain word.
fn is_attribute(text: &str) -> bool {
    let name = text
        .strip_prefix("${")
        .and_then(|inner| inner.strip_suffix('}'))
        .unwrap_or(text);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
    !name.is_empty() && name.len() <= 256 && name.bytes().all(plain)
}
