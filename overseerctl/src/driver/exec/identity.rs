//! Users and groups by name, through the C library so that every name service of the machine counts.

use std::{ffi::CString, mem::MaybeUninit, ptr};

use crate::process::Identity;

/// Room for one entry of the user or group database; both fit well, and a larger one is refused by name.
const BUFFER: usize = 64 << 10;

/// The identity written as `name`, `uid`, `name:group` or `uid:gid`.
///
/// # Errors
/// A text that quotes the name that is unknown.
pub(super) fn resolve(text: &str) -> Result<Identity, String> {
    let (user, group) = text
        .split_once(':')
        .map_or((text, None), |(user, group)| (user, Some(group)));
    let (uid, primary, name) = if let Ok(uid) = user.parse::<u32>() {
        (uid, uid, None)
    } else {
        let (uid, gid) = look_up_user(user)?;
        (uid, gid, Some(user))
    };
    let gid = match group.map(|group| (group, group.parse::<u32>())) {
        None => primary,
        Some((_, Ok(gid))) => gid,
        Some((group, Err(_))) => look_up_group(group)?,
    };
    let groups = name.map_or_else(|| vec![gid], |name| groups_of(name, gid));
    Ok(Identity { uid, gid, groups })
}

fn look_up_user(name: &str) -> Result<(u32, u32), String> {
    let c_name = c_string(name)?;
    let mut buffer = vec![0; BUFFER];
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut found = ptr::null_mut();
    // SAFETY: all pointers are valid for the call, and the buffer's length is its own.
    unsafe {
        libc::getpwnam_r(
            c_name.as_ptr(),
            entry.as_mut_ptr(),
            buffer.as_mut_ptr(),
            BUFFER,
            &raw mut found,
        )
    };
    if found.is_null() {
        return Err(format!("unknown user {name:?}"));
    }
    // SAFETY: `found` is not null, so the entry was filled in.
    let entry = unsafe { entry.assume_init() };
    Ok((entry.pw_uid, entry.pw_gid))
}

fn look_up_group(name: &str) -> Result<u32, String> {
    let c_name = c_string(name)?;
    let mut buffer = vec![0; BUFFER];
    let mut entry = MaybeUninit::<libc::group>::uninit();
    let mut found = ptr::null_mut();
    // SAFETY: as in `look_up_user`.
    unsafe {
        libc::getgrnam_r(
            c_name.as_ptr(),
            entry.as_mut_ptr(),
            buffer.as_mut_ptr(),
            BUFFER,
            &raw mut found,
        )
    };
    if found.is_null() {
        return Err(format!("unknown group {name:?}"));
    }
    // SAFETY: `found` is not null, so the entry was filled in.
    Ok(unsafe { entry.assume_init() }.gr_gid)
}

fn groups_of(name: &str, gid: u32) -> Vec<u32> {
    let Ok(name) = c_string(name) else {
        return vec![gid];
    };
    let mut groups = vec![0; 1024];
    let mut count = 1024;
    // SAFETY: `count` is the room in `groups`; the call never writes more.
    let result =
        unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
    groups.truncate(usize::try_from(count).unwrap_or(0));
    if result < 0 || groups.is_empty() {
        vec![gid]
    } else {
        groups
    }
}

fn c_string(name: &str) -> Result<CString, String> {
    CString::new(name).map_err(|_| format!("invalid name {name:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_resolved() {
        assert_eq!(resolve("root").map(|root| (root.uid, root.gid)), Ok((0, 0)));
        assert_eq!(
            resolve("12:34"),
            Ok(Identity {
                uid: 12,
                gid: 34,
                groups: vec![34]
            })
        );
        assert_eq!(resolve("root:34").map(|identity| identity.gid), Ok(34));
    }

    #[test]
    fn an_unknown_name_is_quoted() {
        assert_eq!(
            resolve("nobody-here"),
            Err("unknown user \"nobody-here\"".to_owned())
        );
        assert_eq!(
            resolve("root:no-group"),
            Err("unknown group \"no-group\"".to_owned())
        );
    }
}
