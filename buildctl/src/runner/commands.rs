//! The command lines with which a run is carried out, without carrying it out: a pure look at its work, by the code that makes
//! the calls. What is only known while it runs stands in capitals: `COMMIT`, `IMAGE`, and `STORE` for Buildah's own.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    build::{Bud, certificates, context_place, push_call, secret_file, ssh_file},
    git,
    place::Ground,
    session::Call,
    store::Buildah,
    test::{Test, from_call, run_call},
    work::{Registries, Task, Work},
};
use crate::{
    secrets::SecretRef,
    spec::{BuildOptions, Source},
};

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
        let below = |path: &str| match path {
            "" | "." => tree.to_owned(),
            path => tree.join(path),
        };
        let contexts = options.contexts.iter().filter_map(|(name, context)| {
            let place = context_place(context, |path| Ok(below(path))).ok()?;
            Some((name.as_str(), place))
        });
        let bud = Bud {
            registries: (!insecure.is_empty()).then(|| self.folder.join("registries.conf")),
            iid: self.folder.join("iid"),
            mark: self.folder.join("mark"),
            dockerfile: tree.join(&options.dockerfile),
            context: below(&options.context),
            no_cache: false,
            login: self.login(),
            certificates: certificates(&self.work.registries, host),
            secrets: self.files(&options.secrets, secret_file),
            ssh: self.files(&options.ssh, ssh_file),
            contexts: contexts.collect(),
        };
        bud.call(&self.buildah, options)
    }

    /// Ids of secrets, and the files that they will be in.
    fn files<'o>(
        &self,
        secrets: &'o BTreeMap<String, SecretRef>,
        file: impl Fn(usize) -> String,
    ) -> Vec<(&'o str, PathBuf)> {
        let named = |(index, id): (usize, &'o String)| (id.as_str(), self.folder.join(file(index)));
        secrets.keys().enumerate().map(named).collect()
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
    fn login(&self) -> Option<PathBuf> {
        let named = self.work.registry_credentials.as_ref();
        named.map(|_| self.folder.join("auth.json"))
    }
}
