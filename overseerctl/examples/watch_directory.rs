//! A binary of one's own with an action type of one's own: `watch` looks at a directory and starts a task for every file
//! that appears in it.
//!
//! ```yaml
//! actions:
//!   inbox: {type: watch, config: {dir: /var/spool/inbox, submit: process}}
//!   process: {type: exec, config: {entrypoint: wc, command: ["-c", "[[.file]]"], parameters: {file: null}}}
//! ```
//!
//! `cargo run --example watch_directory -- serve --config that.yaml`. A task of type `watch` can be started too: it is a
//! virtual worker that lists the directory once.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use overseerctl::{
    api::{ActionInfo, OutputStream, Params},
    cli,
    driver::{
        ActionContext, BoxFuture, Driver, DriverFactory, Registry, Service, TaskContext, Worker,
    },
    hub::Start,
};

fn main() -> ExitCode {
    cli::main_with(Registry::standard().with(WatchFactory))
}

struct WatchFactory;

impl DriverFactory for WatchFactory {
    fn kind(&self) -> &'static str {
        "watch"
    }

    fn create(
        &self,
        config: serde_json::Value,
        context: ActionContext,
    ) -> Result<Arc<dyn Driver>, String> {
        let text = |key: &str| {
            config[key]
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| format!("watch: {key} is missing"))
        };
        let dir = context.base_dir.join(text("dir")?);
        Ok(Arc::new(Watch {
            name: context.name,
            dir,
            submit: text("submit")?,
        }))
    }
}

struct Watch {
    name: String,
    dir: PathBuf,
    submit: String,
}

impl Driver for Watch {
    fn describe(&self) -> ActionInfo {
        let description = format!(
            "starts `{}` for every file in {}",
            self.submit,
            self.dir.display()
        );
        ActionInfo {
            name: self.name.clone(),
            kind: "watch".to_owned(),
            description,
            ..ActionInfo::default()
        }
    }

    fn validate(&self, _: &Params) -> Result<(), String> {
        Ok(())
    }

    fn start(&self, task: TaskContext) -> BoxFuture<'_, Result<Worker, String>> {
        let dir = self.dir.clone();
        let list = move |output: overseerctl::driver::Output, _| async move {
            for file in files(&dir) {
                output
                    .line(OutputStream::Stdout, &file.display().to_string())
                    .await;
            }
            0
        };
        Box::pin(async move { Ok(Worker::virtual_worker(task, list)) })
    }

    fn service(&self) -> Option<Service> {
        let (dir, submit) = (self.dir.clone(), self.submit.clone());
        Some(Box::new(move |hub, mut stop| {
            Box::pin(async move {
                let mut seen = files(&dir);
                loop {
                    tokio::select! {
                        () = stop.stopped() => return,
                        () = tokio::time::sleep(Duration::from_millis(200)) => {}
                    }
                    let now = files(&dir);
                    for file in now.difference(&seen) {
                        let params =
                            Params::from([("file".to_owned(), file.display().to_string())]);
                        let start = Start {
                            action: submit.clone(),
                            params,
                            ..Start::default()
                        };
                        if let Err(refusal) = hub.submit(start).await {
                            tracing::warn!(file = %file.display(), %refusal, "not submitted");
                        }
                    }
                    seen = now;
                }
            })
        }))
    }
}

fn files(dir: &std::path::Path) -> BTreeSet<PathBuf> {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}
