//! The version of what is built: three numbers in `deploy/version.yaml`, and the tags that follow from them and from the branch,
//! as the original's command line made them. Which tags a job gets is the caller's matter.
//!
//! The file, as the original writes it:
//!
//! ```yaml
//! version:
//!     major: 0
//!     minor: 1
//!     patch: 5
//! ```

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use runyard_common::{
    config::{FileFormat, Layers, Missing},
    exit::Exit,
    report::Failure,
};
use rustix::fs::FlockOperation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{names::Tag, state::file};

/// Where the file is, unless a job file's `deploy_dir` says something else.
pub const DEPLOY_DIR: &str = "./deploy";

/// Branches whose versions get a tag without the branch's name too.
const MAIN: [&str; 2] = ["main", "master"];

/// How much of a branch's name is in a tag; what follows it is at most 64 of the 128 characters that a tag may have.
const BRANCH: usize = 63;

/// Three numbers.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(default)]
pub struct Version {
    /// Changes with what breaks.
    pub major: u32,
    /// Changes with what is new.
    pub minor: u32,
    /// Changes with every build.
    pub patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// How a version changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bump {
    /// The next patch.
    Patch,
    /// The next minor version; patch 0.
    Minor,
    /// The next major version; minor and patch 0.
    Major,
    /// This minor version; patch 0. The original's `version-minor N`.
    MinorTo(u32),
    /// This major version; minor and patch 0. The original's `version-major N`.
    MajorTo(u32),
}

impl Version {
    /// The version after a change; none if a number grew too large.
    pub fn bumped(self, bump: Bump) -> Option<Self> {
        let Self {
            major,
            minor,
            patch,
        } = self;
        let of = |major, minor, patch| Self {
            major,
            minor,
            patch,
        };
        Some(match bump {
            Bump::Patch => of(major, minor, patch.checked_add(1)?),
            Bump::Minor => of(major, minor.checked_add(1)?, 0),
            Bump::Major => of(major.checked_add(1)?, 0, 0),
            Bump::MinorTo(minor) => of(major, minor, 0),
            Bump::MajorTo(major) => of(major, 0, 0),
        })
    }

    /// `v1.2.3`.
    pub fn tag(self) -> Tag {
        parsed(&format!("v{self}"))
    }

    /// `feature-x-v1.2.3`; without a name that can be part of a tag, `v1.2.3`.
    pub fn branch_tag(self, branch: &str) -> Tag {
        match sanitized(branch) {
            name if name.is_empty() => self.tag(),
            name => parsed(&format!("{name}-v{self}")),
        }
    }

    /// The tags of a build of this version: the branch's, and on the main branch the plain one. Without a branch (a checkout of a
    /// commit) the plain one alone.
    pub fn tags(self, branch: Option<&str>) -> Vec<Tag> {
        let Some(branch) = branch else {
            return vec![self.tag()];
        };
        let mut tags = vec![self.branch_tag(branch)];
        if MAIN.contains(&branch) {
            tags.push(self.tag());
        }
        tags
    }
}

fn parsed(text: &str) -> Tag {
    text.parse()
        .unwrap_or_else(|_| unreachable!("`{text}` is made of what tags are made of"))
}

/// A branch's name as a part of a tag, as the original makes it: letters, digits, `.` and `-`. What it would make invalid (a
/// leading dot, more than 128 characters) is cut off.
fn sanitized(branch: &str) -> String {
    let plain = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' => c,
        _ => '-',
    };
    let name: String = branch.chars().map(plain).collect();
    let name = name.trim_matches('-').trim_start_matches(['.', '-']);
    let cut = &name[..name.len().min(BRANCH)];
    cut.trim_end_matches('-').to_owned()
}

/// A version and what follows from it, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Info {
    /// `1.2.3`.
    pub version: String,
    /// `v1.2.3`.
    pub tag: String,
    /// The branch that is checked out.
    pub branch: Option<String>,
    /// `feature-x-v1.2.3`.
    pub branch_tag: Option<String>,
    /// Where the version is kept.
    pub file: PathBuf,
}

/// The file with a version.
#[derive(Clone, Debug)]
pub struct VersionFile {
    dir: PathBuf,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Content {
    version: Version,
}

impl VersionFile {
    /// The one in a folder, which need not exist.
    pub fn of(deploy_dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: deploy_dir.into(),
        }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.dir.join("version.yaml")
    }

    /// The version; 0.0.0 without a file. A key that is not known is an error, because writing would lose it.
    pub fn load(&self) -> Result<Version, Failure> {
        let content: Content = Layers::defaults(&Content::default())
            .and_then(|layers| layers.file(&self.path(), FileFormat::Yaml, Missing::Ok))
            .and_then(Layers::resolve)
            .map_err(Failure::from)?
            .value;
        Ok(content.version)
    }

    /// Writes a version: whole or not at all.
    pub fn save(&self, version: Version) -> Result<(), Failure> {
        let _lock = self.lock()?;
        self.write(version)
    }

    /// Changes the version; of two that do so at once, both count. Says what it was and what it is.
    pub fn bump(&self, bump: Bump) -> Result<(Version, Version), Failure> {
        let _lock = self.lock()?;
        let before = self.load()?;
        let after = before.bumped(bump).ok_or_else(|| {
            Failure::new(
                Exit::Failed,
                format!("version {before} has a number that cannot grow any more"),
            )
        })?;
        self.write(after)?;
        Ok((before, after))
    }

    /// The version and its tags, on the branch that is checked out in the folder's repository.
    pub fn info(&self) -> Result<Info, Failure> {
        let version = self.load()?;
        let branch = branch_of(self.nearest());
        Ok(Info {
            version: version.to_string(),
            tag: version.tag().to_string(),
            branch_tag: branch
                .as_deref()
                .map(|branch| version.branch_tag(branch).to_string()),
            branch,
            file: self.path(),
        })
    }

    /// The folder, or the nearest one above it that exists.
    fn nearest(&self) -> &Path {
        let there = self.dir.ancestors().find(|dir| dir.is_dir());
        there.unwrap_or(Path::new("."))
    }

    /// Holds the folder until it is dropped; nothing is left behind in it.
    fn lock(&self) -> Result<fs::File, Failure> {
        let failed = |error: io::Error| self.cannot("open the folder of", error);
        fs::create_dir_all(&self.dir).map_err(failed)?;
        let folder = fs::File::open(&self.dir).map_err(failed)?;
        rustix::fs::flock(&folder, FlockOperation::LockExclusive)
            .map_err(|error| self.cannot("lock the folder of", error.into()))?;
        Ok(folder)
    }

    fn write(&self, version: Version) -> Result<(), Failure> {
        let text = format!(
            "version:\n    major: {}\n    minor: {}\n    patch: {}\n",
            version.major, version.minor, version.patch
        );
        file::rewrite(&self.path(), text.as_bytes()).map_err(|error| self.cannot("write", error))
    }

    fn cannot(&self, what: &str, error: io::Error) -> Failure {
        let path = self.path();
        Failure::new(Exit::Failed, format!("cannot {what} `{}`", path.display()))
            .caused_by(error)
            .hint("name another folder with --deploy-dir")
    }
}

/// The branch that is checked out in `dir`; none in a detached state, outside of a repository, or without Git.
pub fn branch_of(dir: &Path) -> Option<String> {
    let output = Command::new("git")
        .args(["symbolic-ref", "--quiet", "--short", "HEAD"])
        .current_dir(dir)
        .stdin(std::process::Stdio::null())
        .output()
        .ok()?;
    let name = String::from_utf8(output.stdout).ok()?;
    let name = name.trim();
    (output.status.success() && !name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use runyard_common::testing::tempdir;

    use super::*;

    const V: Version = Version {
        major: 1,
        minor: 2,
        patch: 3,
    };

    #[test]
    fn a_branch_becomes_a_part_of_a_tag_as_the_original_makes_it() {
        for (branch, tag) in [
            ("main", "main-v1.2.3"),
            ("feature/new-ui", "feature-new-ui-v1.2.3"),
            ("bugfix/fix_parser", "bugfix-fix-parser-v1.2.3"),
            ("release-1.0", "release-1.0-v1.2.3"),
            ("test@branch#123", "test-branch-123-v1.2.3"),
            ("--both ends--", "both-ends-v1.2.3"),
            ("..x", "x-v1.2.3"),
            ("über", "ber-v1.2.3"),
            ("@@", "v1.2.3"),
        ] {
            assert_eq!(V.branch_tag(branch).as_str(), tag, "{branch}");
        }
    }

    #[test]
    fn the_main_branch_has_the_plain_tag_too_and_a_commit_has_it_alone() {
        let tags =
            |branch| -> Vec<String> { V.tags(branch).iter().map(ToString::to_string).collect() };
        assert_eq!(tags(Some("feature/x")), ["feature-x-v1.2.3"]);
        assert_eq!(tags(Some("main")), ["main-v1.2.3", "v1.2.3"]);
        assert_eq!(tags(None), ["v1.2.3"]);
    }

    #[test]
    fn a_change_resets_what_is_below_it() {
        let text = |bump| V.bumped(bump).unwrap().to_string();
        assert_eq!(text(Bump::Patch), "1.2.4");
        assert_eq!(text(Bump::Minor), "1.3.0");
        assert_eq!(text(Bump::Major), "2.0.0");
        assert_eq!(text(Bump::MinorTo(7)), "1.7.0");
        assert_eq!(text(Bump::MajorTo(0)), "0.0.0");
        let last = Version {
            patch: u32::MAX,
            ..V
        };
        assert_eq!(last.bumped(Bump::Patch), None);
    }

    #[test]
    fn the_file_is_the_originals() {
        let dir = tempdir();
        let file = VersionFile::of(dir.path().join("deploy"));
        assert_eq!(file.load().unwrap(), Version::default());
        let (before, after) = file.bump(Bump::MinorTo(2)).unwrap();
        assert_eq!(
            (before.to_string(), after.to_string()),
            ("0.0.0".into(), "0.2.0".into())
        );
        let text = fs::read_to_string(file.path()).unwrap();
        assert_eq!(text, "version:\n    major: 0\n    minor: 2\n    patch: 0\n");
        fs::write(file.path(), "version: {major: 3, patch: 4}\n").unwrap();
        assert_eq!(file.load().unwrap().to_string(), "3.0.4");
        let left: Vec<_> = fs::read_dir(dir.path().join("deploy")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn what_would_be_lost_is_refused_with_its_line() {
        let dir = tempdir();
        let file = VersionFile::of(dir.path());
        fs::write(file.path(), "version:\n  major: 1\n  build: 7\n").unwrap();
        let failure = file.bump(Bump::Patch).unwrap_err();
        assert!(failure.to_string().contains("line 3"), "{failure}");
        assert!(failure.to_string().contains("version.build"), "{failure}");
        let text = fs::read_to_string(file.path()).unwrap();
        assert!(text.contains("build: 7"), "{text}");
    }

    #[test]
    fn of_many_changes_at_once_all_count() {
        let dir = tempdir();
        let file = VersionFile::of(dir.path());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| file.bump(Bump::Patch).unwrap());
            }
        });
        assert_eq!(file.load().unwrap().patch, 8);
    }

    #[test]
    fn the_branch_is_the_one_that_is_checked_out() {
        let dir = tempdir();
        let git = |args: &[&str]| {
            Command::new("git")
                .args(args)
                .current_dir(dir.path())
                .output()
                .map(|output| output.status.success())
        };
        if !matches!(git(&["init", "-q", "-b", "feature/x"]), Ok(true)) {
            println!("skipped: there is no git");
            return;
        }
        let info = VersionFile::of(dir.path().join("deploy")).info().unwrap();
        assert_eq!(info.branch.as_deref(), Some("feature/x"));
        assert_eq!(info.branch_tag.as_deref(), Some("feature-x-v0.0.0"));
        assert_eq!(info.tag, "v0.0.0");
    }

    proptest! {
        #[test]
        fn any_branch_gives_a_tag(branch in ".*", major: u32, minor: u32, patch: u32) {
            let version = Version { major, minor, patch };
            let tag = version.branch_tag(&branch);
            prop_assert!(tag.as_str().len() <= 128);
            prop_assert!(tag.as_str().ends_with(&version.tag().to_string()));
        }
    }
}
