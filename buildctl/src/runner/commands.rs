//! The command lines with which a run is carried out, without carrying it out: a pure look at its work, by the code that makes
//! the calls. What is only known while it runs stands in capitals: `COMMIT`, `IMAGE`, and `STORE` for Buildah's own.

use std::path::Path;

use super::{
    build::{Bud, certificates, push_call, secret_file},
    git,
    place::Ground,
    session::Call,
    store::Buildah,
    test::{Test, from_call, run_call},
    work::{Registries, Task, Work},
};
use crate::spec::{BuildOptions, Source};

/// The programs that `work` calls if everything goes well, in order, each as its arguments. None for what is done over the
/// registry's API alone: publications and cleanups.
pub fn commands(work: &Work) -> Vec<Vec<String>> {
    let buildah = Buildah::nominal(&work.storage);
    let folder = Ground::of(buildah.root()).run(work);
    let sheet = Sheet {
        work,
        buildah,
        folder: &folder,
    };
    let calls = match &work.task {
        Task::Build { .. } => sheet.build(),
        Task::Test { .. } => sheet.test(),
        Task::Publish { .. } | Task::Cleanup { .. } => Vec::new(),
    };
    calls.iter().map(Call::words).collect()
}

struct Sheet<'a> {
    work: &'a Work,
    buildah: Buildah,
    folder: &'a Path,
}

impl Sheet<'_> {
    fn build(&self) -> Vec<Call> {
        let Task::Build {
            source,
            options,
            temporary,
            clear_cache,
            ..
        } = &self.work.task
        else {
            return Vec::new();
        };
        let mut calls = Vec::new();
        if *clear_cache {
            calls.push(self.buildah.call("rmi").args(["--prune", "--force"]));
        }
        let tree = match source {
            Source::Directory { path } => path.clone(),
            Source::Git { url, reference } => {
                calls.extend(git::calls(self.folder, url, reference, "COMMIT"));
                self.folder.join("source")
            }
        };
        calls.push(self.bud(&tree, options, temporary.repository.host()));
        calls.push(push_call(
            &self.buildah,
            &self.work.registries,
            ("IMAGE", temporary),
            &self.folder.join("digest"),
            self.login().as_deref(),
        ));
        calls
    }

    fn bud(&self, tree: &Path, options: &BuildOptions, host: &str) -> Call {
        let Registries { insecure, .. } = &self.work.registries;
        let secrets = options.secrets.keys().enumerate();
        let secrets = secrets.map(|(index, id)| {
            let file = self.folder.join(secret_file(index));
            (id.as_str(), file)
        });
        let bud = Bud {
            registries: (!insecure.is_empty()).then(|| self.folder.join("registries.conf")),
            iid: self.folder.join("iid"),
            mark: self.folder.join("mark"),
            dockerfile: tree.join(&options.dockerfile),
            context: match options.context.as_str() {
                "" | "." => tree.to_owned(),
                below => tree.join(below),
            },
            no_cache: false,
            login: self.login(),
            certificates: certificates(&self.work.registries, host),
            secrets: secrets.collect(),
        };
        bud.call(&self.buildah, options)
    }

    fn test(&self) -> Vec<Call> {
        let Task::Test {
            image,
            command,
            env,
            secret_env,
            gpu,
        } = &self.work.task
        else {
            return Vec::new();
        };
        let test = Test {
            image,
            command: command.as_deref(),
            env,
            secret_env,
            gpu: *gpu,
        };
        let name = super::place::name(self.work);
        let mut calls = vec![from_call(
            &self.buildah,
            self.work,
            image,
            self.login().as_deref(),
            &[],
        )];
        let words = match command {
            Some(command) => vec!["sh".to_owned(), "-c".to_owned(), command.clone()],
            None => vec!["ENTRYPOINT".to_owned(), "CMD".to_owned()],
        };
        let variables = secret_env.iter().flat_map(|secret| secret.fields.values());
        let variables: Vec<&String> = variables.collect();
        if !variables.is_empty() {
            let mut call = self.buildah.call("config");
            for name in variables {
                call = call.option("--env", name);
            }
            calls.push(call.arg(&name));
        }
        calls.push(run_call(&self.buildah, &test, &name, &words));
        calls
    }

    /// Where logins are, if the work names any. Those of whoever runs this are there too.
    fn login(&self) -> Option<std::path::PathBuf> {
        let named = self.work.registry_credentials.as_ref();
        named.map(|_| self.folder.join("auth.json"))
    }
}
