//! The C library's name service: users and groups of directories such as LDAP. Blocking, and the only unsafe code about
//! users.

use std::{
    ffi::{CStr, CString, OsStr},
    mem::MaybeUninit,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    ptr,
};

use super::book::Person;

/// An entry's strings may take this much at most; a group can have thousands of members.
const MOST: usize = 1 << 20;

pub(super) fn user_by_name(name: &str) -> Option<Person> {
    let name = CString::new(name).ok()?;
    person(|entry, buffer, length, found| {
        // SAFETY: all pointers are valid for the call, and `length` is that of `buffer`.
        unsafe { libc::getpwnam_r(name.as_ptr(), entry, buffer, length, found) }
    })
}

pub(super) fn user_by_uid(uid: u32) -> Option<Person> {
    person(|entry, buffer, length, found| {
        // SAFETY: all pointers are valid for the call, and `length` is that of `buffer`.
        unsafe { libc::getpwuid_r(uid, entry, buffer, length, found) }
    })
}

pub(super) fn group_by_name(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    ask(
        |entry, buffer, length, found| {
            // SAFETY: all pointers are valid for the call, and `length` is that of `buffer`.
            unsafe { libc::getgrnam_r(name.as_ptr(), entry, buffer, length, found) }
        },
        |entry: &libc::group| entry.gr_gid,
    )
}

type Lookup<'a, T> =
    &'a mut dyn FnMut(*mut T, *mut libc::c_char, libc::size_t, *mut *mut T) -> libc::c_int;

fn person(
    mut lookup: impl FnMut(
        *mut libc::passwd,
        *mut libc::c_char,
        libc::size_t,
        *mut *mut libc::passwd,
    ) -> libc::c_int,
) -> Option<Person> {
    ask(&mut lookup, |entry: &libc::passwd| {
        // SAFETY: an entry that was found points to strings in the buffer, which lives during this call.
        let (name, home) = unsafe { (CStr::from_ptr(entry.pw_name), CStr::from_ptr(entry.pw_dir)) };
        Person {
            groups: groups(name, entry.pw_gid),
            name: name.to_string_lossy().into_owned(),
            uid: entry.pw_uid,
            gid: entry.pw_gid,
            home: PathBuf::from(OsStr::from_bytes(home.to_bytes())),
        }
    })
}

/// Calls one of the `get…_r` functions with a buffer that grows until the entry fits.
fn ask<T, R>(
    mut lookup: impl FnMut(*mut T, *mut libc::c_char, libc::size_t, *mut *mut T) -> libc::c_int,
    read: impl FnOnce(&T) -> R,
) -> Option<R> {
    let lookup: Lookup<'_, T> = &mut lookup;
    let mut buffer: Vec<libc::c_char> = vec![0; 1024];
    loop {
        let mut entry = MaybeUninit::<T>::uninit();
        let mut found = ptr::null_mut();
        let failed = lookup(
            entry.as_mut_ptr(),
            buffer.as_mut_ptr(),
            buffer.len(),
            &raw mut found,
        );
        if failed == libc::ERANGE && buffer.len() < MOST {
            buffer.resize(buffer.len() * 4, 0);
            continue;
        }
        if failed != 0 || found.is_null() {
            return None;
        }
        // SAFETY: `found` is set to `entry`, which the call has filled.
        return Some(read(unsafe { &*found }));
    }
}

/// All groups of a user; those that do not fit a generous list are left out.
fn groups(name: &CStr, gid: u32) -> Vec<u32> {
    let mut groups = vec![0; 1024];
    let mut count = libc::c_int::try_from(groups.len()).unwrap_or(0);
    // SAFETY: the list has room for `count` ids.
    unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
    groups.truncate(usize::try_from(count).unwrap_or(0));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_service_knows_root() {
        let root = user_by_name("root").expect("root");
        assert_eq!((root.uid, root.home), (0, PathBuf::from("/root")));
        assert_eq!(user_by_uid(0).expect("root").name, "root");
        assert_eq!(group_by_name("root"), Some(0));
    }

    #[test]
    fn the_name_service_says_when_it_knows_nobody_of_that_name() {
        assert!(user_by_name("no-such-user-here").is_none());
        assert!(user_by_name("nul\0byte").is_none());
        assert_eq!(group_by_name("no-such-group-here"), None);
    }
}
