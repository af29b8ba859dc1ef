//! Which holes that are known of Buildah a version of it still has, by the releases that closed them. A distribution may have
//! closed some in an older version; its package's changelog says so, and nothing that could be asked does.

use runyard_common::doctor::Finding;

/// A hole, and what closed it.
struct Advisory {
    id: &'static str,
    /// What a hostile Dockerfile or image can do.
    what: &'static str,
    /// The first version that has it.
    since: Version,
    /// The first version without it, of those lines that were mended; the last one stands for all lines after it, too.
    mended: &'static [Version],
}

type Version = (u32, u32, u32);

/// By the commits and tags of containers/buildah, which name the advisories; that of 2024-9676 is closed by the version of
/// containers/storage that a release is built from (1.51.2, 1.55.1, 1.56.0).
const ADVISORIES: [Advisory; 6] = [
    Advisory {
        id: "CVE-2024-1753",
        what: "a Dockerfile mounts the machine's files",
        since: (1, 24, 0),
        mended: &[
            (1, 24, 7),
            (1, 26, 7),
            (1, 27, 4),
            (1, 29, 3),
            (1, 31, 5),
            (1, 32, 3),
            (1, 33, 7),
            (1, 34, 2),
            (1, 35, 1),
        ],
    },
    Advisory {
        id: "CVE-2024-9407",
        what: "a Dockerfile sees files of the machine",
        since: (1, 0, 0),
        mended: &[(1, 33, 10), (1, 35, 5), (1, 37, 4)],
    },
    Advisory {
        id: "CVE-2024-9675",
        what: "a Dockerfile mounts any folder of the machine",
        since: (1, 0, 0),
        mended: &[
            (1, 26, 8),
            (1, 27, 5),
            (1, 29, 4),
            (1, 33, 10),
            (1, 35, 5),
            (1, 37, 5),
        ],
    },
    Advisory {
        id: "CVE-2024-9676",
        what: "an image has Buildah read without end, until memory is used up",
        since: (1, 0, 0),
        mended: &[(1, 26, 10), (1, 27, 7), (1, 33, 11), (1, 37, 5)],
    },
    Advisory {
        id: "CVE-2024-11218",
        what: "builds side by side reach the machine's files",
        since: (1, 0, 0),
        mended: &[
            (1, 26, 9),
            (1, 27, 6),
            (1, 29, 5),
            (1, 33, 12),
            (1, 35, 5),
            (1, 37, 6),
            (1, 38, 1),
        ],
    },
    Advisory {
        id: "CVE-2026-44517",
        what: "a repository or archive that is added brings files of the machine along",
        since: (1, 0, 0),
        mended: &[(1, 43, 2)],
    },
];

impl Advisory {
    fn is_open_in(&self, version: Version) -> bool {
        let (major, minor, _) = version;
        let line = self
            .mended
            .iter()
            .find(|mended| (mended.0, mended.1) == (major, minor));
        let last = self.mended.last();
        version >= self.since
            && match (line, last) {
                (Some(mended), _) => version < *mended,
                (None, Some(last)) => version < *last,
                (None, None) => true,
            }
    }
}

/// Whether a Buildah that says so of itself (`buildah version 1.28.2 (image-spec …)`) has holes that are known.
pub(super) fn of_buildah(said: &str) -> Finding {
    const CHECK: &str = "advisories";
    const MEND: &str = "use a later Buildah; a package of a distribution may have some of them closed under this number, which \
        its changelog says (/usr/share/doc/buildah, `rpm -q --changelog buildah`). Until then, build only what you trust";
    let Some(version) = version(said) else {
        return Finding::warn(
            CHECK,
            format!("`{}` has no version to look up", said.trim()),
            MEND,
        );
    };
    let open = ADVISORIES.iter().filter(|it| it.is_open_in(version));
    let open: Vec<String> = open.map(|it| format!("{} ({})", it.id, it.what)).collect();
    let (major, minor, patch) = version;
    let named = format!("Buildah {major}.{minor}.{patch}");
    if open.is_empty() {
        return Finding::ok(CHECK, format!("{named} has no hole that is known here"));
    }
    let says = format!("{named} is older than what closed {}", open.join(", "));
    Finding::warn(CHECK, says, MEND)
}

/// The first word that is a version: `1.28.2`, `1.44.0-dev`.
fn version(said: &str) -> Option<Version> {
    said.split_whitespace().find_map(|word| {
        let bare = word.split(['-', '+', '~']).next()?;
        let mut numbers = bare.split('.').map(str::parse);
        match (
            numbers.next()?,
            numbers.next()?,
            numbers.next(),
            numbers.next(),
        ) {
            (Ok(major), Ok(minor), patch, None) => {
                Some((major, minor, patch.unwrap_or(Ok(0)).ok()?))
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use runyard_common::doctor::Verdict;

    use super::*;

    fn open_in(said: &str) -> Vec<&'static str> {
        let version = version(said).unwrap();
        let open = ADVISORIES.iter().filter(|it| it.is_open_in(version));
        open.map(|it| it.id).collect()
    }

    #[test]
    fn a_hole_is_open_until_its_line_or_a_later_one_closed_it() {
        let all = ADVISORIES.map(|it| it.id);
        assert_eq!(
            open_in("buildah version 1.28.2 (image-spec 1.1.0-rc2)"),
            all
        );
        assert_eq!(
            open_in("1.33.7"),
            [
                "CVE-2024-9407",
                "CVE-2024-9675",
                "CVE-2024-9676",
                "CVE-2024-11218",
                "CVE-2026-44517"
            ]
        );
        assert_eq!(open_in("1.33.12"), ["CVE-2026-44517"]);
        assert_eq!(open_in("1.34.3")[0], "CVE-2024-9407");
        assert_eq!(open_in("1.38.0"), ["CVE-2024-11218", "CVE-2026-44517"]);
        assert_eq!(open_in("1.43.1"), ["CVE-2026-44517"]);
        assert!(open_in("1.43.2").is_empty());
        assert!(open_in("buildah version 1.44.0-dev").is_empty());
        assert!(open_in("2.0").is_empty());
    }

    #[test]
    fn an_old_buildah_is_a_warning_and_never_a_failure() {
        let old =
            of_buildah("buildah version 1.28.2 (image-spec 1.1.0-rc2, runtime-spec 1.0.2-dev)\n");
        assert_eq!(old.verdict, Verdict::Warn);
        assert!(
            old.says
                .starts_with("Buildah 1.28.2 is older than what closed CVE-2024-1753 (")
        );
        assert_eq!(of_buildah("buildah version 1.44.0").verdict, Verdict::Ok);
        assert_eq!(of_buildah("hello").verdict, Verdict::Warn);
    }
}
