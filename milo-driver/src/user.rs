//! Who a task runs as: from what a job or a command line says to ids, groups, a name and a home. Whether somebody *may*
//! be that user is decided here too, because it is one question for root and for whoever is in root's group.
//!
//! Accounts are looked up in `/etc/passwd` and `/etc/group` first, read without the C library so that a static build
//! finds them too, and then through the name service (LDAP, SSSD, systemd), which may take its time.

mod book;
mod service;

use std::path::PathBuf;

use self::book::{Book, Person};

/// Who a task is run as when nobody says: as Nomad's java driver does.
const DEFAULT: &str = "nobody";

/// The ids of `nobody` on machines that do not list it; the kernel's own overflow ids.
const OVERFLOW: u32 = 65534;

/// The prefix of Nomad's dynamic workload users: `nomad-80000` has 80000 as uid and gid, and no entry anywhere.
const DYNAMIC: &str = "nomad-";

/// A user of this machine, or ids that nobody has yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user id.
    pub uid: u32,
    /// The primary group's id.
    pub gid: u32,
    /// The supplementary groups' ids, ascending, without the primary one. Empty when a group was asked for, as with
    /// `docker run --user`.
    pub groups: Vec<u32>,
    /// The name for the container's `passwd`; `uid-<uid>` for ids that nobody has.
    pub name: String,
    /// The home, which need not exist; `/` for ids that nobody has.
    pub home: PathBuf,
}

impl Account {
    /// Whether it is root or acts with root's group.
    fn is_privileged(&self) -> bool {
        self.uid == 0 || self.gid == 0 || self.groups.contains(&0)
    }
}

/// Why there is no such account for a task.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The name is in no list of users.
    #[error(
        "user `{0}` does not exist on this host (use a name from /etc/passwd, a uid, or uid:gid)"
    )]
    UnknownUser(String),
    /// The name is in no list of groups.
    #[error(
        "group `{group}` of user `{asked}` does not exist on this host (use a name from /etc/group, or a gid)"
    )]
    UnknownGroup {
        /// The group's name.
        group: String,
        /// All that was asked.
        asked: String,
    },
    /// It is neither a name nor ids.
    #[error("user `{0}` is not a name, a uid, or uid:gid")]
    Malformed(String),
    /// The id stands for "no id" in system calls.
    #[error("user `{0}`: 4294967295 is not an id that a process can have")]
    Reserved(String),
    /// It is root, or as good as.
    #[error(
        "user `{asked}` has root's rights (uid {uid}, gid {gid}), which is not allowed: name another user, or let the operator \
         set allow_privileged_user"
    )]
    Privileged {
        /// What was asked.
        asked: String,
        /// Its user id.
        uid: u32,
        /// Its group id.
        gid: u32,
    },
    /// The lists cannot be read.
    #[error("cannot look up user `{asked}`")]
    Unreadable {
        /// What was asked.
        asked: String,
        /// Why.
        source: std::io::Error,
    },
}

/// The account that `asked` stands for: empty for `nobody`, a name, a uid, `uid:gid` with names on either side, or
/// `nomad-<id>`.
///
/// # Errors
///
/// When there is none, and when it has root's rights and `allow_privileged` is not set.
pub fn resolve(asked: &str, allow_privileged: bool) -> Result<Account, UserError> {
    let book = Book::of_host().map_err(|source| UserError::Unreadable {
        asked: asked.to_owned(),
        source,
    })?;
    resolve_in(&book, asked, allow_privileged)
}

fn resolve_in(book: &Book, asked: &str, allow_privileged: bool) -> Result<Account, UserError> {
    let account = match asked.split_once(':') {
        Some((user, group)) => with_group(book, asked, user, group),
        None => alone(book, asked),
    }?;
    if account.uid == u32::MAX || account.gid == u32::MAX {
        return Err(UserError::Reserved(asked.to_owned()));
    }
    if account.is_privileged() && !allow_privileged {
        return Err(UserError::Privileged {
            asked: asked.to_owned(),
            uid: account.uid,
            gid: account.gid,
        });
    }
    Ok(account)
}

fn with_group(book: &Book, asked: &str, user: &str, group: &str) -> Result<Account, UserError> {
    if user.is_empty() || group.is_empty() || group.contains(':') {
        return Err(UserError::Malformed(asked.to_owned()));
    }
    let gid = match id(group) {
        Some(gid) => gid,
        None => book.gid(group).ok_or_else(|| UserError::UnknownGroup {
            group: group.to_owned(),
            asked: asked.to_owned(),
        })?,
    };
    Ok(Account {
        gid,
        groups: Vec::new(),
        ..alone(book, user)?
    })
}

fn alone(book: &Book, user: &str) -> Result<Account, UserError> {
    if let Some(uid) = id(user) {
        return Ok(book.by_uid(uid).map_or_else(|| bare(uid), Person::account));
    }
    let name = if user.is_empty() { DEFAULT } else { user };
    if let Some(person) = book.by_name(name) {
        return Ok(person.account());
    }
    if let Some(id) = name.strip_prefix(DYNAMIC).and_then(id) {
        return Ok(Account {
            name: name.to_owned(),
            ..bare(id)
        });
    }
    match name {
        DEFAULT => Ok(Account {
            name: name.to_owned(),
            ..bare(OVERFLOW)
        }),
        _ if name.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(UserError::Malformed(name.to_owned()))
        }
        _ => Err(UserError::UnknownUser(name.to_owned())),
    }
}

/// An id that nobody has: its group has the same number, so that a forgotten `:gid` never means root's group.
fn bare(id: u32) -> Account {
    Account {
        uid: id,
        gid: id,
        groups: Vec::new(),
        name: format!("uid-{id}"),
        home: PathBuf::from("/"),
    }
}

/// Digits only: `u32::from_str` would also take `+7`.
fn id(text: &str) -> Option<u32> {
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn book() -> Book {
        Book::new(
            "root:x:0:0:root:/root:/bin/bash\n\
             nobody:x:65534:65533:nobody:/nonexistent:/usr/sbin/nologin\n\
             # a comment\n\
             +nis-entry\n\
             broken:x:seven:7::/:\n\
             web:x:1000:1001:Web,,,:/srv/web:/bin/sh\n\
             admin:x:1002:1002::/home/admin:/bin/sh\n",
            "root:x:0:admin\n\
             logs:x:44:web,admin\n\
             web:x:1001:web\n\
             audio:x:29:somebody\n\
             tty:x:5:web\n",
        )
    }

    fn found(asked: &str) -> Account {
        resolve_in(&book(), asked, false).unwrap()
    }

    #[test]
    fn nobody_is_the_default() {
        let account = found("");
        assert_eq!(
            (account.uid, account.gid, account.name.as_str()),
            (65534, 65533, "nobody")
        );
    }

    #[test]
    fn nobody_exists_even_where_no_list_has_it() {
        let account = alone(&Book::new("", ""), "").unwrap();
        assert_eq!(account.name, "nobody");
        assert_ne!(account.uid, 0);
    }

    #[test]
    fn a_name_brings_its_groups_and_home() {
        let web = Account {
            uid: 1000,
            gid: 1001,
            groups: vec![5, 44],
            name: "web".into(),
            home: "/srv/web".into(),
        };
        assert_eq!(found("web"), web);
        assert_eq!(found("1000"), web);
    }

    #[test]
    fn a_group_that_was_asked_for_is_the_only_one() {
        for asked in ["web:logs", "1000:44", "web:44", "1000:logs"] {
            let account = found(asked);
            assert_eq!(
                (account.uid, account.gid, account.groups.as_slice()),
                (1000, 44, &[][..]),
                "{asked}"
            );
        }
    }

    #[test]
    fn ids_that_nobody_has_are_taken_as_they_are() {
        let account = found("424242:7");
        assert_eq!((account.uid, account.gid), (424_242, 7));
        assert_eq!(account.name, "uid-424242");
        assert_eq!(found("424242").gid, 424_242);
    }

    #[test]
    fn a_dynamic_workload_user_needs_no_entry() {
        let account = found("nomad-80123");
        assert_eq!(
            (account.uid, account.gid, account.name.as_str()),
            (80123, 80123, "nomad-80123")
        );
    }

    #[test]
    fn root_in_any_disguise_needs_leave() {
        for asked in [
            "root", "0", "0:44", "web:0", "web:root", "nomad-0", "admin", "00",
        ] {
            assert!(
                matches!(
                    resolve_in(&book(), asked, false),
                    Err(UserError::Privileged { .. })
                ),
                "{asked}"
            );
            assert!(resolve_in(&book(), asked, true).is_ok(), "{asked}");
        }
    }

    #[test]
    fn what_is_nobody_is_named_in_the_error() {
        let text = |asked| resolve_in(&book(), asked, true).unwrap_err().to_string();
        assert!(text("no-such-user-here").contains("`no-such-user-here` does not exist"));
        assert!(text("web:no-such-group-here").contains("group `no-such-group-here`"));
        assert!(text("4294967295").contains("4294967295"));
        for asked in ["web:", ":44", "a:b:c", "99999999999"] {
            assert!(text(asked).contains("is not a name"), "{asked}");
        }
    }

    #[test]
    fn this_machine_has_a_root_that_is_refused() {
        assert!(matches!(
            resolve("root", false),
            Err(UserError::Privileged { uid: 0, .. })
        ));
        assert_eq!(resolve("root", true).unwrap().uid, 0);
    }

    proptest! {
        #[test]
        fn no_text_leads_to_root_without_leave(asked in "[a-z0-9:+ -]{0,12}") {
            if let Ok(account) = resolve_in(&book(), &asked, false) {
                prop_assert!(!account.is_privileged());
            }
        }
    }
}
