//! Whether the Buildah that is here can do what a build asks of it. Not every version knows every flag, and packages carry some
//! back; so it is its help that is asked, and only for a build that uses one of them.

use super::super::{halt::Halt, session::Session, store::Buildah};
use crate::spec::{BuildOptions, Network};

/// A flag that is not of every Buildah.
struct Asked {
    flag: &'static str,
    /// What asks for it, as users write it.
    field: &'static str,
    /// How often it is given.
    count: usize,
}

fn asked(options: &BuildOptions) -> Vec<Asked> {
    let flags = [
        ("--ssh", "build_ssh", options.ssh.len()),
        ("--build-context", "build_contexts", options.contexts.len()),
        ("--cache-from", "cache_from", options.cache.from.len()),
        ("--cache-to", "cache_to", options.cache.to.len()),
        ("--cache-ttl", "cache_ttl", options.cache.ttl.iter().count()),
    ];
    let asked = flags.map(|(flag, field, count)| Asked { flag, field, count });
    asked.into_iter().filter(|it| it.count > 0).collect()
}

/// Refuses what this Buildah, or this isolation of its steps, would refuse later or silently leave out.
pub(super) fn check(
    session: &mut Session<'_>,
    buildah: &Buildah,
    options: &BuildOptions,
) -> Result<(), Halt> {
    if let Some(network @ (Network::None | Network::Private)) = options.network
        && buildah.isolation == "chroot"
    {
        return Err(Halt::input(format!(
            "network: steps have the machine's network under the isolation `chroot`, and {} needs `oci` (`local.isolation`)",
            network.name()
        )));
    }
    let asked = asked(options);
    if asked.is_empty() {
        return Ok(());
    }
    let ended = session.program(&buildah.call("bud").arg("--help").quiet())?;
    match refused(&ended.text(), &asked) {
        Some(why) => Err(Halt::input(why)),
        None => Ok(()),
    }
}

fn refused(help: &str, asked: &[Asked]) -> Option<String> {
    asked
        .iter()
        .find_map(|Asked { flag, field, count }| match kind(help, flag) {
            None => Some(format!(
                "{field}: the Buildah that is here has no {flag}; leave it out, or use a later one"
            )),
            Some("string") if *count > 1 => Some(format!(
                "{field}: the Buildah that is here takes one of them, and there are {count}"
            )),
            Some(_) => None,
        })
}

/// What a flag takes, by the help: `      --cache-from string    remote …`; none if it is not there.
fn kind<'h>(help: &'h str, flag: &str) -> Option<&'h str> {
    help.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        // A short name may stand before it.
        words.by_ref().take(2).find(|word| *word == flag)?;
        Some(words.next().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "\
Flags:
      --build-context argument=value   argument=value to supply additional build context to the builder
      --cache-from string              remote repository to utilise as potential cache source.
      --cache-to stringArray           remote repositories. See --cache-from and --cache-ttl
  -f, --file pathname or URL           pathname or URL
";

    #[test]
    fn what_the_help_does_not_know_is_refused_and_so_is_a_second_one_of_a_single() {
        let of = |flag, count| {
            let asked = Asked {
                flag,
                field: "field",
                count,
            };
            refused(HELP, &[asked])
        };
        assert_eq!(kind(HELP, "--file"), Some("pathname"));
        assert_eq!(of("--build-context", 2), None);
        assert_eq!(of("--cache-from", 1), None);
        assert_eq!(of("--cache-to", 2), None);
        let one = of("--cache-from", 2).unwrap();
        assert!(one.contains("takes one of them, and there are 2"), "{one}");
        let none = of("--cache-ttl", 1).unwrap();
        assert!(
            none.starts_with("field: the Buildah that is here has no --cache-ttl"),
            "{none}"
        );
    }
}
