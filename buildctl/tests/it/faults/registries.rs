//! Registries that are away for a while, and ones that want a login.

use std::{fmt::Write, fs};

use runyard_common::testing::tempdir;
use serde_json::{Value, json};

use super::Plant;
use crate::{
    cli::DOCKERFILE,
    support::{Registry, Repository, ready},
};

fn error(ended: &Value) -> &str {
    ended["error"].as_str().unwrap_or_default()
}

#[test]
fn a_publication_that_broke_off_says_what_moved_and_can_be_repeated() {
    if !ready() {
        return;
    }
    let plant = Plant::open();
    let source = Repository::with(DOCKERFILE);
    let tags = json!({"image_tags": ["one", "two"]});
    plant.toll.refuse("PUT", "/v2/app/manifests/two");
    let broken = plant.submit("app", &source.url(), &tags).unwrap();
    let ended = plant.end(&broken);
    assert_eq!(ended["failed_phase"], "publish", "{ended}");
    assert!(error(&ended).contains(":two could not be moved"), "{ended}");
    // This registry cannot remove tags: what moved first stays, and is named.
    let stayed: Vec<&str> = ended["published"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| tag["tag"].as_str().unwrap())
        .collect();
    assert_eq!(stayed, [broken.as_str(), "one"]);
    assert!(error(&ended).contains("moved and left so: "), "{ended}");
    assert_eq!(plant.registry.digest("app", "two"), None);

    plant.toll.admit();
    let again = plant.submit("app", &source.url(), &tags).unwrap();
    let ended = plant.end(&again);
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
    for tag in [again.as_str(), "one", "two"] {
        assert_eq!(
            plant.registry.digest("app", tag).as_deref(),
            ended["digest"].as_str()
        );
    }
}

#[test]
fn what_the_registry_does_not_remove_is_left_with_the_reason() {
    if !ready() {
        return;
    }
    let plant = Plant::open();
    let source = Repository::with(DOCKERFILE);
    plant.toll.refuse("DELETE", "/v2/temp-");
    let published = plant.submit("app", &source.url(), &json!({})).unwrap();
    let failed = json!({"test": {"commands": ["exit 1"]}});
    let failed = plant.submit("other", &source.url(), &failed).unwrap();
    for (id, status) in [(published, "SUCCEEDED"), (failed, "FAILED")] {
        assert_eq!(plant.end(&id)["status"], status);
        let left = runyard_common::testing::eventually(runyard_common::testing::patience(), || {
            Some(plant.end(&id)["left"].as_str()?.to_owned())
        });
        assert!(left.contains("/temp-"), "{left}");
        let cleaned = plant.run(&["cleanup", &id]);
        assert!(format!("{cleaned}").contains("retention"), "{cleaned}");
    }
}

#[test]
fn a_login_is_right_or_wrong_or_missing() {
    if !ready() {
        return;
    }
    let secrets = tempdir();
    let mut config = "credentials:\n".to_owned();
    for (name, password) in [("right", "opensesame"), ("wrong", "opensaysme")] {
        let file = secrets.path().join(name);
        fs::write(&file, format!("username=me\npassword={password}\n")).unwrap();
        writeln!(config, "  ci/{name}: file:{}", file.display()).unwrap();
    }
    let plant = Plant::with(Registry::private(), &config, Vec::new());
    let source = Repository::with(DOCKERFILE);
    let end = |name: &str, more: &Value| {
        let id = plant.submit(name, &source.url(), more).unwrap();
        plant.end(&id)
    };
    let login = |name: &str| json!({"registry_credentials_path": format!("ci/{name}"), "image_tags": ["v1"]});
    assert_eq!(end("right", &login("right"))["status"], "SUCCEEDED");
    assert!(plant.registry.digest("right", "v1").is_some());
    for (name, more) in [("wrong", login("wrong")), ("missing", json!({}))] {
        let ended = end(name, &more);
        assert_eq!(ended["failed_phase"], "build", "{ended}");
        assert!(error(&ended).contains("credentials"), "{name}: {ended}");
        assert!(!ended.to_string().contains("opens"), "{ended}");
    }
    let nowhere = end("nowhere", &login("nowhere"));
    assert!(error(&nowhere).contains("ci/nowhere"), "{nowhere}");
}
