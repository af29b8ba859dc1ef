//! A test: one command in a container of the image that was pushed, by its digest, as the image says (environment, folder, user;
//! entry point and command, if it is the image itself that is tested). The container is removed whatever happens.

use std::{collections::BTreeMap, fs, path::Path};

use runyard_common::secret::Secret;
use serde::Deserialize;

use super::{
    build::{Workshop, certificates},
    credentials, explain,
    halt::Halt,
    session::{Call, Session},
    store::Buildah,
    work::{SecretEnv, Work},
};
use crate::{names::Reference, phase::Outcome};

/// Variables that a secret cannot have for a name: they would work on Buildah before they get to the container.
const OURS: &[&str] = &[
    "PATH",
    "HOME",
    "TMPDIR",
    "GODEBUG",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "REGISTRY_AUTH_FILE",
    "STORAGE_DRIVER",
    "STORAGE_OPTS",
];
/// Beginnings of such names: of the dynamic linker's, of Buildah's and its libraries'.
const OUR_PREFIXES: &[&str] = &["LD_", "XDG_", "BUILDAH_", "CONTAINERS_", "_CONTAINERS"];

/// Shells that know what [`THROUGH`] says.
const SHELLS: &[&str] = &["sh", "ash", "bash", "dash"];
/// For the tested image's own shell: does what follows, with the runner's pipes for stdout and stderr if they got this far.
///
/// With `chroot` isolation Buildah passes on what a program writes by a thread of its own that it does not wait for: it ends
/// when the program has ended, and then what the program said last is lost if that thread was not quick enough (`os.Exit` in
/// `runUsingChrootMain` of Buildah's `chroot/run_common.go`; seen with 1.28).
const THROUGH: &str = "if { true >&8 && true >&9; } 2>/dev/null; then exec \"$@\" >&8 2>&9 8>&- 9>&-; else exec \"$@\"; fi";

/// What to test.
pub(super) struct Test<'w> {
    /// The image.
    pub(super) image: &'w Reference,
    /// For its shell; none for the image itself.
    pub(super) command: Option<&'w str>,
    /// Variables.
    pub(super) env: &'w BTreeMap<String, String>,
    /// Variables from secrets.
    pub(super) secret_env: &'w [SecretEnv],
    /// Whether it gets the machine's NVIDIA devices.
    pub(super) gpu: bool,
}

/// Carries a test out.
pub(super) fn run(session: &mut Session<'_>, test: &Test<'_>) -> Result<Outcome, Halt> {
    let workshop = Workshop::open(session, false)?;
    let tested = work(session, &workshop, test);
    let closed = workshop.close(session);
    tested.and(closed).map(|()| Outcome::Tested)
}

fn work(session: &mut Session<'_>, workshop: &Workshop, test: &Test<'_>) -> Result<(), Halt> {
    let secrets = credentials::of_test(session, test.secret_env)?;
    let container = container(session, workshop, test)?;
    let command = match test.command {
        Some(command) => vec!["sh".to_owned(), "-c".to_owned(), command.to_owned()],
        None => own_command(session, workshop, test.image)?,
    };
    hand_over(session, workshop, &container, &secrets)?;
    let shown = test.command.unwrap_or("the image's entry point");
    session.say(format!("test: {shown}"));
    let call = run_call(&workshop.buildah, test, &container, &command);
    let ended = session.program(&call)?;
    if ended.status.success() {
        Ok(())
    } else {
        Err(explain::test(session, &ended, shown))
    }
}

/// The call that runs a test in its container.
pub(super) fn run_call(
    buildah: &Buildah,
    test: &Test<'_>,
    container: &str,
    command: &[String],
) -> Call {
    let mut call = buildah
        .call("run")
        .option("--isolation", &buildah.isolation);
    for (name, value) in test.env {
        call = call.option("--env", format!("{name}={value}"));
    }
    if test.gpu {
        call = call.option("--env", "NVIDIA_VISIBLE_DEVICES=all");
    }
    let call = call.arg(container).arg("--");
    match through_shell(command) {
        Some(command) if buildah.isolation == "chroot" => call.args(command).with_direct_words(),
        _ => call.args(command),
    }
}

/// The command by way of its own shell, if it begins with one. Images without a shell have no other way than Buildah's.
fn through_shell(command: &[String]) -> Option<Vec<String>> {
    let shell = command.first()?;
    let name = shell.rsplit('/').next()?;
    SHELLS.contains(&name).then(|| {
        let first = [shell.as_str(), "-c", THROUGH, shell.as_str()];
        first
            .into_iter()
            .map(str::to_owned)
            .chain(command.iter().cloned())
            .collect()
    })
}

/// The call that makes a container of the image.
pub(super) fn from_call(
    buildah: &Buildah,
    work: &Work,
    image: &Reference,
    login: Option<&Path>,
    devices: &[String],
) -> Call {
    let (host, registries) = (image.repository.host(), &work.registries);
    let mut call = buildah
        .call("from")
        .arg("--quiet")
        .option("--name", super::place::name(work))
        .option("--isolation", &buildah.isolation);
    if registries.insecure.iter().any(|insecure| insecure == host) {
        call = call.arg("--tls-verify=false");
    }
    if let Some(login) = login {
        call = call.option("--authfile", login);
    }
    if let Some(folder) = certificates(registries, host) {
        call = call.option("--cert-dir", folder);
    }
    for device in devices {
        call = call.option("--device", device);
    }
    call.arg(image.to_string()).captured()
}

/// Makes the container, with a name by which it is found whatever becomes of this run.
fn container(
    session: &mut Session<'_>,
    workshop: &Workshop,
    test: &Test<'_>,
) -> Result<String, Halt> {
    let auths = credentials::auths(session, &[test.image.repository.host()])?;
    let login = if auths.is_empty() {
        None
    } else {
        let text = auths.to_file();
        Some(workshop.place.keep("auth.json", text.expose().as_bytes())?)
    };
    let devices = if test.gpu { gpus()? } else { Vec::new() };
    let work = session.work;
    let call = from_call(
        &workshop.buildah,
        work,
        test.image,
        login.as_deref(),
        &devices,
    );
    session.say(format!("test: buildah from {}", test.image));
    let ended = session.program(&call)?;
    if ended.status.success() {
        return Ok(super::place::name(work));
    }
    let error = ended.heard.errors.back().cloned().unwrap_or_default();
    let error = error.trim_start_matches("Error: ").to_owned();
    Err(explain::anything(
        session,
        &ended,
        &format!("{}: {error}", test.image),
        "pull",
    ))
}

/// Buildah runs no entry point by itself; what it is, the image says.
fn own_command(
    session: &mut Session<'_>,
    workshop: &Workshop,
    image: &Reference,
) -> Result<Vec<String>, Halt> {
    #[derive(Deserialize)]
    struct Inspected {
        #[serde(rename = "OCIv1")]
        image: Image,
    }
    #[derive(Deserialize)]
    struct Image {
        #[serde(default)]
        config: Config,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Config {
        entrypoint: Option<Vec<String>>,
        cmd: Option<Vec<String>>,
    }
    let name = super::place::name(session.work);
    let call = workshop
        .buildah
        .call("inspect")
        .args(["--type", "container"])
        .arg(name)
        .quiet();
    let ended = session.program(&call)?;
    let inspected: Inspected = match serde_json::from_slice(&ended.output) {
        Ok(inspected) if ended.status.success() => inspected,
        _ => {
            let error = ended.heard.text();
            return Err(explain::anything(session, &ended, &error, "inspect"));
        }
    };
    let Config { entrypoint, cmd } = inspected.image.config;
    let command: Vec<String> = entrypoint.into_iter().chain(cmd).flatten().collect();
    if command.is_empty() {
        Err(Halt::input(format!(
            "{image} has neither an entry point nor a command to test"
        )))
    } else {
        Ok(command)
    }
}

/// Secrets go through the environment of Buildah into the container's description, which is removed with it; never through
/// arguments.
fn hand_over(
    session: &mut Session<'_>,
    workshop: &Workshop,
    container: &str,
    secrets: &[(String, Secret)],
) -> Result<(), Halt> {
    if secrets.is_empty() {
        return Ok(());
    }
    let mut call = workshop.buildah.call("config");
    for (name, value) in secrets {
        if is_ours(name) || value.expose().contains('\0') {
            return Err(Halt::input(format!(
                "a secret cannot become the variable `{name}`"
            )));
        }
        call = call.option("--env", name).env(name, value.expose());
    }
    let ended = session.program(&call.arg(container).quiet())?;
    if ended.status.success() {
        Ok(())
    } else {
        let error = ended.heard.text();
        Err(explain::anything(session, &ended, &error, "test"))
    }
}

fn is_ours(name: &str) -> bool {
    OURS.contains(&name) || OUR_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn gpus() -> Result<Vec<String>, Halt> {
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let mut devices: Vec<String> = entries
        .filter_map(|entry| entry.path().to_str().map(str::to_owned))
        .filter(|path| path.starts_with("/dev/nvidia") && !Path::new(path).is_dir())
        .collect();
    devices.sort();
    if devices.is_empty() {
        Err(Halt::infrastructure(
            "the test needs a GPU, and this machine has no NVIDIA device",
        ))
    } else {
        Ok(devices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_would_work_on_buildah_are_its_own() {
        for name in ["PATH", "LD_AUDIT", "CONTAINERS_CONF", "STORAGE_OPTS"] {
            assert!(is_ours(name), "{name}");
        }
        for name in ["API_TOKEN", "STORAGE_KEY", "https_proxy"] {
            assert!(!is_ours(name), "{name}");
        }
    }
}
