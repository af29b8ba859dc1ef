//! What differs between task drivers: how `run-phase` is started, what its container may do, where its cache is, and how a tested
//! image becomes a task (Nomad documentation, "Docker Driver", "Podman Driver", "Isolated Fork/Exec", "Raw Fork/Exec").
//!
//! | tier of a container | what it gets | what the agent must allow |
//! |---|---|---|
//! | rootless | user `build`, `/dev/fuse`, no seccomp and `AppArmor` profile | nothing, but kernels may forbid user namespaces |
//! | `sys_admin` | `CAP_SYS_ADMIN`, no profiles | `allow_caps` |
//! | privileged | everything | `allow_privileged` |
//!
//! A cache that is a folder of the node is bound into containers (`volumes.enabled`); a host volume needs no such right. A process
//! of the node uses the folder as it is; `exec` has a root of its own, into which only host volumes can be mounted, so that with a
//! folder it has no cache.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{NoRender, NomadSettings, Runner, Sheet, TaskKind, secrets};
use crate::{
    config::{Driver, NomadCache, NomadConfig, Tier},
    runner::work::{Storage, Task, Work},
    scheduler::{local::cache::owner_key, nomad::result},
};

/// Where a cache is in a container.
const CACHE: &str = "/var/cache/buildctl";
/// The volume of a group that is the cache.
const VOLUME: &str = "cache";
/// The user of Buildah's images who has subordinate ids, and its number.
const USER: (&str, u32) = ("build", 1000);
/// The variable that holds the command of a test whose image is the task.
const COMMAND: &str = "BUILDCTL_TEST_COMMAND";
/// The variables with which its image is pulled.
const PULL: [&str; 2] = ["BUILDCTL_PULL_USERNAME", "BUILDCTL_PULL_PASSWORD"];
/// Makes a fetched program executable for whoever the task runs as, and becomes it.
const FETCHED: &str = r#"cp "$NOMAD_TASK_DIR/buildctl" /tmp/buildctl && chmod 0755 /tmp/buildctl && exec /tmp/buildctl "$@""#;

/// Nomad's name of a driver.
pub(in crate::scheduler::nomad) fn name(driver: Driver) -> &'static str {
    match driver {
        Driver::Docker => "docker",
        Driver::Podman => "podman",
        Driver::RawExec => "raw_exec",
        Driver::Exec => "exec",
    }
}

fn has_containers(nomad: &NomadConfig) -> bool {
    matches!(nomad.driver, Driver::Docker | Driver::Podman)
}

/// Who has to be able to read a task's secrets, if that is not root.
pub(super) fn owner(nomad: &NomadConfig) -> Option<u32> {
    (has_containers(nomad) && nomad.tier == Tier::Rootless).then_some(USER.1)
}

/// Where the Buildah of a task keeps images: with the cache, a store for each owner, as whoever can write to a store can change
/// what later builds of it find.
pub(super) fn storage(settings: &NomadSettings, owner: &str) -> Storage {
    let nomad = &settings.nomad;
    let folder = match (&nomad.cache, nomad.driver) {
        (NomadCache::None, _)
        | (NomadCache::Folder(_), Driver::Exec)
        | (NomadCache::HostVolume(_), Driver::RawExec) => None,
        (NomadCache::Folder(folder), Driver::RawExec) => Some(folder.clone()),
        _ => Some(PathBuf::from(CACHE)),
    };
    let Some(folder) = folder.map(|folder| folder.join(owner_key(owner))) else {
        return Storage::default();
    };
    Storage {
        root: Some(folder.join("root")),
        runroot: Some(folder.join("run")),
        limit: settings.cache_limit,
        ..Storage::default()
    }
}

/// The volumes of a group.
pub(super) fn volumes(nomad: &NomadConfig, kind: TaskKind) -> Option<Value> {
    match &nomad.cache {
        NomadCache::HostVolume(source)
            if kind == TaskKind::Runner && nomad.driver != Driver::RawExec =>
        {
            Some(
                json!({VOLUME: {"Name": VOLUME, "Type": "host", "Source": source, "ReadOnly": false}}),
            )
        }
        _ => None,
    }
}

/// The task that is `run-phase`.
pub(super) fn runner_task(sheet: &Sheet<'_>) -> Map<String, Value> {
    let nomad = &sheet.settings.nomad;
    let mut task = Map::new();
    let mut config = match nomad.driver {
        Driver::RawExec | Driver::Exec => process(&sheet.settings.runner),
        Driver::Docker | Driver::Podman => container(sheet),
    };
    if let Runner::Artifact { url, checksum } = &sheet.settings.runner {
        let mut artifact =
            json!({"GetterSource": url, "GetterMode": "file", "RelativeDest": "local/buildctl"});
        if let Some(checksum) = checksum {
            artifact["GetterOptions"] = json!({"checksum": checksum});
        }
        task.insert("Artifacts".to_owned(), json!([artifact]));
    }
    if owner(nomad).is_some() {
        task.insert("User".to_owned(), USER.0.into());
    }
    if volumes(nomad, TaskKind::Runner).is_some() {
        let mount = json!([{"Volume": VOLUME, "Destination": CACHE, "ReadOnly": false}]);
        task.insert("VolumeMounts".to_owned(), mount);
    }
    if sheet.test().is_some_and(|test| test.gpu) && nomad.driver == Driver::Docker {
        config.insert("runtime".to_owned(), "nvidia".into());
    }
    task.insert("Config".to_owned(), Value::Object(config));
    task
}

/// A task that runs a script with the rights and in the image of a build, and its group.
pub(super) fn probe_task(
    settings: &NomadSettings,
    script: &str,
) -> (Map<String, Value>, Map<String, Value>) {
    let nomad = &settings.nomad;
    let mut config = object(json!({"command": "/bin/sh", "args": ["-c", script]}));
    let mut task = Map::new();
    if has_containers(nomad) {
        config = object(
            json!({"entrypoint": ["/bin/sh", "-c"], "args": [script], "image": nomad.image}),
        );
        config.extend(rights(nomad));
    }
    if owner(nomad).is_some() {
        task.insert("User".to_owned(), USER.0.into());
    }
    task.insert("Config".to_owned(), Value::Object(config));
    let group = json!({
        "Name": "probe", "Count": 1,
        "RestartPolicy": {"Attempts": 0, "Mode": "fail"},
        "ReschedulePolicy": {"Attempts": 0, "Unlimited": false},
        "EphemeralDisk": {"SizeMB": 150},
    });
    (task, object(group))
}

fn arguments() -> [&'static str; 3] {
    ["run-phase", "--result", result::ARGUMENT]
}

/// A process of the node, which Nomad makes executable itself.
fn process(runner: &Runner) -> Map<String, Value> {
    let command = match runner {
        Runner::Path(path) => path.display().to_string(),
        Runner::Artifact { .. } => "${NOMAD_TASK_DIR}/buildctl".to_owned(),
    };
    object(json!({"command": escaped(&command, runner), "args": arguments()}))
}

/// A path of the operator's is data, too; ours is not.
fn escaped(command: &str, runner: &Runner) -> String {
    match runner {
        Runner::Path(_) => command.replace("${", "$${").replace("%{", "%%{"),
        Runner::Artifact { .. } => command.to_owned(),
    }
}

fn container(sheet: &Sheet<'_>) -> Map<String, Value> {
    let settings = sheet.settings;
    let nomad = &settings.nomad;
    let mut config = match &settings.runner {
        Runner::Path(path) => {
            let path = escaped(&path.display().to_string(), &settings.runner);
            object(json!({"entrypoint": [path], "args": arguments()}))
        }
        Runner::Artifact { .. } => {
            let args: Vec<&str> = ["buildctl"].into_iter().chain(arguments()).collect();
            object(json!({"entrypoint": ["/bin/sh", "-c", FETCHED], "args": args}))
        }
    };
    config.insert("image".to_owned(), nomad.image.as_str().into());
    config.insert("init".to_owned(), true.into());
    config.extend(rights(nomad));
    let volumes = mounts(settings);
    if !volumes.is_empty() {
        config.insert("volumes".to_owned(), json!(volumes));
    }
    config
}

/// What a container may do on its node.
fn rights(nomad: &NomadConfig) -> Map<String, Value> {
    let open = ["seccomp=unconfined", "apparmor=unconfined"];
    let fuse = match nomad.driver {
        Driver::Podman => json!(["/dev/fuse"]),
        _ => json!([{"host_path": "/dev/fuse", "container_path": "/dev/fuse"}]),
    };
    object(match nomad.tier {
        Tier::Rootless => json!({"devices": fuse, "security_opt": open}),
        Tier::SysAdmin => json!({"devices": fuse, "security_opt": open, "cap_add": ["sys_admin"]}),
        Tier::Privileged => json!({"privileged": true}),
    })
}

/// Folders of the node that are bound into a container.
fn mounts(settings: &NomadSettings) -> Vec<String> {
    let mut volumes = Vec::new();
    if let NomadCache::Folder(folder) = &settings.nomad.cache {
        volumes.push(format!("{}:{CACHE}", plain(folder)));
    }
    if let Some(folder) = &settings.registries.certificates {
        let folder = plain(folder);
        volumes.push(format!("{folder}:{folder}:ro"));
    }
    volumes
}

fn plain(path: &Path) -> String {
    let text = path.display().to_string();
    text.replace("${", "$${").replace("%{", "%%{")
}

/// The task that is the tested image, and what it needs rendered.
pub(super) fn image_task(
    sheet: &Sheet<'_>,
    work: &Work,
) -> Result<(Map<String, Value>, Vec<secrets::Template>), NoRender> {
    let (
        Some(test),
        Task::Test {
            image,
            command,
            env,
            ..
        },
    ) = (sheet.test(), &work.task)
    else {
        return Err(NoRender::Settings("only tests are images".to_owned()));
    };
    let mut config = object(json!({"image": image.to_string(), "force_pull": true}));
    let mut pairs: Vec<(&str, &str)> = env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    if let Some(command) = command {
        pairs.push((COMMAND, command));
        config.insert("entrypoint".to_owned(), json!(["sh", "-c"]));
        config.insert("args".to_owned(), json!([format!("${{{COMMAND}}}")]));
    }
    let mut templates: Vec<secrets::Template> =
        secrets::variables("test.env", pairs)?.into_iter().collect();
    templates.extend(secrets::of_test(test, sheet.settings)?);
    if let Some(at) = super::login(work) {
        templates.push(secrets::of_pull(at, PULL, sheet.settings)?);
        let [username, password] = PULL.map(|name| format!("${{{name}}}"));
        let auth = json!({"username": username, "password": password});
        config.insert("auth".to_owned(), json!([auth]));
    }
    let mut task = Map::new();
    if test.gpu {
        if sheet.settings.nomad.driver == Driver::Docker {
            config.insert("runtime".to_owned(), "nvidia".into());
        }
        let env = json!({"NVIDIA_VISIBLE_DEVICES": "all"});
        task.insert("Env".to_owned(), env);
    }
    task.insert("Config".to_owned(), Value::Object(config));
    Ok((task, templates))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
