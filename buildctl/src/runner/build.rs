//! The build: fetch the source, let Buildah build it, push the image under its temporary name, and say which digest the registry
//! has. Nothing is tagged in the store: an image is known by its id, so that builds that share a store cannot mix theirs up.

mod flags;

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    time::Duration,
};

use runyard_common::secret::Secret;
use sha2::{Digest as _, Sha256};

use super::{
    credentials::{self, BuildSecrets},
    explain, git,
    halt::Halt,
    place::{Ground, Place, inside},
    session::{Call, Session},
    store::Buildah,
    work::{Credential, Registries},
};
use crate::{
    hex::hex,
    names::{Digest, Reference, Repository, Version},
    phase::{Built, Outcome},
    registry::{Options, Registry, Removal},
    spec::{ANNOTATED, BuildContext, BuildOptions, PREPROCESSED, RemoteCache, Source},
};

/// The id of the build secret that marks every container of a build as its run's. It holds nothing; its path is the mark, because
/// Buildah writes the sources of secrets down with each container before it does anything with it, and shows them to no step
/// that does not ask for them.
pub(super) const MARK: &str = "buildctl.run";
/// The waits before a push is tried again; Buildah itself tries a few times within each.
const WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// What to build.
pub(super) struct Build<'w> {
    /// From what.
    pub(super) source: &'w Source,
    /// Credentials for that.
    pub(super) git_credentials: Option<&'w Credential>,
    /// How.
    pub(super) options: &'w BuildOptions,
    /// Where to push.
    pub(super) temporary: &'w Reference,
    /// Whether to forget cached layers.
    pub(super) clear_cache: bool,
}

/// A store and a folder in it, for one run.
pub(super) struct Workshop {
    /// The store.
    pub(super) buildah: Buildah,
    /// Its own things.
    pub(super) ground: Ground,
    /// The run's folder.
    pub(super) place: Place,
    /// Whether the build must not use cached layers.
    no_cache: bool,
}

impl Workshop {
    /// Opens the store and makes the folder.
    pub(super) fn open(session: &mut Session<'_>, clear: bool) -> Result<Self, Halt> {
        let work = session.work;
        let buildah = Buildah::open(session, &work.storage)?;
        let ground = buildah.ground();
        let (lock, alone) = ground.enter(session)?;
        let no_cache = buildah.tidy(session, alone, work.storage.limit, clear)?;
        if alone {
            let shared = rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockShared);
            shared.map_err(|error| Halt::io(ground.file("lock").display(), &error.into()))?;
        }
        let folder = ground.run(work);
        if folder.exists() {
            // A scheduler that starts a run again has made sure that the first one is dead.
            buildah.bury_one(session, &folder)?;
        }
        let place = Place::make(&ground, work, lock)?;
        session.variables = vec![("TMPDIR".into(), place.file("tmp").into())];
        session.programs = Some(place.file("programs"));
        if let Some(enclosure) = &session.enclosure {
            place.keep("cgroup", enclosure.folder().as_os_str().as_encoded_bytes())?;
        }
        Ok(Self {
            buildah,
            ground,
            place,
            no_cache,
        })
    }

    /// Removes what Buildah left of this run. A run whose programs all ended by themselves left nothing, which costs a look into
    /// a folder.
    pub(super) fn close(self, session: &mut Session<'_>) -> Result<(), Halt> {
        let name = super::place::name(session.work);
        let containers = self.buildah.containers(&self.place.file(""), &name);
        self.buildah.remove(session, &containers)
    }

    /// The configuration of registries for hosts that may do without TLS. Others keep what the system says of them.
    pub(super) fn registries(&self, registries: &Registries) -> Result<Option<PathBuf>, Halt> {
        if registries.insecure.is_empty() {
            return Ok(None);
        }
        let system = [
            "/etc/containers/registries.conf",
            "/usr/share/containers/registries.conf",
        ];
        let mut text = system
            .iter()
            .find_map(|path| fs::read_to_string(path).ok())
            .unwrap_or_default();
        for host in &registries.insecure {
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "\n[[registry]]\nlocation = {host:?}\ninsecure = true\n"
            );
        }
        self.place
            .keep("registries.conf", text.as_bytes())
            .map(Some)
    }
}

/// The folder of certificates for a host, if there is one.
pub(super) fn certificates(registries: &Registries, host: &str) -> Option<PathBuf> {
    let folder = registries.certificates.as_ref()?.join(host);
    folder.is_dir().then_some(folder)
}

/// Carries a build out.
pub(super) fn run(session: &mut Session<'_>, build: &Build<'_>) -> Result<Outcome, Halt> {
    let workshop = Workshop::open(session, build.clear_cache)?;
    let built = work(session, &workshop, build);
    let closed = workshop.close(session);
    let built = built?;
    closed?;
    Ok(Outcome::Built(built))
}

fn work(session: &mut Session<'_>, workshop: &Workshop, build: &Build<'_>) -> Result<Built, Halt> {
    let place = (&workshop.ground, &workshop.place);
    let fetched = git::fetch(session, place, build.source, build.git_credentials)?;
    let secrets = credentials::of_build(session, build.options)?;
    let host = build.temporary.repository.host();
    let cache = build.options.cache.repositories();
    let hosts: Vec<&str> = std::iter::once(host)
        .chain(cache.map(Repository::host))
        .collect();
    let auths = credentials::auths(session, &hosts)?;
    let login = if auths.is_empty() {
        None
    } else {
        Some(
            workshop
                .place
                .keep("auth.json", auths.to_file().expose().as_bytes())?,
        )
    };
    let image = bud(
        session,
        workshop,
        build,
        &fetched.folder,
        login.as_deref(),
        &secrets,
    )?;
    session.say(format!("build: image {image}"));
    let pushed = push(session, workshop, build.temporary, login.as_deref(), &image);
    if matches!(pushed, Err(Halt::Stopped)) {
        take_back(session, build.temporary, auths);
    }
    let digest = pushed?;
    session.say(format!("build: pushed {}@{digest}", build.temporary));
    Ok(Built {
        commit: fetched.commit,
        image_id: image,
        temporary: build.temporary.clone(),
        digest,
    })
}

fn bud(
    session: &mut Session<'_>,
    workshop: &Workshop,
    build: &Build<'_>,
    source: &Path,
    login: Option<&Path>,
    secrets: &BuildSecrets,
) -> Result<String, Halt> {
    let options = build.options;
    let dockerfile = inside(source, &options.dockerfile, "the Dockerfile")?;
    not_preprocessed(&dockerfile, &options.dockerfile)?;
    let context = inside(source, &options.context, "the context")?;
    let text = fs::read_to_string(&dockerfile).map_err(|error| {
        Halt::input(format!("the Dockerfile `{}`: {error}", options.dockerfile))
    })?;
    let Workshop { buildah, place, .. } = workshop;
    let registries = &session.work.registries;
    flags::check(session, buildah, options)?;
    let contexts = options.contexts.iter().map(|(name, context)| {
        let what = format!("build_contexts.{name}:");
        let place = context_place(context, |below| inside(source, below, &what))?;
        Ok((name.as_str(), place))
    });
    let iid = place.file("iid");
    let bud = Bud {
        registries: workshop.registries(registries)?,
        iid: iid.clone(),
        mark: place.file("mark"),
        dockerfile,
        context,
        no_cache: workshop.no_cache,
        login: login.map(Path::to_owned),
        certificates: certificates(registries, build.temporary.repository.host()),
        secrets: kept(place, &secrets.plain, secret_file)?,
        ssh: kept(place, &secrets.ssh, ssh_file)?,
        contexts: contexts.collect::<Result<_, Halt>>()?,
    };
    let what = format!("--file {} {}", options.dockerfile, options.context);
    session.say(format!("build: buildah bud {}", what.trim_end()));
    let mut call = bud.call(buildah, options);
    if !options.ssh.is_empty() {
        // Its agents have their sockets there.
        call = call.env("TMPDIR", place.shortcut()?);
    }
    let ended = session.program(&call)?;
    if !ended.status.success() {
        return Err(explain::build(
            session,
            &ended,
            (&options.dockerfile, &text),
        ));
    }
    let id = fs::read_to_string(&iid).map_err(|error| Halt::io(iid.display(), &error))?;
    Ok(id.trim().trim_start_matches("sha256:").to_owned())
}

/// Buildah has the C preprocessor read a Dockerfile whose name ends in `.in`: here, and not in a container, so that an `#include`
/// in it could name any file of this machine. A link is known by what it leads to.
fn not_preprocessed(path: &Path, named: &str) -> Result<(), Halt> {
    if path.as_os_str().as_encoded_bytes().ends_with(b".in") {
        return Err(Halt::input(format!(
            "the Dockerfile `{named}` {PREPROCESSED}"
        )));
    }
    Ok(())
}

/// The file of a build secret, in the run's folder.
pub(super) fn secret_file(index: usize) -> String {
    format!("secrets/{index}")
}

/// The file of an SSH key, in the run's folder.
pub(super) fn ssh_file(index: usize) -> String {
    format!("secrets/ssh-{index}")
}

/// Writes secrets to files that only the run can read.
fn kept<'s>(
    place: &Place,
    secrets: &'s [(String, Secret)],
    file: impl Fn(usize) -> String,
) -> Result<Vec<(&'s str, PathBuf)>, Halt> {
    let keep = |(index, (id, value)): (usize, &'s (String, Secret))| {
        let path = place.keep(&file(index), value.expose().as_bytes())?;
        Ok((id.as_str(), path))
    };
    secrets.iter().enumerate().map(keep).collect()
}

/// What Buildah is told of a further context; `folder` finds one of the source.
pub(super) fn context_place(
    context: &BuildContext,
    folder: impl FnOnce(&str) -> Result<PathBuf, Halt>,
) -> Result<OsString, Halt> {
    Ok(match context {
        BuildContext::Path(below) => folder(below)?.into(),
        BuildContext::Image(image) => format!("docker-image://{image}").into(),
    })
}

/// Everything that a call of `buildah bud` is made from, besides what the user wants of it.
pub(super) struct Bud<'w> {
    /// Configuration of registries.
    pub(super) registries: Option<PathBuf>,
    /// Where Buildah writes the image's id.
    pub(super) iid: PathBuf,
    /// The file that marks the run's containers.
    pub(super) mark: PathBuf,
    /// What to build by.
    pub(super) dockerfile: PathBuf,
    /// From what.
    pub(super) context: PathBuf,
    /// Whether cached layers must not be used.
    pub(super) no_cache: bool,
    /// The file with logins.
    pub(super) login: Option<PathBuf>,
    /// The folder of the registry's certificates.
    pub(super) certificates: Option<PathBuf>,
    /// Ids of build secrets, and their files.
    pub(super) secrets: Vec<(&'w str, PathBuf)>,
    /// Ids of SSH keys, and their files.
    pub(super) ssh: Vec<(&'w str, PathBuf)>,
    /// Names of further contexts, and where they are.
    pub(super) contexts: Vec<(&'w str, OsString)>,
}

impl Bud<'_> {
    /// The call.
    pub(super) fn call(&self, buildah: &Buildah, options: &BuildOptions) -> Call {
        let mark = format!("id={MARK},src={}", self.mark.display());
        let mut call = buildah
            .call_with(self.registries.as_deref(), "bud")
            .args(["--layers", "--force-rm"])
            .option("--isolation", &buildah.isolation)
            .option("--iidfile", &self.iid)
            .option("--secret", mark)
            .option("--file", one_of_list(&self.dockerfile));
        call = with_options(call, options);
        if self.no_cache {
            call = call.arg("--no-cache");
        }
        if let Some(login) = &self.login {
            call = call.option("--authfile", login);
        }
        if let Some(folder) = &self.certificates {
            call = call.option("--cert-dir", folder);
        }
        for (id, path) in &self.secrets {
            call = call.option("--secret", format!("id={id},src={}", path.display()));
        }
        for (id, path) in &self.ssh {
            call = call.option("--ssh", format!("{id}={}", path.display()));
        }
        for (name, place) in &self.contexts {
            let mut named = OsString::from(format!("{name}="));
            named.push(place);
            call = call.option("--build-context", named);
        }
        call.arg("--").arg(&self.context)
    }
}

/// A path for an option that takes a list with commas, as CSV: what else is in the path is the path's.
fn one_of_list(path: &Path) -> OsString {
    let bytes = path.as_os_str().as_encoded_bytes();
    if !bytes.iter().any(|byte| b",\"\r\n".contains(byte)) {
        return path.into();
    }
    let mut quoted = vec![b'"'];
    for byte in bytes {
        quoted.extend((*byte == b'"').then_some(b'"'));
        quoted.push(*byte);
    }
    quoted.push(b'"');
    OsString::from_vec(quoted)
}

fn with_options(mut call: Call, options: &BuildOptions) -> Call {
    for (name, value) in &options.args {
        call = call.option("--build-arg", format!("{name}={value}"));
    }
    for (name, value) in &options.labels {
        call = call.option("--label", format!("{name}={value}"));
    }
    if let Some(target) = &options.target {
        call = call.option("--target", target);
    }
    if let Some(platform) = &options.platform {
        call = call.option("--platform", platform);
    }
    if options.squash {
        call = call.arg("--squash");
    }
    if let Some(network) = options.network {
        call = call.option("--network", network.name());
    }
    with_cache(with_annotations(call, options), &options.cache)
}

/// Annotations are of the OCI's manifests only, whatever format the environment says.
fn with_annotations(mut call: Call, options: &BuildOptions) -> Call {
    if options.annotations.is_empty() {
        return call;
    }
    let mut hash = Sha256::new();
    call = call.option("--format", "oci");
    for (name, value) in &options.annotations {
        for text in [name, value] {
            hash.update(text.len().to_be_bytes());
            hash.update(text);
        }
        call = call.option("--annotation", format!("{name}={value}"));
    }
    call.option("--label", format!("{ANNOTATED}={}", hex(hash.finalize())))
}

fn with_cache(mut call: Call, cache: &RemoteCache) -> Call {
    for repository in &cache.from {
        call = call.option("--cache-from", repository.to_string());
    }
    for repository in &cache.to {
        call = call.option("--cache-to", repository.to_string());
    }
    if let Some(ttl) = cache.ttl {
        call = call.option("--cache-ttl", format!("{}s", ttl.as_secs()));
    }
    call
}

/// The call that pushes an image, and writes the digest of its manifest to a file.
pub(super) fn push_call(
    buildah: &Buildah,
    registries: &Registries,
    (image, temporary): (&str, &Reference),
    digest: &Path,
    login: Option<&Path>,
) -> Call {
    let host = temporary.repository.host();
    let mut call = buildah.call("push").option("--digestfile", digest);
    if registries.insecure.iter().any(|insecure| insecure == host) {
        call = call.arg("--tls-verify=false");
    }
    if let Some(login) = login {
        call = call.option("--authfile", login);
    }
    if let Some(folder) = certificates(registries, host) {
        call = call.option("--cert-dir", folder);
    }
    call.arg(image).arg(format!("docker://{temporary}"))
}

/// Pushes, again if nobody answered, and returns the digest of the manifest that the registry has accepted.
fn push(
    session: &mut Session<'_>,
    workshop: &Workshop,
    temporary: &Reference,
    login: Option<&Path>,
    image: &str,
) -> Result<Digest, Halt> {
    let file = workshop.place.file("digest");
    let registries = &session.work.registries;
    session.say(format!("build: push {temporary}"));
    let mut waits = WAITS.into_iter();
    loop {
        let call = push_call(
            &workshop.buildah,
            registries,
            (image, temporary),
            &file,
            login,
        );
        let ended = session.program(&call)?;
        if ended.status.success() {
            break;
        }
        let wait = waits.next().filter(|_| explain::is_transport(&ended.heard));
        let Some(wait) = wait else {
            let error = ended.heard.errors.back().cloned().unwrap_or_default();
            // It begins with what and where to, which is said already.
            let error = error
                .split_once(&format!("\"docker://{temporary}\": "))
                .map_or(error.trim_start_matches("Error: "), |(_, why)| why);
            return Err(explain::anything(
                session,
                &ended,
                &format!("push to {temporary}: {error}"),
                "push",
            ));
        };
        session.say(format!(
            "build: the push failed; trying again in {} s",
            wait.as_secs()
        ));
        if !session.stop.pause(wait) {
            return Err(Halt::Stopped);
        }
    }
    let digest = fs::read_to_string(&file).map_err(|error| Halt::io(file.display(), &error))?;
    digest.trim().parse().map_err(|error| {
        Halt::infrastructure(format!("Buildah told no digest of what it pushed: {error}"))
    })
}

/// A push that was stopped may have been through: then nobody else knows of its tag.
fn take_back(session: &mut Session<'_>, temporary: &Reference, auths: crate::registry::Auths) {
    let Version::Tag(tag) = &temporary.version else {
        return;
    };
    let options = Options::of(&session.work.registries, auths, Box::new(|_| false));
    let registry = Registry::new(options);
    let at = &temporary.repository;
    match registry.remove(at, tag, None) {
        Ok(Removal::Removed) => session.say(format!("build: removed {temporary}")),
        Ok(Removal::Absent) => {}
        Ok(left) => session.say(format!(
            "build: {temporary} may be left in the registry ({left:?})"
        )),
        Err(error) => session.say(format!(
            "build: {temporary} may be left in the registry: {error}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_path_whatever_is_in_it() {
        for (path, written) in [
            ("/s/Docker file'$x", "/s/Docker file'$x"),
            ("/s/x,/etc/shadow", "\"/s/x,/etc/shadow\""),
            ("/s/a\"b", "\"/s/a\"\"b\""),
        ] {
            assert_eq!(one_of_list(Path::new(path)), written, "{path}");
        }
    }
}
