//! The environment of an exec task: the daemon's, files of `KEY=VALUE` lines, then the action's own variables.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::{
    Parsed,
    config::{ExecConfig, Scalar},
    parse, render,
};
use crate::api::Params;

/// How an environment is made; later sources win.
#[derive(Debug)]
pub(super) struct Environment {
    inherit: bool,
    files: Vec<PathBuf>,
    variables: Vec<(String, Parsed)>,
}

impl Environment {
    pub(super) fn new(config: &ExecConfig, base_dir: &Path) -> Self {
        Self {
            inherit: !config.clear_env,
            files: config
                .env_file
                .iter()
                .map(|Scalar(path)| base_dir.join(path))
                .collect(),
            variables: config
                .env
                .iter()
                .map(|(name, Scalar(value))| (name.clone(), parse(value)))
                .collect(),
        }
    }

    pub(super) fn build(&self, params: &Params) -> Result<BTreeMap<OsString, OsString>, String> {
        let mut env: BTreeMap<OsString, OsString> = if self.inherit {
            std::env::vars_os().collect()
        } else {
            BTreeMap::new()
        };
        for path in &self.files {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("exec: env_file {}: {error}", path.display()))?;
            let variables = parse_env_file(&text).map_err(|(line, reason)| {
                format!("exec: env_file {}:{line}: {reason}", path.display())
            })?;
            env.extend(
                variables
                    .into_iter()
                    .map(|(name, value)| (name.into(), value.into())),
            );
        }
        for (name, value) in &self.variables {
            let value = render(value, params, &format!("env.{name}"))?;
            env.insert(name.into(), value.into());
        }
        Ok(env)
    }
}

/// Lines of `KEY=VALUE`, with `export `, comments and quotes as shells and systemd read them; nothing is expanded.
fn parse_env_file(text: &str) -> Result<Vec<(String, String)>, (usize, String)> {
    let mut variables = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let refused = |reason: &str| {
            (
                index + 1,
                format!("{reason}: expected KEY=VALUE, found {line:?}"),
            )
        };
        let assignment = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = assignment
            .split_once('=')
            .ok_or_else(|| refused("no `=`"))?;
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(refused("no name"));
        }
        let value = unquote(value.trim()).ok_or_else(|| refused("unclosed quote"))?;
        variables.push((name.to_owned(), value));
    }
    Ok(variables)
}

fn unquote(value: &str) -> Option<String> {
    match value.chars().next() {
        Some('\'') => value[1..].strip_suffix('\'').map(str::to_owned),
        Some('"') => {
            let inner = value[1..]
                .strip_suffix('"')
                .filter(|inner| !inner.ends_with('\\') || inner.ends_with("\\\\"))?;
            Some(unescape(inner))
        }
        _ => Some(
            value
                .split_once(" #")
                .map_or(value, |(value, _)| value.trim_end())
                .to_owned(),
        ),
    }
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            (c, false) => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_files_are_read_as_shells_write_them() {
        let text = "# comment\n\nA=1\nexport B=two words\nC='#'\nD=\"a\\nb\"\nE=x # note\nF=\n";
        let variables = parse_env_file(text).unwrap();
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "#"),
            ("D", "a\nb"),
            ("E", "x"),
            ("F", ""),
        ];
        assert_eq!(
            variables,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn a_bad_line_is_named_by_number() {
        for (text, reason) in [
            ("A=1\nnope\n", "no `=`"),
            ("A=1\n=x", "no name"),
            ("A=1\nB=\"x", "unclosed quote"),
        ] {
            let (line, error) = parse_env_file(text).unwrap_err();
            assert_eq!(line, 2);
            assert!(error.starts_with(reason), "{error}");
        }
    }
}
