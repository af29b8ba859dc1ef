//! Credentials in files: what an operator writes by hand, what Docker writes, and what a template renders.

use std::{collections::BTreeMap, fs, io, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use runyard_common::secret::Secret;
use serde_json::Value;

use super::Found;

/// Reads a file that was rendered for a run: `username=…`, `password=…`, `ssh_key_base64=…`. A field whose name ends in `_base64`
/// is decoded and loses that ending.
pub fn rendered(path: &Path) -> io::Result<Found> {
    let text = fs::read_to_string(path)?;
    parse(&text).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))
}

/// Reads `KEY=value` lines, a JSON object, or a Docker `auth.json`.
pub(super) fn parse(text: &str) -> Result<Found, &'static str> {
    if text.trim_start().starts_with('{') {
        return json(text).ok_or("it begins like a JSON object and is none");
    }
    let mut fields = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .ok_or("its lines must be KEY=value, or all of it a JSON object")?;
        let key = key.trim().trim_start_matches("export ").trim();
        fields.insert(key.to_owned(), Secret::new(unquoted(value.trim())));
    }
    if fields.is_empty() {
        return Err("it is empty");
    }
    Ok(decoded(Found {
        fields,
        auths: None,
    }))
}

fn json(text: &str) -> Option<Found> {
    let Value::Object(object) = serde_json::from_str(text).ok()? else {
        return None;
    };
    if let Some(auths @ Value::Object(_)) = object.get("auths") {
        return Some(Found {
            fields: BTreeMap::new(),
            auths: Some(Secret::new(auths.to_string())),
        });
    }
    Some(decoded(Found {
        fields: fields(object),
        auths: None,
    }))
}

/// The fields of a JSON object; what is no string is its JSON.
pub(super) fn fields(object: serde_json::Map<String, Value>) -> BTreeMap<String, Secret> {
    let field = |(key, value)| match value {
        Value::Null => None,
        Value::String(text) => Some((key, Secret::new(text))),
        other => Some((key, Secret::new(other.to_string()))),
    };
    object.into_iter().filter_map(field).collect()
}

/// Decodes the fields that are base64 and say so.
pub(super) fn decoded(mut found: Found) -> Found {
    let encoded: Vec<String> = found
        .fields
        .keys()
        .filter(|key| key.to_lowercase().ends_with("_base64"))
        .cloned()
        .collect();
    for key in encoded {
        let plain = key[..key.len() - "_base64".len()].to_owned();
        let value = found.fields.get(&key).and_then(|value| {
            let bytes = STANDARD.decode(value.expose().trim()).ok()?;
            String::from_utf8(bytes).ok()
        });
        if let Some(value) = value {
            found.fields.remove(&key);
            // A template renders empty fields for what is not there.
            if !value.is_empty() {
                found.fields.insert(plain, Secret::new(value));
            }
        }
    }
    found
}

fn unquoted(value: &str) -> &str {
    ['"', '\'']
        .iter()
        .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote))
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(text: &str, name: &str) -> Option<String> {
        let found = parse(text).unwrap();
        found.get(name).map(|value| value.expose().to_owned())
    }

    #[test]
    fn lines_json_and_rendered_files_say_the_same() {
        for text in [
            "# mine\nexport USERNAME = \"me\"\npassword='a=b'\n",
            r#"{"username": "me", "password": "a=b"}"#,
            "username_base64=bWU=\npassword_base64=YT1i\nssh_key_base64=\n",
        ] {
            assert_eq!(field(text, "username").as_deref(), Some("me"), "{text}");
            assert_eq!(field(text, "password").as_deref(), Some("a=b"), "{text}");
            assert_eq!(field(text, "ssh_key"), None, "{text}");
        }
    }

    #[test]
    fn a_docker_file_keeps_its_hosts_to_itself() {
        let found = parse(r#"{"auths": {"r.example": {"auth": "dTpw"}}}"#).unwrap();
        assert!(found.fields.is_empty());
        let auths = found.auths.unwrap();
        assert_eq!(auths.expose(), r#"{"r.example":{"auth":"dTpw"}}"#);
        assert_eq!(format!("{auths:?}"), "[redacted]");
    }

    #[test]
    fn what_is_no_credential_is_not_taken_for_one() {
        assert!(parse("").is_err());
        assert!(parse("just words").is_err());
        assert!(parse("{broken").is_err());
    }
}
