//! Finding a program in `PATH`, as Go's `os/exec.LookPath` does and with its error texts, which clients of the original
//! know. Doing it ourselves also keeps the C library from running a file without a `#!` line through a shell.

use std::{
    ffi::OsStr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::quote::go_quote;

/// The file to execute for `program`, given the value of `PATH`.
///
/// # Errors
/// `exec: "x": executable file not found in $PATH`, or that the only match is relative to the working directory.
pub fn look_up(program: &str, path: Option<&OsStr>) -> Result<PathBuf, String> {
    if program.contains('/') {
        return Ok(PathBuf::from(program));
    }
    let directories = path.map(std::env::split_paths).into_iter().flatten();
    for directory in directories {
        let relative = !directory.is_absolute();
        let candidate = if directory.as_os_str().is_empty() {
            Path::new(".").join(program)
        } else {
            directory.join(program)
        };
        if is_executable(&candidate) {
            if relative {
                return Err(format!(
                    "exec: {}: cannot run executable found relative to current directory",
                    go_quote(program)
                ));
            }
            return Ok(candidate);
        }
    }
    Err(format!(
        "exec: {}: executable file not found in $PATH",
        go_quote(program)
    ))
}

fn is_executable(candidate: &Path) -> bool {
    candidate
        .metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> &'static OsStr {
        OsStr::new("/nonexistent:/usr/bin:/bin")
    }

    #[test]
    fn a_name_is_searched_in_path() {
        assert!(look_up("sh", Some(path())).unwrap().ends_with("sh"));
        assert_eq!(
            look_up("nope-nope", Some(path())).unwrap_err(),
            "exec: \"nope-nope\": executable file not found in $PATH"
        );
        assert!(look_up("sh", None).is_err(), "no PATH, no program");
    }

    #[test]
    fn a_name_with_a_slash_is_taken_as_it_is() {
        assert_eq!(look_up("./x", Some(path())).unwrap(), PathBuf::from("./x"));
    }

    #[test]
    fn a_match_relative_to_the_working_directory_is_refused() {
        let here = std::env::current_dir().unwrap();
        let dir = tempfile::tempdir_in(&here).unwrap();
        let file = dir.path().join("prog");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let relative = dir.path().file_name().unwrap();
        let error = look_up("prog", Some(relative)).unwrap_err();
        assert!(
            error.ends_with("cannot run executable found relative to current directory"),
            "{error}"
        );
    }
}
