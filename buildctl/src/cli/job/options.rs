//! Flags for what Buildah is asked for besides a Dockerfile: what goes into the image, what its steps may reach, and where
//! cached layers are.

use std::time::Duration;

use clap::Args;
use runyard_common::duration;

use super::pair;
use crate::api::JobConfig;

/// Flags of verbs that describe a job; what may be repeated is added to what the job file says.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "How to build it")]
pub(super) struct OptionArgs {
    /// Stage of the Dockerfile to build
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,

    /// Platform to build for, as in linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,

    /// Value of an ARG; shows in the image's history
    #[arg(long = "build-arg", value_name = "NAME=VALUE", value_parser = pair)]
    args: Vec<(String, String)>,

    /// Further context, for `COPY --from=NAME`: a path below the source, or `docker-image://IMAGE`
    #[arg(long = "build-context", value_name = "NAME=PLACE", value_parser = pair)]
    contexts: Vec<(String, String)>,

    /// Label of the image
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,

    /// Annotation of the image's manifest
    #[arg(long = "annotation", value_name = "NAME=VALUE", value_parser = pair)]
    annotations: Vec<(String, String)>,

    /// Make one layer of all that the build adds
    #[arg(long)]
    squash: bool,

    /// Secret for `RUN --mount=type=secret,id=ID`: where it is, never itself
    #[arg(long = "secret", value_name = "ID=REF", value_parser = pair)]
    secrets: Vec<(String, String)>,

    /// SSH key for `RUN --mount=type=ssh,id=ID`: where it is, never itself
    #[arg(long = "ssh", value_name = "ID=REF", value_parser = pair)]
    ssh: Vec<(String, String)>,

    /// Network of `RUN` steps: none, private or host [default: that of the isolation]
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,

    /// Repository of the image's registry to take cached layers from. Replaces those of job files
    #[arg(long, value_name = "REPOSITORY")]
    cache_from: Vec<String>,

    /// Repository of the image's registry to keep cached layers in. Replaces those of job files
    #[arg(long, value_name = "REPOSITORY")]
    cache_to: Vec<String>,

    /// How old layers of --cache-from may be
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    cache_ttl: Option<Duration>,

    /// Forget cached layers first
    #[arg(long, visible_alias = "no-cache")]
    clear_cache: bool,
}

impl OptionArgs {
    /// Says it over what job files say.
    pub(super) fn apply(&self, config: &mut JobConfig) {
        for (given, field) in [
            (&self.target, &mut config.target),
            (&self.platform, &mut config.platform),
            (&self.network, &mut config.network),
        ] {
            if let Some(text) = given {
                field.clone_from(text);
            }
        }
        for (given, field) in [
            (&self.args, &mut config.build_args),
            (&self.contexts, &mut config.build_contexts),
            (&self.labels, &mut config.labels),
            (&self.annotations, &mut config.annotations),
            (&self.secrets, &mut config.build_secrets),
            (&self.ssh, &mut config.build_ssh),
        ] {
            field.extend(given.iter().cloned());
        }
        for (given, field) in [
            (&self.cache_from, &mut config.cache_from),
            (&self.cache_to, &mut config.cache_to),
        ] {
            if !given.is_empty() {
                field.clone_from(given);
            }
        }
        config.cache_ttl = self.cache_ttl.map(Into::into).or(config.cache_ttl);
        config.squash |= self.squash;
        config.clear_cache |= self.clear_cache;
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        options: OptionArgs,
    }

    #[test]
    fn flags_add_to_maps_and_replace_the_rest() {
        let words = "x --annotation a=1 --ssh default=vault:x --build-context docs=docs --cache-from r/c --cache-ttl 1h \
                     --network none --squash --target base";
        let typed = Typed::try_parse_from(words.split_whitespace()).unwrap();
        let text = "annotations: {a: \"0\", b: \"2\"}\ncache_from: [r/old]\ncache_to: r/kept\nnetwork: private\n";
        let mut config = crate::jobfile::parse("job.yaml".as_ref(), text).unwrap();
        typed.options.apply(&mut config);
        let annotations: Vec<_> = config.annotations.iter().collect();
        assert_eq!(format!("{annotations:?}"), r#"[("a", "1"), ("b", "2")]"#);
        assert_eq!(config.cache_from, ["r/c"]);
        assert_eq!(config.cache_to, ["r/kept"]);
        assert_eq!(config.cache_ttl, Some(Duration::from_hours(1).into()));
        assert_eq!(config.build_ssh["default"], "vault:x");
        assert_eq!(config.build_contexts["docs"], "docs");
        assert_eq!((config.network.as_str(), config.squash), ("none", true));
        assert_eq!(config.target, "base");
    }
}
