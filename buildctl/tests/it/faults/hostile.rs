//! Names that try to be commands, options, templates or paths: what may not be is refused, and what may be is only a name.

use std::fs;

use serde_json::{Value, json};

use super::Plant;
use crate::{
    cli::DOCKERFILE,
    support::{Repository, ready},
};

/// Descriptions that must not be carried out. `CMD` makes a file that is looked for in the end.
const REFUSED: &[(&str, &str)] = &[
    ("git_ref", r#""--upload-pack=CMD""#),
    ("git_ref", r#""main; CMD""#),
    ("git_ref", r#""$(CMD)""#),
    ("git_ref", r#""main\nCMD""#),
    ("git_ref", r#""-c core.sshCommand=CMD""#),
    ("repo_url", r#""ext::sh -c CMD""#),
    ("repo_url", r#""--upload-pack=CMD""#),
    ("repo_url", r#""ext::touch""#),
    ("repo_url", r#""ssh://-oProxyCommand=touch/x""#),
    ("repo_url", r#""-oProxyCommand=touch:x""#),
    ("repo_url", r#""fd::17/x""#),
    ("dockerfile_path", r#""../../../../etc/passwd""#),
    ("dockerfile_path", r#""/etc/passwd""#),
    ("dockerfile_path", r#""escape""#),
    ("dockerfile_context", r#""../..""#),
    ("dockerfile_context", r#""escape""#),
    ("image_name", r#""$(CMD)""#),
    ("image_name", r#""app;CMD""#),
    ("image_name", r#""{{ env \"HOME\" }}""#),
    ("image_name", r#""../app""#),
    ("image_tags", r#"["$(CMD)"]"#),
    ("image_tags", r#"["--help"]"#),
    ("image_tags", r#"["${HOME}", "%{if true}", "{{x}}"]"#),
    ("registry_url", r#""127.0.0.1:5000;CMD""#),
    ("registry_url", r#""$(CMD)""#),
    ("registry_credentials_path", r#""x\" }}{{ CMD""#),
    ("git_credentials_path", r#""../../x""#),
    ("target", r#""--build-arg=x""#),
    ("platform", r#""$(CMD)""#),
    ("build_args", r#"{"A=$(CMD) --x": "y"}"#),
    ("labels", r#"{"--x": "y"}"#),
    ("labels", r#"{"x": "$(CMD) ${HOME}"}"#),
    ("build_secrets", r#"{"a,src=/etc/passwd": "env:X"}"#),
    ("build_ssh", r#"{"a=/etc/passwd": "env:X"}"#),
    ("build_contexts", r#"{"x": "escape"}"#),
    ("build_contexts", r#"{"x": "ext::sh -c CMD"}"#),
    ("build_contexts", r#"{"x=/etc,y": "."}"#),
    ("annotations", r#"{"--x": "y"}"#),
    ("cache_to", r#"["$(CMD)/x"]"#),
    ("cache_from", r#"["elsewhere.test/x"]"#),
    ("network", r#""ns:/proc/1/ns/net""#),
    ("network", r#""host""#),
];

#[test]
fn what_must_not_be_a_name_is_refused_and_nothing_of_it_is_carried_out() {
    if !ready() {
        return;
    }
    let plant = Plant::open();
    let source = Repository::with(DOCKERFILE);
    std::os::unix::fs::symlink("/etc", source.path().join("escape")).unwrap();
    source.commit("more", "");
    let made = plant.path().join("made");
    let command = format!("touch {}", made.display());
    for (field, value) in REFUSED.iter().copied() {
        let value: Value = serde_json::from_str(&value.replace("CMD", &command)).unwrap();
        let why = match plant.submit("app", &source.url(), &json!({field: value})) {
            Err(refused) => {
                assert_eq!(refused.code, 2, "{field} {value}: {refused}");
                refused.stderr
            }
            // What depends on what is in the repository is known by then only.
            Ok(id) => {
                let ended = plant.end(&id);
                assert_eq!(ended["status"], "FAILED", "{field} {value}");
                ended["error"].as_str().unwrap().to_owned()
            }
        };
        // A registry is a part of the image's name, and links are known in the repository only.
        let named = [field, "image_name", "leads out of the source"];
        assert!(
            named.iter().any(|name| why.contains(name)),
            "{field} {value}: {why}"
        );
        assert!(!made.exists(), "{field} {value}");
    }
    assert!(!plant.path().join("state/storage").exists() || plant.remains().is_empty());
}

#[test]
fn what_may_be_a_name_is_nothing_else() {
    if !ready() {
        return;
    }
    let plant = Plant::open();
    let made = plant.path().join("made");
    let command = format!("$(touch${{IFS}}{})", made.display());
    let file = "$(touch made) ${HOME} %{x} {{y}} --file.Dockerfile";
    let source = Repository::with(DOCKERFILE);
    let reveal = "ARG A\nRUN echo \"arg:$A\"\nENV PATH=/bin\n";
    source.commit(file, &format!("{DOCKERFILE}{reveal}"));
    let hostile = format!("{command};`touch {0}`{{{{x}}}}%{{y}}'\"", made.display());
    let job = json!({
        "owner": format!("{hostile}/../.."),
        "dockerfile_path": file,
        "build_args": {"A": hostile},
        // Where Buildah would replace something, the value is refused.
        "labels": {"l": hostile.replace('$', "")},
        "annotations": {"a": hostile},
        "test": {"commands": ["echo \"env:$B\""], "env": {"B": hostile}},
    });
    let id = plant.submit("app", &source.url(), &job).unwrap();
    let ended = plant.end(&id);
    let log = plant.log(&id);
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}\n{log}");
    for said in [format!("arg:{hostile}"), format!("env:{hostile}")] {
        assert!(
            log.lines().any(|line| line.ends_with(&said)),
            "{said}\n{log}"
        );
    }
    assert!(!made.exists());
    let stores: Vec<_> = fs::read_dir(plant.path().join("state/storage"))
        .unwrap()
        .map(|store| store.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(stores.len(), 1, "{stores:?}");
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    assert!(stores[0].chars().all(plain), "{stores:?}");

    // A branch may have almost any name, as far as Git is concerned.
    let branch = format!("{}{{{{x}}}}%{{y}};|'", command.replace("${IFS}", "$IFS"));
    source.git(&["branch", &branch]);
    let id = plant
        .submit("branch", &source.url(), &json!({"git_ref": branch}))
        .unwrap();
    assert_eq!(plant.end(&id)["status"], "SUCCEEDED");
    assert!(!made.exists());
}

#[test]
fn a_step_gets_nothing_that_its_runner_holds() {
    if !ready() {
        return;
    }
    let plant = Plant::open();
    let source = Repository::with(&format!("{DOCKERFILE}RUN ls -l /proc/self/fd\n"));
    let id = plant.submit("app", &source.url(), &json!({})).unwrap();
    assert_eq!(plant.end(&id)["status"], "SUCCEEDED");
    let log = plant.log(&id);
    let open: Vec<&str> = log.lines().filter(|line| line.contains(" -> ")).collect();
    assert!(open.len() >= 3, "{log}");
    // The locks of its place and of the store, above all: whoever has them could give them up.
    for line in open {
        let target = line.rsplit(" -> ").next().unwrap();
        assert!(
            !target.contains("slots") && !target.contains("lock"),
            "{log}"
        );
    }
}
