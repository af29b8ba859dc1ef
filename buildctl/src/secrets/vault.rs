//! Reading a secret of Vault's KV engine, version 2, over its HTTP API (Vault API documentation, "KV secrets engine - version
//! 2": `GET /v1/:mount/data/:path`). Who may is Vault's decision; the token is the environment's.

use std::{fs, path::PathBuf, time::Duration};

use runyard_common::{
    http::client::{Call, Client, ClientOptions, Response},
    secret::Secret,
};
use serde_json::Value;

use super::{
    Environment, Found,
    file::{decoded, fields},
    lookup::{Missing, variable_of},
};

/// Reads the secret at `path`, which has no `data/` in it, as on Vault's command line.
pub(super) fn read(path: &str, environment: &Environment) -> Result<Found, Missing> {
    let variable = |name| variable_of(environment, name).filter(|value| !value.is_empty());
    let Some(address) = variable("VAULT_ADDR") else {
        let why = "VAULT_ADDR is not set: set it and VAULT_TOKEN, or refer to file: or env:";
        return Err(Missing::Absent(why.to_owned()));
    };
    let Some(token) = token(environment) else {
        let why = "there is no token for Vault: set VAULT_TOKEN";
        return Err(Missing::Absent(why.to_owned()));
    };
    let options = ClientOptions {
        ca: variable("VAULT_CACERT").map(PathBuf::from),
        read_timeout: Duration::from_secs(20),
        ..ClientOptions::default()
    };
    let agent = concat!("buildctl/", env!("CARGO_PKG_VERSION"));
    let client = Client::new(agent, address, options).map_err(unusable)?;
    let vault = Vault {
        client,
        token,
        namespace: variable("VAULT_NAMESPACE").map(str::to_owned),
    };
    let mount = vault.mount(path);
    let rest = path.strip_prefix(&mount).unwrap_or(path);
    vault.secret(&format!("{mount}data/{rest}"))
}

fn unusable(failure: impl std::error::Error) -> Missing {
    let cause = failure.source().map(|cause| format!(": {cause}"));
    Missing::Unusable(format!("{failure}{}", cause.unwrap_or_default()))
}

/// `VAULT_TOKEN`, or what Nomad or Vault's own login leave in files.
fn token(environment: &Environment) -> Option<Secret> {
    let variable = |name| variable_of(environment, name).filter(|value| !value.is_empty());
    let file = |folder: Option<&str>, name| {
        let text = fs::read_to_string(PathBuf::from(folder?).join(name)).ok()?;
        (!text.trim().is_empty()).then(|| Secret::new(text.trim()))
    };
    variable("VAULT_TOKEN")
        .map(Secret::from)
        .or_else(|| file(variable("NOMAD_SECRETS_DIR"), "vault_token"))
        .or_else(|| file(variable("HOME"), ".vault-token"))
}

struct Vault {
    client: Client,
    token: Secret,
    namespace: Option<String>,
}

impl Vault {
    fn get(&self, path: &str) -> Call<'_> {
        let call = self
            .client
            .get(&format!("/v1/{path}"))
            .header("X-Vault-Token", self.token.expose())
            .header("X-Vault-Request", "true");
        match &self.namespace {
            Some(namespace) => call.header("X-Vault-Namespace", namespace),
            None => call,
        }
    }

    /// Where the engine is mounted, with a slash at the end. Vault says so to everybody who may read below it; where it does
    /// not, the first part of the path is the mount.
    fn mount(&self, path: &str) -> String {
        let told = || {
            let answer = self.get(&format!("sys/internal/ui/mounts/{path}")).send();
            let value: Value = answer.ok()?.json().ok()?;
            Some(value.pointer("/data/path")?.as_str()?.to_owned())
        };
        let first = || path.split('/').next().unwrap_or(path);
        told()
            .filter(|mount| path.starts_with(mount.as_str()))
            .unwrap_or_else(|| format!("{}/", first()))
    }

    fn secret(&self, path: &str) -> Result<Found, Missing> {
        let answer = self.get(path).send_any().map_err(unusable)?;
        match answer.status().as_u16() {
            200 => {}
            404 => return Err(Missing::Absent("Vault has no secret there".to_owned())),
            403 => {
                let why = "Vault refuses: permission denied (is the token's policy right, and not expired?)";
                return Err(Missing::Unusable(why.to_owned()));
            }
            _ => return Err(Missing::Unusable(words(answer))),
        }
        let mut value: Value = answer.json().map_err(unusable)?;
        match value.pointer_mut("/data/data").map(Value::take) {
            Some(Value::Object(object)) => Ok(decoded(Found {
                fields: fields(object),
                auths: None,
            })),
            _ => Err(Missing::Unusable(
                "this is no secret of a KV engine of version 2, or it was deleted".to_owned(),
            )),
        }
    }
}

/// Vault's own words: `{"errors": [...]}`.
fn words(answer: Response) -> String {
    let status = answer.status();
    let value: Option<Value> = answer.json().ok();
    let errors = value
        .as_ref()
        .and_then(|value| value.pointer("/errors/0")?.as_str());
    format!(
        "Vault answered with {status}: {}",
        errors.unwrap_or("no words")
    )
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::OsString,
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        thread,
    };

    use super::*;

    /// A Vault that has a KV engine at `team/kv/`; returns the environment for it.
    fn vault(secret: &'static str) -> Vec<(OsString, OsString)> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = Vec::new();
                for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                    match line.unwrap() {
                        line if line.is_empty() => break,
                        line => head.push(line.to_lowercase()),
                    }
                }
                let known = head.contains(&"x-vault-token: t0ken".to_owned())
                    && head.contains(&"x-vault-namespace: ns".to_owned());
                let (status, body) = match head[0].split(' ').nth(1).unwrap() {
                    _ if !known => ("403 Forbidden", r#"{"errors":["permission denied"]}"#),
                    "/v1/sys/internal/ui/mounts/team/kv/app/git" => {
                        ("200 OK", r#"{"data":{"path":"team/kv/"}}"#)
                    }
                    "/v1/team/kv/data/app/git" => ("200 OK", secret),
                    _ => ("404 Not Found", r#"{"errors":[]}"#),
                };
                let length = body.len();
                write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
                    .unwrap();
            }
        });
        [
            ("VAULT_ADDR", address.as_str()),
            ("VAULT_TOKEN", "t0ken"),
            ("VAULT_NAMESPACE", "ns"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .to_vec()
    }

    #[test]
    fn a_secret_is_read_wherever_the_engine_is_mounted() {
        let env = vault(r#"{"data":{"data":{"username":"me","port":5,"none":null}}}"#);
        let found = read("team/kv/app/git", &env).unwrap();
        assert_eq!(found.get("username").unwrap().expose(), "me");
        assert_eq!(found.get("port").unwrap().expose(), "5");
        assert_eq!(found.fields.len(), 2);
        assert!(matches!(
            read("team/kv/other", &env),
            Err(Missing::Absent(_))
        ));
    }

    #[test]
    fn a_refusal_is_not_an_absence() {
        let mut env = vault("");
        env[1].1 = "wrong".into();
        let refused = read("team/kv/app/git", &env).unwrap_err();
        assert!(matches!(refused, Missing::Unusable(why) if why.contains("permission denied")));
        let unset = read("secret/x", &[]).unwrap_err();
        assert!(matches!(unset, Missing::Absent(why) if why.contains("VAULT_ADDR")));
    }
}
