//! What Buildah is asked for besides a Dockerfile, by what comes of it: annotations, layers, remote caches, keys, contexts.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use buildctl::{
    phase::{Built, FailureKind, Run},
    runner::work::{Credential, Work},
    spec::{BuildContext, Network, Source},
};
use serde_json::json;

use super::{DOCKERFILE, failing, options, site};
use crate::support::{Registry, Repository, Yard, ready};

fn pairs(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(pair).collect()
}

/// A build of a folder with these files in it, besides busybox.
fn of_folder(yard: &Yard, files: &[(&str, &str)]) -> Work {
    let path = yard.path().join("source");
    fs::create_dir_all(&path).unwrap();
    fs::copy("/bin/busybox", path.join("busybox")).unwrap();
    for (name, content) in files {
        let file = path.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }
    yard.work(Run::Build, yard.task(Source::Directory { path }))
}

#[test]
fn annotations_are_those_of_the_job_whatever_the_cache_has() {
    let Some((registry, yard, repository)) = site() else {
        return;
    };
    let annotated = |annotations: &[(&str, &str)]| {
        let mut work = yard.build(&repository.url(), "main");
        options(&mut work).annotations = pairs(annotations);
        let ended = yard.run(work);
        let log = ended.log.clone();
        (
            registry.manifest(ended.built().digest.as_str())["annotations"].clone(),
            log,
        )
    };
    let (none, _) = annotated(&[]);
    assert_eq!(none["a.b"], json!(null));
    let odd = "$HOME,x=y \"q\" ${PATH} %{x}";
    let (first, log) = annotated(&[("a.b", odd), ("c", "")]);
    assert_eq!((&first["a.b"], &first["c"]), (&json!(odd), &json!("")));
    assert!(!log.contains(" O built for"), "all else is cached:\n{log}");
    let (second, _) = annotated(&[("a.b", "2")]);
    assert_eq!((&second["a.b"], &second["c"]), (&json!("2"), &json!(null)));
    assert_eq!(annotated(&[("a.b", odd), ("c", "")]).0, first);
    assert_eq!(yard.remains(), Vec::<String>::new());
}

#[test]
fn a_squashed_image_has_one_layer() {
    let Some((registry, yard, repository)) = site() else {
        return;
    };
    let layers = |squash: bool| {
        let mut work = yard.build(&repository.url(), "main");
        options(&mut work).squash = squash;
        let manifest = registry.manifest(yard.built(work).digest.as_str());
        manifest["layers"].as_array().unwrap().len()
    };
    assert!(layers(false) > 1);
    assert_eq!(layers(true), 1);
}

/// A build that looks for layers in a registry and keeps them there, with its credentials.
fn cached(yard: &Yard, repository: &Repository, cache: &str) -> Work {
    let login = yard.path().join("login");
    fs::write(&login, "username=me\npassword=opensesame\n").unwrap();
    let mut work = yard.build(&repository.url(), "main");
    work.registry_credentials = Some(Credential::Reference {
        at: format!("file:{}", login.display()).parse().unwrap(),
        optional: false,
    });
    let cache = vec![yard.repository(cache)];
    options(&mut work).cache.to.clone_from(&cache);
    options(&mut work).cache.from = cache;
    work
}

#[test]
fn layers_that_one_store_kept_in_the_registry_are_used_in_another() {
    if !ready() {
        return;
    }
    let registry = Registry::private();
    // Of one stage: Buildah 1.28 knows those that follow by images of its own store.
    let tools: Vec<&str> = DOCKERFILE.lines().take(3).collect();
    let repository = Repository::with(&format!(
        "{}\nRUN echo built for nobody\n",
        tools.join("\n")
    ));
    let (here, there) = (Yard::of(&registry), Yard::of(&registry));
    let first = here.run(cached(&here, &repository, "team/cache"));
    assert!(first.log.contains(" O built for nobody"), "{}", first.log);
    let first = first.built();
    assert!(!registry.tags("team/cache").is_empty());

    let second = there.run(cached(&there, &repository, "team/cache"));
    assert!(
        second.log.contains("Cache pulled from remote"),
        "{}",
        second.log
    );
    assert!(!second.log.contains(" O built for"), "{}", second.log);
    assert_eq!(second.built().image_id, first.image_id);
    for yard in [here, there] {
        assert_eq!(yard.remains(), Vec::<String>::new());
    }
}

/// Puts a program, and what it is linked with, below a folder.
fn install(program: &Path, below: &Path) -> bool {
    let Ok(linked) = Command::new("ldd").arg(program).output() else {
        return false;
    };
    let text = String::from_utf8(linked.stdout).unwrap();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    for path in paths.map(Path::new).chain([program]) {
        let to = below.join(path.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(path, to).unwrap();
    }
    linked.status.success()
}

#[test]
fn a_step_signs_with_a_key_that_it_never_has() {
    let agent = Path::new("/usr/bin/ssh-add");
    if !ready() || !agent.exists() {
        eprintln!("skipped: ssh-add is missing, or what else is needed");
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let key = yard.path().join("key");
    let mut keygen = Command::new("ssh-keygen");
    keygen
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "of-the-test", "-f"])
        .arg(&key);
    assert!(keygen.status().unwrap().success());
    let dockerfile = "FROM scratch\nCOPY busybox /bin/sh\nCOPY tools /\n\
                      RUN --mount=type=ssh [\"/usr/bin/ssh-add\", \"-L\"]\n\
                      RUN [\"/bin/sh\", \"-c\", \"echo the next step has [$SSH_AUTH_SOCK]\"]\n";
    let mut work = of_folder(&yard, &[("Dockerfile", dockerfile)]);
    assert!(install(agent, &yard.path().join("source/tools")));
    // As a template or a variable has it: without the end of the last line.
    let text = fs::read_to_string(&key).unwrap();
    fs::write(&key, text.trim_end()).unwrap();
    let at = format!("file:{}", key.display()).parse().unwrap();
    options(&mut work).ssh = [("default".to_owned(), at)].into();
    let ended = yard.run(work);
    let public = fs::read_to_string(key.with_extension("pub")).unwrap();
    let public = public.split(' ').nth(1).unwrap();
    assert!(ended.log.contains(public), "{}", ended.log);
    assert!(
        ended.log.contains("the next step has []\n"),
        "{}",
        ended.log
    );
    let secret = text.lines().nth(1).unwrap();
    assert!(!ended.log.contains(secret), "{}", ended.log);
    let Built { temporary, .. } = ended.built();
    assert!(temporary.to_string().contains("temp-app"));
    assert_eq!(yard.remains(), Vec::<String>::new());
    let ways = fs::read_dir("/tmp")
        .unwrap()
        .flatten()
        .map(|entry| entry.path().join("t"));
    let mut ours =
        ways.filter(|way| fs::read_link(way).is_ok_and(|to| to.starts_with(yard.path())));
    assert_eq!(ours.next(), None);
}

#[test]
fn steps_copy_from_contexts_of_the_source_and_from_images() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let plain = "FROM scratch\nCOPY page /from-image\n";
    let base = yard.built(of_folder(
        &yard,
        &[("Dockerfile", plain), ("page", "of the image\n")],
    ));
    let dockerfile = "FROM scratch\nCOPY busybox /bin/cat\nCOPY --from=docs page /page\nCOPY --from=base from-image /\n\
                      RUN [\"/bin/cat\", \"/page\", \"/from-image\"]\n";
    let files = [
        ("Dockerfile", dockerfile),
        ("more/docs/page", "of the docs\n"),
    ];
    let mut work = of_folder(&yard, &files);
    let image = format!("{}@{}", base.temporary.repository, base.digest);
    options(&mut work).contexts = [
        (
            "docs".to_owned(),
            BuildContext::Path("more/docs".to_owned()),
        ),
        (
            "base".to_owned(),
            BuildContext::Image(image.parse().unwrap()),
        ),
    ]
    .into();
    let ended = yard.run(work);
    assert!(ended.log.contains(" O of the docs\n"), "{}", ended.log);
    assert!(ended.log.contains(" O of the image\n"), "{}", ended.log);
    ended.built();

    let mut work = of_folder(&yard, &files);
    symlink("/etc", yard.path().join("source/out")).unwrap();
    let out = BuildContext::Path("out".to_owned());
    options(&mut work).contexts = [("docs".to_owned(), out)].into();
    let failure = yard.run(work).failure();
    assert_eq!(failure.kind, FailureKind::Input);
    assert!(
        failure.message.contains("leads out of the source"),
        "{failure:?}"
    );
}

#[test]
fn a_network_that_the_isolation_cannot_give_is_refused_and_not_left_out() {
    let asked = |work: &mut Work| options(work).network = Some(Network::None);
    let Some(failure) = failing("RUN echo x", asked) else {
        return;
    };
    assert_eq!(failure.kind, FailureKind::Input);
    assert!(failure.message.contains("none needs `oci`"), "{failure:?}");
}

#[test]
fn what_this_buildah_cannot_do_is_told_by_its_help_before_anything_is_built() {
    let Some((_registry, yard, repository)) = site() else {
        return;
    };
    let bin = yard.path().join("bin");
    fs::create_dir(&bin).unwrap();
    // Buildah as it was before it had remote caches.
    let old = "#!/bin/sh\nPATH=${PATH#*:}\ncase \"$*\" in *' bud --help') buildah bud --help | grep -v cache-;; *) exec buildah \"$@\";; esac\n";
    fs::write(bin.join("buildah"), old).unwrap();
    fs::set_permissions(bin.join("buildah"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut work = yard.build(&repository.url(), "main");
    options(&mut work).cache.to = vec![yard.repository("cache")];
    let ended = yard.start_with_path(work, &bin).end();
    assert!(!ended.log.contains("STEP 1"), "{}", ended.log);
    let failure = ended.failure();
    assert!(
        failure
            .message
            .contains("cache_to: the Buildah that is here has no --cache-to"),
        "{failure:?}"
    );
}
