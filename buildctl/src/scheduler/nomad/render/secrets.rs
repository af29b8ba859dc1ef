//! Templates that bring secrets to a task: constant text around a path that [`SecretRef`] has checked. Values go from Vault or
//! Nomad's variables to a file of the task (or, where a program can take it no other way, into its environment), and nowhere else.
//!
//! A credential becomes lines `username_base64=…`, so that no value can break a line; see `run-phase` on rendered files.

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{NoRender, NomadSettings, Sheet};
use crate::{
    config::Driver,
    phase::Phase,
    runner::work::{Credential, Task, Work},
    secrets::{SSH_KEY, SecretRef},
    spec::{Test, TestSecret},
};

/// A file that Nomad renders before a task begins.
pub(super) struct Template {
    /// Below the task's folder.
    file: String,
    text: String,
    /// Whether its lines become variables of the task.
    as_variables: bool,
    pub(super) needs_vault: bool,
}

impl Template {
    /// Nomad's template; `owner` is the user and group that is to read it, if that is not root.
    pub(super) fn value(&self, owner: Option<u32>) -> Value {
        let mut value = json!({
            "DestPath": self.file, "EmbeddedTmpl": self.text, "ChangeMode": "noop", "Perms": "0600",
            "Envvars": self.as_variables, "ErrMissingKey": false,
        });
        if let Some(owner) = owner {
            value["Uid"] = owner.into();
            value["Gid"] = owner.into();
        }
        value
    }
}

/// Whether tasks can read a secret at all: from Vault only if there is one.
fn is_readable(at: &SecretRef, settings: &NomadSettings) -> bool {
    match at {
        SecretRef::Vault(_) => settings.nomad.vault.is_some(),
        SecretRef::NomadVariable(_) => true,
        SecretRef::File(_) | SecretRef::Env(_) => false,
    }
}

fn unreadable(at: &SecretRef) -> NoRender {
    NoRender::Settings(match at {
        SecretRef::Vault(_) => format!(
            "the credential `{at}` is in Vault, and Nomad is used without one (nomad.vault.enabled)"
        ),
        _ => format!("the credential `{at}` is of one machine: on Nomad, use Vault or nomad:PATH"),
    })
}

/// Where a task's process finds its secrets. A process of the node has no fixed folder, but begins in the task's own.
fn folder(driver: Driver) -> &'static Path {
    Path::new(match driver {
        Driver::RawExec => "/proc/self/cwd/secrets",
        Driver::Exec | Driver::Docker | Driver::Podman => "/secrets",
    })
}

/// Replaces every reference in a work by the file that a template renders.
pub(super) fn of_work(work: &mut Work, sheet: &Sheet<'_>) -> Result<Vec<Template>, NoRender> {
    let mut desk = Desk {
        settings: sheet.settings,
        templates: Vec::new(),
        notes: Vec::new(),
    };
    desk.credential(&mut work.registry_credentials, "registry-creds")?;
    match &mut work.task {
        Task::Build {
            git_credentials,
            options,
            ..
        } => {
            desk.credential(git_credentials, "git-creds")?;
            for (index, (id, at)) in options.secrets.iter_mut().enumerate() {
                *at = SecretRef::File(desk.value(at, id, &format!("build-{index}"))?);
            }
            for (index, at) in options.ssh.values_mut().enumerate() {
                *at = SecretRef::File(desk.value(at, SSH_KEY, &format!("ssh-{index}"))?);
            }
        }
        Task::Test { secret_env, .. } => {
            for (index, secret) in secret_env.iter_mut().enumerate() {
                let mut from = Some(secret.from.clone());
                desk.credential(&mut from, &format!("test-{index}"))?;
                // What nobody may do without is never left out.
                secret.from = from.ok_or_else(|| missing(&secret.from))?;
            }
        }
        Task::Publish { .. } | Task::Cleanup { .. } => {}
    }
    work.notes.append(&mut desk.notes);
    Ok(desk.templates)
}

fn missing(credential: &Credential) -> NoRender {
    match credential {
        Credential::Reference { at, .. } => unreadable(at),
        Credential::Rendered(path) => {
            NoRender::Settings(format!("{} is not rendered", path.display()))
        }
    }
}

struct Desk<'a> {
    settings: &'a NomadSettings,
    templates: Vec<Template>,
    /// For the log.
    notes: Vec<String>,
}

impl Desk<'_> {
    /// Has all fields of a credential rendered; none if it may be missing: a template would wait for it for ever.
    fn credential(
        &mut self,
        credential: &mut Option<Credential>,
        file: &str,
    ) -> Result<(), NoRender> {
        let Some(Credential::Reference { at, optional }) = credential else {
            return Ok(());
        };
        if *optional {
            self.notes.push(format!(
                "nobody named credentials, and those at `{at}` are not looked for; if they are there, \
                 the service's `credentials` can say so"
            ));
            *credential = None;
            return Ok(());
        }
        if !is_readable(at, self.settings) {
            return Err(unreadable(at));
        }
        let text = fields(at).ok_or_else(|| unreadable(at))?;
        *credential = Some(Credential::Rendered(self.file(at, file, text)));
        Ok(())
    }

    /// Has one value rendered as it is.
    fn value(&mut self, at: &SecretRef, id: &str, file: &str) -> Result<PathBuf, NoRender> {
        if !is_readable(at, self.settings) {
            return Err(unreadable(at));
        }
        let text = one_value(at, id).ok_or_else(|| {
            NoRender::Settings(format!(
                "`{id}` is no id of a build secret: letters, digits, `_`, `.` and `-`"
            ))
        })?;
        Ok(self.file(at, file, text))
    }

    fn file(&mut self, at: &SecretRef, file: &str, text: String) -> PathBuf {
        self.templates.push(Template {
            file: format!("secrets/{file}"),
            text,
            as_variables: false,
            needs_vault: matches!(at, SecretRef::Vault(_)),
        });
        folder(self.settings.nomad.driver).join(file)
    }
}

/// All fields, a line each.
fn fields(at: &SecretRef) -> Option<String> {
    match at {
        SecretRef::Vault(path) => Some(format!(
            "{{{{ with secret \"{path}\" }}}}{{{{ range $name, $value := .Data.data }}}}\
             {{{{ $name }}}}_base64={{{{ printf \"%v\" $value | base64Encode }}}}\n{{{{ end }}}}{{{{ end }}}}"
        )),
        SecretRef::NomadVariable(path) => Some(format!(
            "{{{{ with nomadVar \"{path}\" }}}}{{{{ range .Tuples }}}}\
             {{{{ .K }}}}_base64={{{{ .V | base64Encode }}}}\n{{{{ end }}}}{{{{ end }}}}"
        )),
        SecretRef::File(_) | SecretRef::Env(_) => None,
    }
}

/// The field `value`, the one called `id`, or the only one.
fn one_value(at: &SecretRef, id: &str) -> Option<String> {
    if !is_plain(id) {
        return None;
    }
    let (head, name, value) = match at {
        SecretRef::Vault(path) => (
            format!(
                "{{{{ with secret \"{path}\" }}}}{{{{ $n := len .Data.data }}}}{{{{ $d := .Data.data }}}}"
            ),
            "range $k, $v := $d",
            ("$k", "$v"),
        ),
        SecretRef::NomadVariable(path) => (
            format!(
                "{{{{ with nomadVar \"{path}\" }}}}{{{{ $n := len .Tuples }}}}{{{{ $d := .Tuples }}}}"
            ),
            "range $d",
            (".K", ".V"),
        ),
        SecretRef::File(_) | SecretRef::Env(_) => return None,
    };
    let (key, value) = value;
    // Scratch space remembers the choice: a variable set inside of a loop is not seen behind it in older templates.
    Some(format!(
        "{head}{{{{ {name} }}}}{{{{ if eq $n 1 }}}}{{{{ scratch.SetX \"only\" {value} }}}}{{{{ end }}}}\
         {{{{ if eq {key} \"value\" }}}}{{{{ scratch.SetX \"first\" {value} }}}}{{{{ else if eq {key} \"{id}\" }}}}\
         {{{{ scratch.SetX \"second\" {value} }}}}{{{{ end }}}}{{{{ end }}}}\
         {{{{ if scratch.Key \"first\" }}}}{{{{ scratch.Get \"first\" }}}}{{{{ else if scratch.Key \"second\" }}}}\
         {{{{ scratch.Get \"second\" }}}}{{{{ else if scratch.Key \"only\" }}}}{{{{ scratch.Get \"only\" }}}}{{{{ end }}}}{{{{ end }}}}"
    ))
}

fn is_plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    !name.is_empty() && name.bytes().all(plain)
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Variables whose values nobody reads before the task does: each is decoded by the template and quoted as JSON, which is how
/// Nomad reads files of variables.
pub(super) fn variables<'a>(
    file: &str,
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Option<Template>, NoRender> {
    let mut text = String::new();
    for (name, value) in pairs {
        if !is_variable(name) {
            return Err(NoRender::Settings(format!(
                "`{name}` is no name of a variable: letters, digits and `_`"
            )));
        }
        let encoded = STANDARD.encode(value);
        let line = format!("{name}={{{{ \"{encoded}\" | base64Decode | toJSON }}}}\n");
        text.push_str(&line);
    }
    Ok((!text.is_empty()).then(|| Template {
        file: format!("secrets/{file}"),
        text,
        as_variables: true,
        needs_vault: false,
    }))
}

/// Variables from the fields of a secret.
fn secret_variables(
    at: &SecretRef,
    fields: &[(&str, &str)],
    file: &str,
    settings: &NomadSettings,
) -> Result<Template, NoRender> {
    if !is_readable(at, settings) {
        return Err(unreadable(at));
    }
    let mut text = String::new();
    for (field, variable) in fields {
        if !is_plain(field) || !is_variable(variable) {
            return Err(NoRender::Settings(format!(
                "`{field}` cannot become the variable `{variable}`: names are letters, digits and `_`"
            )));
        }
        let line = match at {
            SecretRef::Vault(path) => format!(
                "{{{{ with secret \"{path}\" }}}}{variable}={{{{ index .Data.data \"{field}\" | toJSON }}}}\n{{{{ end }}}}"
            ),
            // The value of a field is a type of its own there, which only some functions take.
            SecretRef::NomadVariable(path) => format!(
                "{{{{ with nomadVar \"{path}\" }}}}{{{{ range .Tuples }}}}{{{{ if eq .K \"{field}\" }}}}\
                 {variable}={{{{ .V | toJSON }}}}\n{{{{ end }}}}{{{{ end }}}}{{{{ end }}}}"
            ),
            SecretRef::File(_) | SecretRef::Env(_) => return Err(unreadable(at)),
        };
        text.push_str(&line);
    }
    Ok(Template {
        file: format!("secrets/{file}"),
        text,
        as_variables: true,
        needs_vault: matches!(at, SecretRef::Vault(_)),
    })
}

/// Variables of a test from its secrets.
pub(super) fn of_test(test: &Test, settings: &NomadSettings) -> Result<Vec<Template>, NoRender> {
    let one = |(index, secret): (usize, &TestSecret)| {
        let fields: Vec<(&str, &str)> = secret
            .fields
            .iter()
            .map(|(field, variable)| (field.as_str(), variable.as_str()))
            .collect();
        let at = match &secret.at {
            SecretRef::Vault(path) => settings.credentials.get(path).unwrap_or(&secret.at),
            at => at,
        };
        secret_variables(at, &fields, &format!("test-{index}.env"), settings)
    };
    test.secrets.iter().enumerate().map(one).collect()
}

/// Variables with which the driver pulls the tested image.
pub(super) fn of_pull(
    at: &SecretRef,
    names: [&str; 2],
    settings: &NomadSettings,
) -> Result<Template, NoRender> {
    let fields = [("username", names[0]), ("password", names[1])];
    secret_variables(at, &fields, "pull.env", settings)
}

/// How a task reads Vault: by a role (Nomad documentation, "vault block"; what tokens with policies did before is gone since Nomad
/// 1.10). A test's policies are roles, if the service lists those that may be named.
pub(super) fn vault(sheet: &Sheet<'_>) -> Result<Value, NoRender> {
    let roles = &sheet.settings.defaults.vault_roles;
    let policies = policies(sheet);
    if !roles.is_empty() && policies.len() > 1 {
        return Err(NoRender::Settings(format!(
            "a test reads from Vault by one role, and vault_policies names {}: {}",
            policies.len(),
            policies.join(", ")
        )));
    }
    let asked = policies.first().filter(|role| roles.contains(role));
    let usual = sheet.settings.nomad.vault.as_ref();
    let mut vault = json!({"ChangeMode": "noop", "Env": false, "DisableFile": true});
    if let Some(role) = asked.or(usual).filter(|role| !role.is_empty()) {
        vault["Role"] = role.as_str().into();
    }
    Ok(vault)
}

/// The policies that this run's test asks for.
fn policies<'a>(sheet: &'a Sheet<'_>) -> &'a [String] {
    let test = sheet.job.config.test.as_ref();
    let test = test.filter(|_| sheet.run.phase() == Some(Phase::Test));
    test.map_or(&[], |test| &test.vault_policies)
}

/// What becomes of policies that choose nothing here, for the log.
pub(super) fn note_on_policies(sheet: &Sheet<'_>) -> Option<String> {
    let policies = policies(sheet);
    if policies.is_empty() || !sheet.settings.defaults.vault_roles.is_empty() {
        return None;
    }
    let role = match sheet.settings.nomad.vault.as_deref() {
        None => return Some("vault_policies are not used: this service has no Vault".to_owned()),
        Some("") => "the cluster's default role".to_owned(),
        Some(role) => format!("the role `{role}`"),
    };
    Some(format!(
        "vault_policies ({}) choose nothing, because the service lists no `vault_roles`: secrets are read by {role}",
        policies.join(", ")
    ))
}
