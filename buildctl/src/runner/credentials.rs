//! Credentials of a run: from where its work says they are to values that are masked in its log. Files are written by whoever
//! hands them to a program.

use std::collections::BTreeMap;

use runyard_common::secret::Secret;

use super::{
    halt::Halt,
    session::Session,
    work::{Credential, SecretEnv},
};
use crate::{
    registry::{Auths, Login},
    secrets::{Found, LookupError, SSH_KEY, SecretRef, look_up, look_up_one, rendered},
    spec::BuildOptions,
};

/// Looks a credential up; from here on its values are masked. One that is optional and not there is none.
pub(super) fn found(
    session: &mut Session<'_>,
    credential: &Credential,
) -> Result<Option<Found>, Halt> {
    let found = match credential {
        Credential::Rendered(path) => rendered(path).map_err(|error| {
            Halt::input(format!(
                "the credential in {} cannot be read: {error}",
                path.display()
            ))
        })?,
        Credential::Reference { at, optional } => match look_up(at, &session.environment) {
            Ok(found) => found,
            Err(error @ LookupError::Absent { .. }) if *optional => {
                session.say(format!("going on without credentials: {error}"));
                return Ok(None);
            }
            Err(error) => return Err(Halt::input(error.to_string())),
        },
    };
    for (name, value) in &found.fields {
        // A name or the keys of a host are no secrets, and masking them would hide half of a log.
        if !matches!(name.to_lowercase().as_str(), "username" | "known_hosts") {
            session.log.mask.add(value);
        }
    }
    Ok(Some(found))
}

/// The logins for registries: those of whoever runs this, and, for the registries of this run, the ones that its work names.
pub(super) fn auths(session: &mut Session<'_>, hosts: &[&str]) -> Result<Auths, Halt> {
    let mut auths = Auths::of_environment(&session.environment);
    if let Some(credential) = &session.work.registry_credentials
        && let Some(found) = found(session, credential)?
    {
        if let Some(theirs) = &found.auths {
            auths.extend(Auths::of_auths(theirs.expose()));
        } else {
            let (Some(username), Some(password)) = (found.get("username"), found.get("password"))
            else {
                return Err(Halt::input(
                    "the registry's credentials need the fields `username` and `password`",
                ));
            };
            for host in hosts {
                auths.add(host, username.expose(), password);
            }
        }
    }
    for login in auths.logins() {
        match login {
            Login::Password { username, password } => {
                session.log.mask.add_basic(&username, &password);
            }
            Login::Identity(token) => session.log.mask.add(&token),
        }
    }
    Ok(auths)
}

/// What a build's steps may be given, by its id.
pub(super) struct BuildSecrets {
    /// For `RUN --mount=type=secret`.
    pub(super) plain: Vec<(String, Secret)>,
    /// Private keys for `RUN --mount=type=ssh`.
    pub(super) ssh: Vec<(String, Secret)>,
}

/// The secrets of a build.
pub(super) fn of_build(
    session: &mut Session<'_>,
    options: &BuildOptions,
) -> Result<BuildSecrets, Halt> {
    let plain = values(session, &options.secrets, |id| id)?;
    // A secret with several fields is one for Git, too.
    let keys = values(session, &options.ssh, |_| SSH_KEY)?;
    let whole = |(id, key): (String, Secret)| (id, Secret::new(with_end(key.expose())));
    Ok(BuildSecrets {
        plain,
        ssh: keys.into_iter().map(whole).collect(),
    })
}

/// A file of keys as OpenSSH wants it: its last line ends; templates and variables lose that.
pub(super) fn with_end(text: &str) -> String {
    format!("{}\n", text.replace("\r\n", "\n").trim_end())
}

/// Values by ids; `field` is what each is called in a secret of several.
fn values<'o>(
    session: &mut Session<'_>,
    references: &'o BTreeMap<String, SecretRef>,
    field: impl Fn(&'o str) -> &'o str,
) -> Result<Vec<(String, Secret)>, Halt> {
    let mut secrets = Vec::new();
    for (id, at) in references {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        if id.is_empty() || !id.bytes().all(plain) || id == super::build::MARK {
            return Err(Halt::input(format!(
                "`{id}` is no id of a build secret: letters, digits, `_`, `.` and `-`"
            )));
        }
        let value = look_up_one(at, field(id), &session.environment)
            .map_err(|error| Halt::input(error.to_string()))?;
        session.log.mask.add(&value);
        secrets.push((id.clone(), value));
    }
    Ok(secrets)
}

/// The variables of a test that come from secrets.
pub(super) fn of_test(
    session: &mut Session<'_>,
    secrets: &[SecretEnv],
) -> Result<Vec<(String, Secret)>, Halt> {
    let mut variables = Vec::new();
    for secret in secrets {
        let Some(found) = found(session, &secret.from)? else {
            continue;
        };
        for (field, variable) in &secret.fields {
            let Some(value) = found.get(field) else {
                let known: Vec<&str> = found.fields.keys().map(String::as_str).collect();
                return Err(Halt::input(format!(
                    "the secret for `{variable}` has no field `{field}` (fields: {})",
                    known.join(", ")
                )));
            };
            variables.push((variable.clone(), value.clone()));
        }
    }
    Ok(variables)
}
