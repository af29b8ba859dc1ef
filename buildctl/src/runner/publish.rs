//! Publication: tags are moved to the digest that was tested, by its manifest; nothing is pulled or built again. The first tag is
//! the job's own and moves first, moving ones like `latest` come last. Each is checked at the registry after it moved.
//!
//! When one fails, those that moved before it are moved back to where they pointed, except the first, which is the job's alone
//! and harms nobody. What could not be moved back is reported as moved.

use super::{credentials, halt::Halt, session::Session};
use crate::{
    names::{Digest, Reference, Repository, Tag, Version},
    phase::{FailureKind, MovedTag, Outcome, RunFailure},
    registry::{Auths, Manifest, Options, Registry, RegistryError, Removal},
};

/// What to publish.
pub(super) struct Publication<'w> {
    /// The temporary name.
    pub(super) from: &'w Reference,
    /// What was tested.
    pub(super) digest: &'w Digest,
    /// Where to.
    pub(super) to: &'w Repository,
    /// In order.
    pub(super) tags: &'w [Tag],
}

/// Carries a publication out.
pub(super) fn run(
    session: &mut Session<'_>,
    publication: &Publication<'_>,
) -> Result<Outcome, Halt> {
    let Publication {
        from, digest, to, ..
    } = publication;
    let hosts = [from.repository.host(), to.host()];
    let registry = registry(session, &hosts)?;
    let tested = Reference {
        repository: from.repository.clone(),
        version: Version::Digest((*digest).clone()),
    };
    session.say(format!("publish: {tested}"));
    let manifest = registry.manifest(&tested).map_err(|error| halt(&error))?;
    let copied = registry.copy_content(&manifest, &from.repository, to, &mut |text| {
        session.log.say(&format!("publish: {text}"));
    });
    copied.map_err(|error| halt(&error))?;
    let tags = move_all(session, &registry, publication, &manifest)?;
    let mut left = None;
    if let Version::Tag(tag) = &from.version {
        let is_published = from.repository == **to && publication.tags.contains(tag);
        if !is_published {
            let removed = registry.remove(&from.repository, tag, Some(digest));
            let told = told(from, &removed);
            session.say(format!("publish: {told}"));
            left = (!is_gone(&removed)).then_some(told);
        }
    }
    Ok(Outcome::Published { tags, left })
}

/// Removes the temporary image of a job that is not published.
pub(super) fn clean_up(
    session: &mut Session<'_>,
    temporary: &Reference,
    digest: Option<&Digest>,
) -> Result<Outcome, Halt> {
    let Version::Tag(tag) = &temporary.version else {
        return Err(Halt::input(format!("{temporary} is no tag")));
    };
    let registry = registry(session, &[temporary.repository.host()])?;
    let removed = registry.remove(&temporary.repository, tag, digest);
    let told = told(temporary, &removed);
    session.say(format!("cleanup: {told}"));
    match removed {
        removed if is_gone(&removed) => Ok(Outcome::Cleaned),
        Ok(_) => Err(Halt::infrastructure(told)),
        Err(error) => Err(kind(&error).map_or(Halt::Stopped, |kind| Halt::of(kind, told))),
    }
}

fn is_gone(removed: &Result<Removal, RegistryError>) -> bool {
    matches!(removed, Ok(Removal::Removed | Removal::Absent))
}

fn told(temporary: &Reference, removed: &Result<Removal, RegistryError>) -> String {
    match removed {
        Ok(Removal::Removed) => format!("removed {temporary}"),
        Ok(Removal::Absent) => format!("{temporary} is no longer there"),
        Ok(Removal::Shared(other)) => {
            format!(
                "left {temporary}: its manifest is also that of the tag {other}, and the registry removes manifests only"
            )
        }
        Ok(Removal::Unsupported(why)) => {
            format!("left {temporary}: the registry does not remove images ({why})")
        }
        Err(error) => format!("left {temporary}: {error}"),
    }
}

fn registry(session: &mut Session<'_>, hosts: &[&str]) -> Result<Registry, Halt> {
    let auths: Auths = credentials::auths(session, hosts)?;
    let stop = session.stop.clone();
    let pause = Box::new(move |wait| stop.pause(wait));
    Ok(Registry::new(Options::of(
        &session.work.registries,
        auths,
        pause,
    )))
}

/// A failure of a registry, as a failure of the run.
fn halt(error: &RegistryError) -> Halt {
    match kind(error) {
        Some(kind) => Halt::of(kind, error.to_string()),
        None => Halt::Stopped,
    }
}

/// Whose matter an error is; none if it is that the run is to stop.
fn kind(error: &RegistryError) -> Option<FailureKind> {
    match error {
        RegistryError::Stopped => None,
        RegistryError::Denied { .. } | RegistryError::NotFound { .. } => Some(FailureKind::Input),
        _ => Some(FailureKind::Infrastructure),
    }
}

fn move_all(
    session: &mut Session<'_>,
    registry: &Registry,
    publication: &Publication<'_>,
    manifest: &Manifest,
) -> Result<Vec<MovedTag>, Halt> {
    let Publication { to, tags, .. } = publication;
    let mut moved: Vec<MovedTag> = Vec::new();
    for tag in *tags {
        let one = match session.stop.cause() {
            Some(_) => Err(RegistryError::Stopped.into()),
            None => move_one(registry, to, tag, manifest),
        };
        match one {
            Ok(one) => {
                let before = one
                    .previous
                    .as_ref()
                    .map(|digest| format!(" (was {digest})"));
                session.say(format!(
                    "publish: {to}:{tag} is {}{}",
                    one.digest,
                    before.unwrap_or_default()
                ));
                moved.push(one);
            }
            Err(Unmoved { error, perhaps }) => {
                session.say(format!("publish: {to}:{tag} could not be moved: {error}"));
                let moved_before = moved.len();
                moved.extend(perhaps.map(|one| *one));
                let stayed = move_back(session, registry, to, moved, manifest);
                for one in &stayed {
                    session.say(format!("publish: {to}:{} stays {}", one.tag, one.digest));
                }
                return Err(failed(to, tag, &error, moved_before, stayed));
            }
        }
    }
    Ok(moved)
}

/// A tag that did not move, or perhaps did.
struct Unmoved {
    error: RegistryError,
    /// Where it may be now.
    perhaps: Option<Box<MovedTag>>,
}

impl From<RegistryError> for Unmoved {
    fn from(error: RegistryError) -> Self {
        Self {
            error,
            perhaps: None,
        }
    }
}

fn move_one(
    registry: &Registry,
    to: &Repository,
    tag: &Tag,
    manifest: &Manifest,
) -> Result<MovedTag, Unmoved> {
    let one = MovedTag {
        tag: tag.clone(),
        digest: manifest.digest().clone(),
        previous: registry.digest_of(to, tag)?,
    };
    let perhaps = |error| Unmoved {
        error,
        perhaps: Some(Box::new(one.clone())),
    };
    if one.previous.as_ref() != Some(manifest.digest()) {
        let version = Version::Tag(tag.clone());
        match registry.put_manifest(to, &version, manifest) {
            Err(error @ RegistryError::Unreachable { .. }) => return Err(perhaps(error)),
            other => other?,
        }
    }
    match registry.digest_of(to, tag).map_err(perhaps)? {
        Some(digest) if digest == one.digest => Ok(one),
        found => {
            let absent = || "the tag is not there".to_owned();
            let why = found.map_or_else(absent, |digest| format!("it is {digest}"));
            let what = format!("{to}:{tag}, just moved to {},", one.digest);
            Err(perhaps(RegistryError::Unexpected { what, why }))
        }
    }
}

/// Moves tags back to where they pointed, the last one first, and returns those that point to the new image after all.
fn move_back(
    session: &mut Session<'_>,
    registry: &Registry,
    to: &Repository,
    moved: Vec<MovedTag>,
    manifest: &Manifest,
) -> Vec<MovedTag> {
    let mut stayed = Vec::new();
    for (index, one) in moved.into_iter().enumerate().rev() {
        let restored = match &one.previous {
            // The job's own tag may stay: nobody else's name changed with it.
            _ if index == 0 => Ok(false),
            Some(previous) if previous == manifest.digest() => Ok(false),
            Some(previous) => restore(registry, to, &one.tag, previous).map(|()| true),
            None => registry.remove_tag(to, &one.tag).map(|()| true),
        };
        match restored {
            Ok(true) => session.say(format!("publish: {to}:{} was moved back", one.tag)),
            Ok(false) => stayed.push(one),
            Err(error) => {
                session.say(format!(
                    "publish: {to}:{} could not be moved back: {error}",
                    one.tag
                ));
                let now = registry.digest_of(to, &one.tag);
                if !matches!(now, Ok(now) if now.as_ref() != Some(&one.digest)) {
                    stayed.push(one);
                }
            }
        }
    }
    stayed.reverse();
    stayed
}

fn restore(
    registry: &Registry,
    to: &Repository,
    tag: &Tag,
    previous: &Digest,
) -> Result<(), RegistryError> {
    let at = Reference {
        repository: to.clone(),
        version: Version::Digest(previous.clone()),
    };
    let manifest = registry.manifest(&at)?;
    registry.put_manifest(to, &Version::Tag(tag.clone()), &manifest)
}

/// Says which tag failed, and which ones point to the new image now. That is true of a run that was told to stop, too; how such
/// a run ended is said by whoever knows why it was.
fn failed(
    to: &Repository,
    tag: &Tag,
    error: &RegistryError,
    before: usize,
    stayed: Vec<MovedTag>,
) -> Halt {
    let kind = kind(error).unwrap_or(FailureKind::Infrastructure);
    let names: Vec<&str> = stayed.iter().map(|one| one.tag.as_str()).collect();
    let rest = match (before, names.is_empty()) {
        (0, true) => "no tag was moved".to_owned(),
        (_, true) => "the tags before it were moved back".to_owned(),
        (_, false) => format!("moved and left so: {}", names.join(", ")),
    };
    Halt::Failed(Box::new(RunFailure {
        kind,
        message: format!("{to}:{tag} could not be moved: {error}; {rest}"),
        moved: stayed,
        built: None,
    }))
}
