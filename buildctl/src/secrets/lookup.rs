//! Looking a reference up: from where a credential is to its values. Only runs do this, each for itself; where the values go
//! from here is theirs to decide.

use std::{collections::BTreeMap, ffi::OsString, fs, io};

use runyard_common::secret::Secret;

use super::{SecretRef, file, nomad, vault};

/// The environment of a process, as [`std::env::vars_os`] gives it.
pub type Environment = [(OsString, OsString)];

/// What is at a reference.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Its fields.
    pub fields: BTreeMap<String, Secret>,
    /// The `auths` of a Docker `auth.json`, if it is one: host → `{"auth": …}`. As secret as the fields.
    pub auths: Option<Secret>,
}

impl Found {
    /// A field; where there is none of exactly this name, one that differs in upper and lower case only.
    pub fn get(&self, name: &str) -> Option<&Secret> {
        self.fields.get(name).or_else(|| {
            let alike = |(key, _): &(&String, _)| key.eq_ignore_ascii_case(name);
            self.fields.iter().find(alike).map(|(_, value)| value)
        })
    }
}

/// Why a reference cannot be looked up.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// There is nothing, or nowhere to look.
    #[error("the credential `{at}` is not there: {why}")]
    Absent {
        /// The reference.
        at: SecretRef,
        /// What was looked for, and how to provide it.
        why: String,
    },
    /// It is there, or may be, and cannot be had: refused, unreachable, no credential.
    #[error("the credential `{at}` cannot be read: {why}")]
    Unusable {
        /// The reference.
        at: SecretRef,
        /// What happened.
        why: String,
    },
}

/// The same two, while the reference is known to the caller only.
#[derive(Debug)]
pub(super) enum Missing {
    Absent(String),
    Unusable(String),
}

impl Missing {
    fn of(self, at: &SecretRef) -> LookupError {
        let at = at.clone();
        match self {
            Self::Absent(why) => LookupError::Absent { at, why },
            Self::Unusable(why) => LookupError::Unusable { at, why },
        }
    }
}

/// Looks up all fields of a reference.
pub fn look_up(at: &SecretRef, environment: &Environment) -> Result<Found, LookupError> {
    let found = match at {
        SecretRef::Vault(path) => vault::read(path, environment),
        SecretRef::NomadVariable(path) => nomad::read(path, environment),
        SecretRef::File(path) => read_file(path)
            .and_then(|text| file::parse(&text).map_err(|why| Missing::Unusable(why.to_owned()))),
        SecretRef::Env(prefix) => variables(prefix, environment),
    };
    found.map_err(|missing| missing.of(at))
}

/// Looks up the one value that a reference stands for, as a secret of a build does: all of a file, the variable itself, the field
/// `value`, the field called `name`, or the only field that there is.
pub fn look_up_one(
    at: &SecretRef,
    name: &str,
    environment: &Environment,
) -> Result<Secret, LookupError> {
    match at {
        SecretRef::File(path) => {
            return read_file(path)
                .map(Secret::new)
                .map_err(|missing| missing.of(at));
        }
        SecretRef::Env(variable) => {
            if let Some(value) = variable_of(environment, variable) {
                return Ok(Secret::new(value));
            }
        }
        SecretRef::Vault(_) | SecretRef::NomadVariable(_) => {}
    }
    let found = look_up(at, environment)?;
    let only = || match found.fields.len() {
        1 => found.fields.values().next(),
        _ => None,
    };
    let value = found.get("value").or_else(|| found.get(name)).or_else(only);
    value.cloned().ok_or_else(|| {
        let known: Vec<&str> = found.fields.keys().map(String::as_str).collect();
        let why = format!(
            "it has neither a field `value` nor one called `{name}` (fields: {})",
            known.join(", ")
        );
        Missing::Unusable(why).of(at)
    })
}

/// A variable that is set and is text.
pub(super) fn variable_of<'e>(environment: &'e Environment, name: &str) -> Option<&'e str> {
    let found = environment.iter().find(|(known, _)| known == name);
    found.and_then(|(_, value)| value.to_str())
}

fn read_file(path: &std::path::Path) -> Result<String, Missing> {
    fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Missing::Absent(format!("there is no file {}", path.display())),
        _ => Missing::Unusable(error.to_string()),
    })
}

/// `PREFIX_USERNAME=x` is the field `username`.
fn variables(prefix: &str, environment: &Environment) -> Result<Found, Missing> {
    let field = |(name, value): &(OsString, OsString)| {
        let rest = name.to_str()?.strip_prefix(prefix)?.strip_prefix('_')?;
        (!rest.is_empty()).then(|| Some((rest.to_lowercase(), Secret::new(value.to_str()?))))?
    };
    let fields: BTreeMap<_, _> = environment.iter().filter_map(field).collect();
    if fields.is_empty() {
        let why = format!(
            "no variable begins with {prefix}_ (set {prefix}_USERNAME and {prefix}_PASSWORD)"
        );
        return Err(Missing::Absent(why));
    }
    Ok(file::decoded(Found {
        fields,
        auths: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        let pair = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
        pairs.iter().map(pair).collect()
    }

    fn exposed(found: &Found, name: &str) -> Option<String> {
        found.get(name).map(|value| value.expose().to_owned())
    }

    #[test]
    fn variables_are_fields_of_their_prefix() {
        let env = environment(&[
            ("REG_USERNAME", "u"),
            ("REG_PASSWORD", "p"),
            ("REGISTER_USERNAME", "other"),
        ]);
        let found = look_up(&"env:REG".parse().unwrap(), &env).unwrap();
        assert_eq!(found.fields.len(), 2);
        assert_eq!(exposed(&found, "username").as_deref(), Some("u"));
        assert_eq!(exposed(&found, "PASSWORD").as_deref(), Some("p"));
        let absent = look_up(&"env:GIT".parse().unwrap(), &env).unwrap_err();
        assert!(matches!(absent, LookupError::Absent { .. }), "{absent}");
        assert!(absent.to_string().contains("GIT_USERNAME"), "{absent}");
    }

    #[test]
    fn a_build_secret_is_a_whole_file_or_a_whole_variable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("npmrc");
        fs::write(&path, "//host/:_authToken=x\nother=1\n").unwrap();
        let at: SecretRef = format!("file:{}", path.display()).parse().unwrap();
        let value = look_up_one(&at, "npmrc", &[]).unwrap();
        assert_eq!(value.expose(), "//host/:_authToken=x\nother=1\n");
        let env = environment(&[("TOKEN", "t"), ("PAIR_ONE", "1"), ("PAIR_TWO", "2")]);
        let one = |at: &str, name| look_up_one(&at.parse().unwrap(), name, &env);
        assert_eq!(one("env:TOKEN", "x").unwrap().expose(), "t");
        assert_eq!(one("env:PAIR", "two").unwrap().expose(), "2");
        let error = one("env:PAIR", "three").unwrap_err().to_string();
        assert!(error.contains("fields: one, two"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_absent_and_one_that_cannot_be_read_is_not() {
        let absent = look_up(&"file:/nonexistent/x".parse().unwrap(), &[]).unwrap_err();
        assert!(matches!(absent, LookupError::Absent { .. }));
        let folder = look_up(&"file:/".parse().unwrap(), &[]).unwrap_err();
        assert!(matches!(folder, LookupError::Unusable { .. }));
    }
}
