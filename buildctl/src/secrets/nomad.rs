//! Reading a Nomad variable from within a Nomad task, over the socket of the task API with the task's own identity (Nomad
//! documentation, "Task API": `$NOMAD_SECRETS_DIR/api.sock`). Outside of a task there is no such thing.

use std::{fs, path::Path};

use runyard_common::{
    http::client::{Client, ClientOptions, path as url_path},
    secret::Secret,
};
use serde_json::Value;

use super::{
    Environment, Found,
    file::{decoded, fields},
    lookup::{Missing, variable_of},
};

/// Reads the variable at `path`.
pub(super) fn read(path: &str, environment: &Environment) -> Result<Found, Missing> {
    let variable = |name| variable_of(environment, name).filter(|value| !value.is_empty());
    let Some(secrets) = variable("NOMAD_SECRETS_DIR") else {
        return Err(Missing::Absent(
            "Nomad variables can be read in a Nomad task only: refer to file:, env: or vault:"
                .to_owned(),
        ));
    };
    let token = variable("NOMAD_TOKEN").map(Secret::from).or_else(|| {
        let text = fs::read_to_string(Path::new(secrets).join("nomad_token")).ok()?;
        Some(Secret::new(text.trim()))
    });
    let Some(token) = token else {
        return Err(Missing::Unusable(
            "the task has no Nomad identity: its job needs `identity { env = true }`".to_owned(),
        ));
    };
    let failed = |failure: runyard_common::report::Failure| {
        let cause = std::error::Error::source(&failure).map(|cause| format!(": {cause}"));
        Missing::Unusable(format!("{failure}{}", cause.unwrap_or_default()))
    };
    let socket = format!("unix:{}", Path::new(secrets).join("api.sock").display());
    let options = ClientOptions {
        token: Some(token),
        ..ClientOptions::default()
    };
    let agent = concat!("buildctl/", env!("CARGO_PKG_VERSION"));
    let client = Client::new(agent, &socket, options).map_err(failed)?;
    // The path of a variable keeps its slashes in the URL.
    let parts: Vec<&str> = ["v1", "var"].into_iter().chain(path.split('/')).collect();
    let mut call = client.get(&url_path(&parts));
    if let Some(namespace) = variable("NOMAD_NAMESPACE") {
        call = call.query("namespace", namespace);
    }
    let answer = call.send_any().map_err(failed)?;
    match answer.status().as_u16() {
        200 => {}
        404 => return Err(Missing::Absent("Nomad has no variable there".to_owned())),
        status => {
            let words = answer.text().map_err(failed)?;
            return Err(Missing::Unusable(format!(
                "Nomad answered with {status}: {}",
                words.trim()
            )));
        }
    }
    let mut value: Value = answer.json().map_err(failed)?;
    match value.get_mut("Items").map(Value::take) {
        Some(Value::Object(items)) => Ok(decoded(Found {
            fields: fields(items),
            auths: None,
        })),
        _ => Err(Missing::Unusable("Nomad's answer has no items".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        os::unix::net::UnixListener,
        thread,
    };

    use super::*;

    #[test]
    fn a_variable_is_read_over_the_task_api() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("api.sock")).unwrap();
        fs::write(folder.path().join("nomad_token"), "identity\n").unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let head: Vec<String> = lines
                .map(Result::unwrap)
                .take_while(|line| !line.is_empty())
                .collect();
            let body = r#"{"Path":"a/b","Items":{"username":"me"}}"#;
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
            .unwrap();
            head
        });
        let env = [("NOMAD_SECRETS_DIR".into(), folder.path().into())];
        let found = read("a/b", &env).unwrap();
        assert_eq!(found.get("username").unwrap().expose(), "me");
        let head = server.join().unwrap();
        assert_eq!(head[0], "GET /v1/var/a/b HTTP/1.1");
        assert!(
            head.iter()
                .any(|line| line.eq_ignore_ascii_case("authorization: Bearer identity"))
        );
    }

    #[test]
    fn outside_of_a_task_the_way_out_is_named() {
        let absent = read("a/b", &[]).unwrap_err();
        assert!(matches!(absent, Missing::Absent(why) if why.contains("file:")));
    }
}
