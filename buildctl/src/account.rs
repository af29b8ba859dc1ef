//! The account that this process has on its machine: what it is called, which programs it finds, and whether it can have
//! containers of its own, which consist of subordinate ids (`subuid(5)`) that two set-user-id programs hand out
//! (`newuidmap(1)`).

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use rustix::process::geteuid;

/// Where ranges of subordinate ids are listed.
const RANGES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];
/// The programs that hand them out.
const MAPPERS: [&str; 2] = ["newuidmap", "newgidmap"];
/// How many ids an account needs: images have files of users up to 65534.
const ENOUGH: u64 = 65536;

/// A program: a path, or a name in the folders of `path`.
pub(crate) fn program(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let is_program = |path: &Path| {
        rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
    };
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| is_program(path));
    }
    std::env::split_paths(path?)
        .map(|folder| folder.join(name))
        .find(|path| is_program(path))
}

/// What a user is called, if the machine knows it.
pub(crate) fn name_of(uid: u32) -> Option<String> {
    listed(&fs::read_to_string("/etc/passwd").ok()?, uid)
}

/// The account of a user, as passwd(5) lists it.
fn listed(list: &str, uid: u32) -> Option<String> {
    let mut entries = list.lines().map(|line| line.split(':'));
    entries.find_map(|mut fields| {
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Something that an account lacks, and how to come by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lack {
    /// What.
    pub(crate) what: String,
    /// What to do.
    pub(crate) mend: String,
}

/// What is missing of the ranges of this process's account; its name if nothing is.
pub(crate) fn ranges() -> Result<String, Lack> {
    let uid = geteuid().as_raw();
    let name = name_of(uid).unwrap_or_else(|| uid.to_string());
    let files = RANGES.map(|path| fs::read_to_string(path).unwrap_or_default());
    lacking(&name, uid, &files).map_or(Ok(name), Err)
}

fn lacking(name: &str, uid: u32, files: &[String; 2]) -> Option<Lack> {
    let has_none = |(_, file): &(&str, &String)| !has_range(file, name, uid);
    let missing: Vec<&str> = RANGES
        .into_iter()
        .zip(files)
        .filter(has_none)
        .map(|(path, _)| path)
        .collect();
    (!missing.is_empty()).then(|| Lack {
        what: format!(
            "{name} has no range of {ENOUGH} in {}",
            missing.join(" and ")
        ),
        mend: add_ranges(first_free(&files.concat()), name),
    })
}

/// What is missing of the programs that map ids, as `PATH` says.
pub(crate) fn mappers(path: Option<&OsStr>) -> Option<Lack> {
    let is_missing = |name: &&str| program(name, path).is_none();
    let missing: Vec<&str> = MAPPERS.into_iter().filter(is_missing).collect();
    (!missing.is_empty()).then(|| Lack {
        what: format!("{} not in PATH", missing.join(", ")),
        mend: "install the package `uidmap`".to_owned(),
    })
}

fn add_ranges(first: u64, name: &str) -> String {
    let range = format!("{first}-{}", first + ENOUGH - 1);
    format!("usermod --add-subuids {range} --add-subgids {range} {name}")
}

/// Where a range can begin that nobody has.
fn first_free(file: &str) -> u64 {
    let ends = file.lines().filter_map(|line| {
        let mut numbers = line.split(':').skip(1).map(str::parse::<u64>);
        numbers.next()?.ok()?.checked_add(numbers.next()?.ok()?)
    });
    ends.max().unwrap_or_default().max(100_000)
}

fn has_range(file: &str, name: &str, uid: u32) -> bool {
    let ranges = file.lines().filter_map(|line| {
        let (who, range) = line.split_once(':')?;
        let count = range.split_once(':')?.1.trim().parse::<u64>().ok()?;
        (who == name || who.parse() == Ok(uid)).then_some(count)
    });
    ranges.sum::<u64>() >= ENOUGH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_the_one_of_the_number() {
        let list = "root:x:0:0::/root:/bin/sh\nbroken\nme:x:1000:1000::/:/bin/sh\n";
        assert_eq!(listed(list, 1000).as_deref(), Some("me"));
        assert_eq!(listed(list, 7), None);
    }

    #[test]
    fn a_range_counts_for_its_account_only_and_has_to_be_large_enough() {
        let file = "build:100000:65536\n1001:200000:65536\nsmall:1:1000\n";
        assert!(has_range(file, "build", 1000));
        assert!(has_range(file, "other", 1001));
        assert!(!has_range(file, "small", 1002));
        assert!(!has_range(file, "buil", 100));
    }

    #[test]
    fn a_new_range_is_nobody_elses() {
        assert_eq!(first_free(""), 100_000);
        assert_eq!(first_free("a:100000:65536\nb:300000:65536\n# c\n"), 365_536);
        let files = [
            "me:100000:65536\n".to_owned(),
            "you:100000:65536\n".to_owned(),
        ];
        assert_eq!(
            lacking("you", 1, &files).unwrap().what,
            "you has no range of 65536 in /etc/subuid"
        );
        let lack = lacking("me", 1000, &files).unwrap();
        assert_eq!(lack.what, "me has no range of 65536 in /etc/subgid");
        assert_eq!(
            lack.mend,
            "usermod --add-subuids 165536-231071 --add-subgids 165536-231071 me"
        );
    }

    #[test]
    fn programs_that_map_ids_are_looked_for_in_the_path() {
        let lack = mappers(Some("/nonexistent".as_ref())).unwrap();
        assert_eq!(lack.what, "newuidmap, newgidmap not in PATH");
    }
}
