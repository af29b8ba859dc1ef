//! The machine's lists of users and groups: `passwd(5)` and `group(5)`, and the name service behind them. What an
//! account means for a task is not known here.

use std::{fs, io, path::PathBuf};

use super::{Account, service};

/// The text of both lists.
pub(super) struct Book {
    passwd: String,
    group: String,
}

/// An entry of the list of users, with the groups that list it.
pub(super) struct Person {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: PathBuf,
    pub(super) groups: Vec<u32>,
}

impl Person {
    pub(super) fn account(self) -> Account {
        let mut groups = self.groups;
        groups.retain(|group| *group != self.gid);
        groups.sort_unstable();
        groups.dedup();
        Account {
            uid: self.uid,
            gid: self.gid,
            groups,
            name: self.name,
            home: self.home,
        }
    }
}

impl Book {
    /// This machine's. A list that does not exist is empty, as in minimal images.
    pub(super) fn of_host() -> io::Result<Self> {
        Ok(Self {
            passwd: read("/etc/passwd")?,
            group: read("/etc/group")?,
        })
    }

    #[cfg(test)]
    pub(super) fn new(passwd: &str, group: &str) -> Self {
        Self {
            passwd: passwd.to_owned(),
            group: group.to_owned(),
        }
    }

    pub(super) fn by_name(&self, name: &str) -> Option<Person> {
        self.person(|person| person.name == name)
            .or_else(|| service::user_by_name(name))
    }

    pub(super) fn by_uid(&self, uid: u32) -> Option<Person> {
        self.person(|person| person.uid == uid)
            .or_else(|| service::user_by_uid(uid))
    }

    /// The id of a group.
    pub(super) fn gid(&self, name: &str) -> Option<u32> {
        self.groups()
            .find(|(known, ..)| *known == name)
            .map(|(_, gid, _)| gid)
            .or_else(|| service::group_by_name(name))
    }

    fn person(&self, is_wanted: impl Fn(&Person) -> bool) -> Option<Person> {
        let mut person = self.passwd.lines().filter_map(entry).find(is_wanted)?;
        person.groups = self
            .groups()
            .filter(|(_, _, members)| members.split(',').any(|member| member == person.name))
            .map(|(_, gid, _)| gid)
            .collect();
        Some(person)
    }

    /// Name, id and members of each group.
    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password, gid) = (fields.next()?, fields.next()?, fields.next()?);
            Some((name, gid.parse().ok()?, fields.next().unwrap_or_default()))
        })
    }
}

/// A line of `passwd(5)`. Comments and the compatibility entries of NIS have no id and so are none.
fn entry(line: &str) -> Option<Person> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _password, uid, gid, _comment, home, ..] = fields[..] else {
        return None;
    };
    Some(Person {
        name: name.to_owned(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        home: PathBuf::from(if home.is_empty() { "/" } else { home }),
        groups: Vec::new(),
    })
}

fn read(path: &str) -> io::Result<String> {
    match fs::read(path) {
        Ok(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}
