//! Folders that a job asks for: `mount {}`, `volumes` and `tmpfs`, read and checked. Volumes that the agent gives are taken
//! as they are, in [`super::task`].
//!
//! A source is a path of the host, which the operator must allow, or a path below the task's own `alloc/`, `local/` or
//! `secrets/`, which is always allowed.

use std::path::{Component, Path, PathBuf};

use super::{
    options::{MountOption, TaskOptions},
    policy::{self, Refusal, wrong},
};
use crate::{
    config::Config,
    task::{Dirs, Mount, Propagation, Tmpfs},
};

/// What a job asks for, in its order: first `mount {}`, then `volumes`, then `tmpfs`.
pub fn folders(
    options: &TaskOptions,
    dirs: &Dirs,
    config: &Config,
) -> Result<(Vec<Mount>, Vec<Tmpfs>), Refusal> {
    let (mut mounts, mut memory) = (Vec::new(), Vec::new());
    for option in &options.mounts {
        match option.kind.as_deref() {
            None | Some("bind") => mounts.push(bind(option, dirs, config)?),
            Some("tmpfs") => memory.push(tmpfs(option)?),
            Some(other) => return Err(wrong("mount.type", other, "use `bind` or `tmpfs`")),
        }
    }
    for text in &options.volumes {
        mounts.push(volume(text, dirs, config)?);
    }
    for text in &options.tmpfs {
        memory.push(short_tmpfs(text)?);
    }
    Ok((mounts, memory))
}

fn bind(option: &MountOption, dirs: &Dirs, config: &Config) -> Result<Mount, Refusal> {
    let given = option.source.as_deref().unwrap_or_default();
    Ok(Mount {
        source: source("mount.source", given, dirs, config)?,
        target: target("mount.target", option.target.as_deref().unwrap_or_default())?,
        readonly: option.readonly.unwrap_or(false),
        propagation: propagation("mount.propagation", option.propagation.as_deref())?,
    })
}

fn tmpfs(option: &MountOption) -> Result<Tmpfs, Refusal> {
    Ok(Tmpfs {
        target: target("mount.target", option.target.as_deref().unwrap_or_default())?,
        size: option
            .size
            .as_deref()
            .map(|size| policy::bytes("mount.size", size))
            .transpose()?,
        mode: option
            .mode
            .as_deref()
            .map(|mode| octal("mount.mode", mode))
            .transpose()?,
    })
}

/// `source:target[:option,…]`, with the options `ro`, `rw` and the kinds of propagation.
fn volume(text: &str, dirs: &Dirs, config: &Config) -> Result<Mount, Refusal> {
    let mut parts = text.split(':');
    let (Some(from), Some(to), flags, None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong(
            "volumes",
            text,
            "use `source:target` or `source:target:ro`",
        ));
    };
    let mut mount = Mount {
        source: source("volumes", from, dirs, config)?,
        target: target("volumes", to)?,
        readonly: false,
        propagation: Propagation::Rprivate,
    };
    for flag in flags
        .unwrap_or_default()
        .split(',')
        .filter(|flag| !flag.is_empty())
    {
        match flag {
            "ro" => mount.readonly = true,
            "rw" => mount.readonly = false,
            other => mount.propagation = propagation("volumes", Some(other))?,
        }
    }
    Ok(mount)
}

/// `target[:size=…,mode=…]`.
fn short_tmpfs(text: &str) -> Result<Tmpfs, Refusal> {
    let (path, settings) = text.split_once(':').unwrap_or((text, ""));
    let mut tmpfs = Tmpfs {
        target: target("tmpfs", path)?,
        size: None,
        mode: None,
    };
    for setting in settings.split(',').filter(|setting| !setting.is_empty()) {
        match setting.split_once('=') {
            Some(("size", size)) => tmpfs.size = Some(policy::bytes("tmpfs", size)?),
            Some(("mode", mode)) => tmpfs.mode = Some(octal("tmpfs", mode)?),
            _ => {
                return Err(wrong(
                    "tmpfs",
                    text,
                    "use `target` or `target:size=64m,mode=1777`",
                ));
            }
        }
    }
    Ok(tmpfs)
}

fn source(
    option: &'static str,
    path: &str,
    dirs: &Dirs,
    config: &Config,
) -> Result<PathBuf, Refusal> {
    if path.starts_with('/') {
        let path = policy::absolute(option, path)?;
        policy::host_mount(&path, config)?;
        return Ok(path);
    }
    own_folder(path, dirs).ok_or_else(|| {
        wrong(
            option,
            path,
            "use an absolute path, or one below alloc/, local/ or secrets/ without `..`",
        )
    })
}

/// A path below the task's own folders.
fn own_folder(path: &str, dirs: &Dirs) -> Option<PathBuf> {
    let mut parts = Path::new(path)
        .components()
        .filter(|part| *part != Component::CurDir);
    let Component::Normal(first) = parts.next()? else {
        return None;
    };
    let base = match first.to_str()? {
        "alloc" => dirs.alloc.as_ref(),
        "local" => dirs.local.as_ref(),
        "secrets" => dirs.secrets.as_ref(),
        _ => None,
    }?;
    let mut own = base.clone();
    for part in parts {
        let Component::Normal(name) = part else {
            return None;
        };
        own.push(name);
    }
    Some(own)
}

fn target(option: &'static str, path: &str) -> Result<PathBuf, Refusal> {
    let target = policy::absolute(option, path)?;
    let reserved = ["/", "/proc", "/sys", "/dev"];
    if reserved
        .iter()
        .any(|reserved| target == Path::new(reserved))
    {
        return Err(wrong(option, path, "the container needs its own there"));
    }
    Ok(target)
}

/// The kinds of propagation, by the names of the kernel and of Nomad's `volume_mount`.
pub fn propagation(option: &'static str, mode: Option<&str>) -> Result<Propagation, Refusal> {
    match mode.unwrap_or_default() {
        "" | "private" | "rprivate" => Ok(Propagation::Rprivate),
        "host-to-task" | "rslave" => Ok(Propagation::Rslave),
        "bidirectional" | "rshared" => Ok(Propagation::Rshared),
        other => Err(wrong(
            option,
            other,
            "use `private`, `host-to-task` or `bidirectional`",
        )),
    }
}

fn octal(option: &'static str, mode: &str) -> Result<u32, Refusal> {
    let mode_bits = u32::from_str_radix(mode, 8)
        .ok()
        .filter(|bits| *bits <= 0o7777);
    mode_bits.ok_or_else(|| wrong(option, mode, "use an octal mode such as 1777"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs() -> Dirs {
        Dirs {
            alloc: Some("/a/alloc".into()),
            local: Some("/a/web/local".into()),
            secrets: Some("/a/web/secrets".into()),
        }
    }

    fn open() -> Config {
        let mut config = Config::default();
        config.policy.allow_host_mounts = true;
        config
    }

    #[test]
    fn the_tasks_own_folders_need_no_permission() {
        let mount = volume("local/conf:/etc/app:ro", &dirs(), &Config::default()).unwrap();
        assert_eq!(
            (mount.source, mount.readonly),
            ("/a/web/local/conf".into(), true)
        );
        let mount = volume("./alloc/data:/data", &dirs(), &Config::default()).unwrap();
        assert_eq!(
            (mount.source, mount.readonly),
            ("/a/alloc/data".into(), false)
        );
    }

    #[test]
    fn a_path_that_leaves_the_task_is_refused() {
        for text in [
            "local/../../etc:/x",
            "../etc:/x",
            "private:/x",
            "etc:/x",
            ":/x",
        ] {
            assert!(volume(text, &dirs(), &open()).is_err(), "{text}");
        }
    }

    #[test]
    fn the_hosts_folders_need_the_operator() {
        let refused = volume("/srv:/srv", &dirs(), &Config::default())
            .unwrap_err()
            .to_string();
        assert!(refused.contains("allow_host_mounts = true"), "{refused}");
        let mount = volume("/srv:/srv:rslave,ro", &dirs(), &open()).unwrap();
        assert_eq!(
            (mount.propagation, mount.readonly),
            (Propagation::Rslave, true)
        );
    }

    #[test]
    fn a_target_is_inside_and_not_the_containers_own() {
        for text in [
            "/srv:srv",
            "/srv:/",
            "/srv:/proc",
            "/srv:/a/../proc",
            "/srv",
            "/srv:/a:ro:x",
        ] {
            assert!(volume(text, &dirs(), &open()).is_err(), "{text}");
        }
    }

    #[test]
    fn memory_has_a_size_and_a_mode() {
        let tmpfs = short_tmpfs("/cache:size=64m,mode=1777").unwrap();
        assert_eq!((tmpfs.size, tmpfs.mode), (Some(64 << 20), Some(0o1777)));
        assert!(short_tmpfs("/cache:mode=999").is_err() && short_tmpfs("/cache:fast").is_err());
    }

    #[test]
    fn all_three_kinds_keep_their_order() {
        let block = |kind: &str, target: &str| MountOption {
            kind: Some(kind.to_owned()),
            source: Some("local/x".to_owned()),
            target: Some(target.to_owned()),
            ..MountOption::default()
        };
        let options = TaskOptions {
            mounts: vec![
                block("bind", "/2"),
                block("tmpfs", "/m"),
                block("bind", "/1"),
            ],
            volumes: vec!["local:/3".to_owned()],
            tmpfs: vec!["/n".to_owned()],
            ..TaskOptions::default()
        };
        let (mounts, memory) = folders(&options, &dirs(), &Config::default()).unwrap();
        let targets: Vec<_> = mounts
            .iter()
            .map(|mount| mount.target.to_str().unwrap())
            .collect();
        assert_eq!(targets, ["/2", "/1", "/3"]);
        assert_eq!(memory.len(), 2);
    }
}
