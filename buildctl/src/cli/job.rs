//! What to build, as a command line says it: a directory, a URL, a job file, and flags over all of it. Whether it makes a job is
//! [`crate::spec`]'s matter.

mod options;

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueHint};
use runyard_common::{duration, exit::Exit, http::is_loopback, report::Failure};

use self::options::OptionArgs;
use super::environment;
use crate::{
    account,
    api::JobConfig,
    jobfile::{self, Input},
    names::{Reference, Repository, Version},
    spec::Conflict,
    version::{DEPLOY_DIR, VersionFile, branch_of},
};

/// Flags of verbs that describe a job. Each wins over the job file, which wins over the global one.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "What to build")]
pub(super) struct JobArgs {
    /// A directory, a Git URL, a job file, YAML, or `-` for YAML on standard input
    #[arg(value_name = "WHAT", value_hint = ValueHint::AnyPath, help_heading = "Arguments")]
    what: Option<String>,

    /// A job file with what the flags do not say
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    job: Option<PathBuf>,

    /// A job file with what neither flags nor job file say
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    global: Option<PathBuf>,

    /// Where to publish: REGISTRY/NAME or REGISTRY/NAME:TAG
    #[arg(short, long, value_name = "IMAGE")]
    image: Option<String>,

    /// Tag to move to it; repeated, or with commas between. Replaces the tags of job files
    #[arg(short, long = "tag", visible_alias = "image-tags", value_name = "TAG")]
    tags: Vec<String>,

    /// Tag it with the version in the deploy folder and the branch: `feature-x-v1.2.3`
    #[arg(long)]
    version_tags: bool,

    /// Branch, tag or commit of a Git URL [default: main]
    #[arg(long = "ref", value_name = "REF")]
    git_ref: Option<String>,

    /// Who the job is for; part of what is cached together [default: the user]
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,

    /// Path of the Dockerfile below the source [default: Dockerfile]
    #[arg(short = 'f', long, value_name = "PATH")]
    dockerfile: Option<String>,

    /// Path of the context below the source [default: all of it]
    #[arg(long, value_name = "PATH")]
    context: Option<String>,

    #[command(flatten)]
    options: OptionArgs,

    #[command(flatten)]
    test: TestArgs,

    #[command(flatten)]
    more: MoreArgs,
}

#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "How to test it")]
struct TestArgs {
    /// Command for the image's shell, in a container of its own; repeated for more. Replaces the tests of job files
    #[arg(long = "test", value_name = "COMMAND")]
    tests: Vec<String>,

    /// Run the image as it is, too
    #[arg(long)]
    test_entry_point: bool,

    /// Variable of the tests
    #[arg(long = "test-env", value_name = "NAME=VALUE", value_parser = pair)]
    test_env: Vec<(String, String)>,

    /// How long each test may take
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    test_timeout: Option<Duration>,
}

#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "How to do it")]
struct MoreArgs {
    /// How long the build may take
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    build_timeout: Option<Duration>,

    /// Where the repository's credentials are: a Vault path, `nomad:PATH`; without a service also `file:PATH`, `env:PREFIX`
    #[arg(long, value_name = "REF")]
    git_credentials: Option<String>,

    /// Where the registry's credentials are, likewise
    #[arg(long, value_name = "REF")]
    registry_credentials: Option<String>,

    /// What to do while another job works on the same image and ref: reject, queue or cancel-previous
    #[arg(long, value_name = "WHAT", value_parser = conflict)]
    on_conflict: Option<Conflict>,

    /// Where to post events to
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    webhook_url: Option<String>,

    /// Folder of histories and the version [default: ./deploy]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    deploy_dir: Option<String>,

    /// Registry that may be spoken to without verification, or over plain HTTP; loopback may anyway. Without a service only
    #[arg(long = "insecure-registry", value_name = "HOST")]
    insecure: Vec<String>,
}

/// `NAME=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it is written NAME=VALUE".to_owned()),
    }
}

fn conflict(text: &str) -> Result<Conflict, String> {
    match text {
        "reject" => Ok(Conflict::Reject),
        "queue" => Ok(Conflict::Queue),
        "cancel-previous" => Ok(Conflict::CancelPrevious),
        _ => Err("known are reject, queue and cancel-previous".to_owned()),
    }
}

/// What stands for WHAT where nothing does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// The directory that one is in.
    Directory,
    /// YAML on standard input.
    Stdin,
}

/// What WHAT is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Directory(PathBuf),
    Url(String),
    Description(Input),
    /// Only what flags and job files say.
    Nothing,
}

impl JobArgs {
    /// The job that is asked for.
    pub(super) fn load(&self, absent: Absent) -> Result<JobConfig, Failure> {
        let what = self.what(absent)?;
        let mut config = self.described(&what)?;
        self.source(&what, &mut config)?;
        self.image(&mut config)?;
        self.tests(&mut config);
        self.more(&mut config);
        let given = |text: &Option<String>, field: &mut String| {
            if let Some(text) = text {
                field.clone_from(text);
            }
        };
        given(&self.dockerfile, &mut config.dockerfile_path);
        given(&self.context, &mut config.dockerfile_context);
        given(&self.owner, &mut config.owner);
        self.options.apply(&mut config);
        if config.owner.trim().is_empty() {
            config.owner = user();
        }
        Ok(config.filled())
    }

    /// Registries that may be spoken to without verification: those that were named, and the one of the job on this very
    /// machine, as other programs hold it, too.
    pub(super) fn insecure(&self, config: &JobConfig) -> Vec<String> {
        let mut hosts = self.more.insecure.clone();
        let registry = Repository::of(config.registry_url.trim(), "x");
        hosts.extend(
            registry
                .map(|registry| registry.host().to_owned())
                .ok()
                .filter(|host| is_here(host)),
        );
        hosts
    }

    fn what(&self, absent: Absent) -> Result<What, Failure> {
        let Some(text) = self.what.as_deref() else {
            return Ok(match absent {
                Absent::Directory if self.job.is_none() && self.global.is_none() => {
                    What::Directory(PathBuf::from("."))
                }
                Absent::Stdin if self.job.is_none() && !io::stdin().is_terminal() => {
                    What::Description(Input::Stdin)
                }
                Absent::Stdin if self.job.is_none() => {
                    return Err(Failure::new(Exit::Usage, "no job is described")
                        .hint("name a directory, a Git URL or a job file, or pipe YAML in"));
                }
                _ => What::Nothing,
            });
        };
        if Path::new(text).is_dir() {
            return Ok(What::Directory(PathBuf::from(text)));
        }
        if is_url(text) {
            return Ok(What::Url(text.to_owned()));
        }
        match Input::of(Some(text)) {
            Ok(input) => Ok(What::Description(input)),
            Err(_) => Err(Failure::new(
                Exit::NotFound,
                format!("`{text}` is neither a directory nor a job file here, nor a Git URL"),
            )
            .hint("Git URLs are https://…, ssh://… and user@host:path")),
        }
    }

    /// What job files and tag flags say.
    fn described(&self, what: &What) -> Result<JobConfig, Failure> {
        let global = self.global.as_deref();
        let input = match (what, &self.job) {
            (What::Description(_), Some(_)) => {
                return Err(Failure::new(
                    Exit::Usage,
                    "there are two job files: one is named by --job",
                )
                .hint("what several jobs have in common belongs into the file of --global"));
            }
            (What::Description(input), None) => Some(input.clone()),
            (_, Some(path)) => Some(Input::File(path.clone())),
            (_, None) => None,
        };
        let mut stdin = io::stdin().lock();
        // What says nothing is a mistake only where it was said.
        let input = input.unwrap_or_else(|| Input::Inline("{}".to_owned()));
        jobfile::load(&input, global, &self.tags, &mut stdin)
    }

    fn source(&self, what: &What, config: &mut JobConfig) -> Result<(), Failure> {
        match what {
            What::Directory(path) => {
                let path = std::fs::canonicalize(path).map_err(|error| {
                    Failure::new(Exit::NotFound, format!("cannot use `{}`", path.display()))
                        .caused_by(error)
                })?;
                let text = path.to_str().ok_or_else(|| {
                    let text = format!("the path `{}` is no UTF-8", path.display());
                    Failure::new(Exit::Usage, text)
                })?;
                text.clone_into(&mut config.repo_url);
                if self.git_ref.is_some() {
                    return Err(Failure::new(
                        Exit::Usage,
                        "a directory is built as it is: --ref is for Git URLs",
                    )
                    .hint(format!(
                        "build that ref of it with file://{}",
                        path.display()
                    )));
                }
                config.git_ref = branch_of(&path).unwrap_or_else(|| "local".to_owned());
            }
            What::Url(url) => config.repo_url.clone_from(url),
            What::Description(_) | What::Nothing => {}
        }
        if let Some(reference) = &self.git_ref {
            config.git_ref.clone_from(reference);
        }
        Ok(())
    }

    fn image(&self, config: &mut JobConfig) -> Result<(), Failure> {
        if let Some(text) = &self.image {
            let (repository, tag) = image(text)?;
            repository.host().clone_into(&mut config.registry_url);
            repository.path().clone_into(&mut config.image_name);
            if let Some(tag) = tag.filter(|tag| !config.image_tags.contains(tag)) {
                config.image_tags.push(tag);
            }
        }
        if self.version_tags {
            let folder = self.deploy_dir(config);
            let tags = VersionFile::of(&folder)
                .load()?
                .tags(branch_of(Path::new(".")).as_deref());
            let tags = tags.iter().map(ToString::to_string);
            config.image_tags.extend(tags);
        }
        Ok(())
    }

    fn tests(&self, config: &mut JobConfig) {
        let TestArgs {
            tests,
            test_entry_point,
            test_env,
            test_timeout,
        } = &self.test;
        let is_silent =
            tests.is_empty() && !test_entry_point && test_env.is_empty() && test_timeout.is_none();
        if is_silent {
            return;
        }
        let test = config.test.get_or_insert_default();
        if !tests.is_empty() {
            test.commands.clone_from(tests);
        }
        test.entry_point |= test_entry_point;
        test.env.extend(test_env.iter().cloned());
        test.timeout = test_timeout.map(Into::into).or(test.timeout);
    }

    fn more(&self, config: &mut JobConfig) {
        let more = &self.more;
        for (given, field) in [
            (&more.git_credentials, &mut config.git_credentials_path),
            (
                &more.registry_credentials,
                &mut config.registry_credentials_path,
            ),
            (&more.webhook_url, &mut config.webhook_url),
            (&more.deploy_dir, &mut config.deploy_dir),
        ] {
            if let Some(text) = given {
                field.clone_from(text);
            }
        }
        config.build_timeout = more.build_timeout.map(Into::into).or(config.build_timeout);
        config.on_conflict = more.on_conflict.or(config.on_conflict);
    }

    fn deploy_dir(&self, config: &JobConfig) -> String {
        let said = self.more.deploy_dir.as_ref().unwrap_or(&config.deploy_dir);
        if said.is_empty() {
            DEPLOY_DIR.to_owned()
        } else {
            said.clone()
        }
    }
}

/// Refuses what only this machine could build, if it is to be built elsewhere.
pub(super) fn check_source(config: &JobConfig, is_elsewhere: bool) -> Result<(), Failure> {
    if is_elsewhere && config.repo_url.starts_with('/') {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "`{}` is a directory of this machine, and a service builds from Git URLs only",
                config.repo_url
            ),
        )
        .hint("push it somewhere and name its URL, or build it here: --local"));
    }
    Ok(())
}

/// `REGISTRY/NAME` or `REGISTRY/NAME:TAG`.
fn image(text: &str) -> Result<(Repository, Option<String>), Failure> {
    let wrong = |why: String| {
        Failure::new(Exit::Usage, why)
            .hint("it is written as in registry.example.com:5000/team/app:v1")
    };
    let is_tagged = text
        .rsplit_once(':')
        .is_some_and(|(_, tag)| !tag.contains('/'));
    if !is_tagged {
        return match text.parse() {
            Ok(repository) => Ok((repository, None)),
            Err(error) => Err(wrong(error.to_string())),
        };
    }
    match text.parse::<Reference>() {
        Ok(Reference {
            repository,
            version: Version::Tag(tag),
        }) => Ok((repository, Some(tag.to_string()))),
        Ok(_) => Err(wrong(format!(
            "`{text}` is a digest, and digests are what comes of a build"
        ))),
        Err(error) => Err(wrong(error.to_string())),
    }
}

fn is_url(text: &str) -> bool {
    let is_scp = || {
        let (user, rest) = text.split_once('@')?;
        let (host, path) = rest.split_once(':')?;
        let word = |part: &str| {
            !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || c == '/')
        };
        (word(user) && word(host) && !path.starts_with(' ') && !path.contains('\n')).then_some(())
    };
    let has_scheme = text.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty()
            && scheme
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'+')
    });
    has_scheme || is_scp().is_some()
}

/// Whether a registry's host, which may have a port, is this machine.
fn is_here(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    is_loopback(name)
}

/// Who types this.
fn user() -> String {
    let named = |name| environment(name).filter(|name| !name.trim().is_empty());
    let uid = rustix::process::getuid().as_raw();
    named("USER")
        .or_else(|| named("LOGNAME"))
        .or_else(|| account::name_of(uid))
        .unwrap_or_else(|| format!("uid-{uid}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use runyard_common::testing::tempdir;

    use super::*;
    use crate::api::TestConfig;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        job: JobArgs,
    }

    fn load(words: &[&str]) -> Result<JobConfig, Failure> {
        let typed = Typed::try_parse_from([&["x"], words].concat()).unwrap();
        typed.job.load(Absent::Directory)
    }

    #[test]
    fn a_directory_and_flags_need_no_file() {
        let dir = tempdir();
        let path = dir.path().to_str().unwrap();
        let config = load(&[
            path,
            "--image",
            "reg:5000/team/app",
            "-t",
            "v1,latest",
            "--test",
            "app --selftest",
            "--owner",
            "me",
        ])
        .unwrap();
        let directory = std::fs::canonicalize(path).unwrap();
        assert_eq!(config.repo_url, directory.to_str().unwrap());
        assert_eq!(
            (config.registry_url.as_str(), config.image_name.as_str()),
            ("reg:5000", "team/app")
        );
        assert_eq!(config.image_tags, ["v1", "latest"]);
        assert_eq!(config.owner, "me");
        assert_eq!(
            (config.git_ref.as_str(), config.dockerfile_path.as_str()),
            ("local", "Dockerfile")
        );
        assert_eq!(
            config.test,
            Some(TestConfig {
                commands: vec!["app --selftest".to_owned()],
                ..TestConfig::default()
            })
        );
    }

    #[test]
    fn flags_win_over_the_job_file_which_wins_over_the_global_one() {
        let dir = tempdir();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let global = file(
            "global.yaml",
            "owner: g\nregistry_url: g:1\nimage_name: g\nimage_tags: [g]\ngit_ref: g\n",
        );
        let job = file(
            "job.yaml",
            "owner: j\nimage_name: j\ntest: {commands: [j], entry_point: true}\nbuild_args: {A: j, B: j}\n",
        );
        let config = load(&[
            "https://git.test/x.git",
            "-g",
            &global,
            "--job",
            &job,
            "--test",
            "t",
            "--build-arg",
            "A=f=1",
            "--ref",
            "v1",
        ])
        .unwrap();
        assert_eq!(config.repo_url, "https://git.test/x.git");
        assert_eq!(
            (config.owner.as_str(), config.image_name.as_str()),
            ("j", "j")
        );
        assert_eq!(config.registry_url, "g:1");
        assert_eq!(
            (config.git_ref.as_str(), &config.image_tags),
            ("v1", &vec!["g".to_owned()])
        );
        let args: Vec<_> = config.build_args.into_iter().collect();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(args, [pair("A", "f=1"), pair("B", "j")]);
        let test = config.test.unwrap();
        assert_eq!(
            (test.commands, test.entry_point),
            (vec!["t".to_owned()], true)
        );
        let failure = load(&[&job, "--job", &job]).unwrap_err();
        assert!(failure.message().contains("two job files"), "{failure}");
    }

    #[test]
    fn what_is_nothing_is_told_with_what_it_could_be() {
        let failure = load(&["nowhere"]).unwrap_err();
        assert_eq!(failure.exit(), Exit::NotFound);
        assert!(
            failure.message().contains("`nowhere` is neither"),
            "{failure}"
        );
        for wrong in ["app", "reg/App", "reg/app:", "reg/app@sha256:00"] {
            let failure = load(&["https://x/y", "--image", wrong]).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage, "{wrong}");
        }
        let failure = load(&[".", "--ref", "v1"]).unwrap_err();
        assert!(
            failure.message().contains("--ref is for Git URLs"),
            "{failure}"
        );
    }

    #[test]
    fn git_urls_are_told_from_yaml_and_files() {
        for url in [
            "https://x/y",
            "ssh://a@b/c",
            "git@host:a/b.git",
            "file:///x",
        ] {
            assert!(is_url(url), "{url}");
        }
        for other in [
            "a.yaml",
            "owner: x",
            "owner: a@b: c",
            "./x",
            "repo_url: https://x/y",
        ] {
            assert!(!is_url(other), "{other}");
        }
    }

    #[test]
    fn only_this_machines_registries_may_do_without_tls_unasked() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:1", "[::1]:5000"] {
            assert!(is_here(host), "{host}");
        }
        for host in [
            "registry.test",
            "localhost.evil.test",
            "10.0.0.1:5000",
            "127.0.0.1.x",
        ] {
            assert!(!is_here(host), "{host}");
        }
        let typed = Typed::try_parse_from(["x", "--insecure-registry", "a:1"]).unwrap();
        let config = JobConfig {
            registry_url: "localhost:5000/x".to_owned(),
            ..JobConfig::default()
        };
        assert_eq!(typed.job.insecure(&config), ["a:1", "localhost:5000"]);
    }
}
