//! The one fact about a program that decides whether it can run in somebody else's root file system: which loader it
//! asks for (`PT_INTERP`, elf(5)).

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::{BundleError, view::View};

const MAGIC: &[u8] = b"\x7fELF";
const PT_INTERP: u32 = 3;
/// A path is no longer than this.
const LONGEST: u64 = 4096;

/// Refuses a program of the host that cannot run in the task's own root file system. A generated root has the host's
/// loader.
pub(super) fn runs_in(view: &View<'_>, program: &Path) -> Result<(), BundleError> {
    let Some(rootfs) = view.rootfs() else {
        return Ok(());
    };
    match interpreter(program) {
        Ok(Some(loader)) if !view.rootfs_has(&loader) => Err(BundleError::Loader {
            program: program.to_owned(),
            loader,
            rootfs: rootfs.to_owned(),
        }),
        // What cannot be read here cannot be run either; the runtime says it better.
        _ => Ok(()),
    }
}

/// Whether a program is of 32 bits (`EI_CLASS`). What cannot be read is not.
pub(super) fn is_narrow(program: &Path) -> bool {
    let mut header = [0; 5];
    let read = File::open(program).and_then(|mut file| file.read_exact(&mut header));
    read.is_ok() && header.starts_with(MAGIC) && header[4] == 1
}

/// The loader that a program names. One that is linked statically, or is no ELF file of this machine's byte order, names
/// none.
pub(super) fn interpreter(program: &Path) -> io::Result<Option<PathBuf>> {
    let mut file = File::open(program)?;
    let mut header = [0; 64];
    file.read_exact(&mut header)?;
    if !header.starts_with(MAGIC) {
        return Ok(None);
    }
    let wide = header[4] == 2;
    let (table, size, count) = if wide {
        (
            u64_at(&header, 32),
            u16_at(&header, 54),
            u16_at(&header, 56),
        )
    } else {
        (
            u32_at(&header, 28).into(),
            u16_at(&header, 42),
            u16_at(&header, 44),
        )
    };
    for index in 0..u64::from(count) {
        let mut entry = [0; 56];
        file.seek(SeekFrom::Start(table + index * u64::from(size)))?;
        file.read_exact(&mut entry[..if wide { 56 } else { 32 }])?;
        if u32_at(&entry, 0) != PT_INTERP {
            continue;
        }
        let (offset, length) = if wide {
            (u64_at(&entry, 8), u64_at(&entry, 32))
        } else {
            (u32_at(&entry, 4).into(), u32_at(&entry, 16).into())
        };
        return text(&mut file, offset, length).map(Some);
    }
    Ok(None)
}

fn text(file: &mut File, offset: u64, length: u64) -> io::Result<PathBuf> {
    file.seek(SeekFrom::Start(offset))?;
    let mut text = Vec::new();
    file.take(length.min(LONGEST)).read_to_end(&mut text)?;
    let end = text.iter().position(|byte| *byte == 0);
    Ok(OsStr::from_bytes(&text[..end.unwrap_or(text.len())]).into())
}

fn at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_ne_bytes(at(bytes, offset))
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes(at(bytes, offset))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_ne_bytes(at(bytes, offset))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use runyard_common::testing::tempdir;

    use super::*;

    #[test]
    fn our_own_program_names_a_loader_that_exists() {
        let loader = interpreter(&std::env::current_exe().unwrap()).unwrap();
        assert!(loader.unwrap().exists());
    }

    #[test]
    fn words_are_told_by_their_width() {
        let folder = tempdir();
        let program = folder.path().join("java");
        for (class, narrow) in [(1, true), (2, false)] {
            fs::write(&program, [MAGIC, &[class]].concat()).unwrap();
            assert_eq!(is_narrow(&program), narrow);
        }
        assert!(!is_narrow(Path::new("/nowhere")));
    }

    #[test]
    fn a_script_names_none() {
        let folder = tempdir();
        let script = folder.path().join("script");
        fs::write(&script, format!("#!/bin/sh\n{}", " ".repeat(100))).unwrap();
        assert_eq!(interpreter(&script).unwrap(), None);
    }

    #[test]
    fn a_root_file_system_without_the_loader_is_refused() {
        let folder = tempdir();
        let view = View::new(Some(folder.path()), Path::new("/bundle")).unwrap();
        let program = std::env::current_exe().unwrap();
        let error = runs_in(&view, &program).unwrap_err().to_string();
        assert!(
            error.contains("which is not in the root file system"),
            "{error}"
        );
        let loader = interpreter(&program).unwrap().unwrap();
        let within = folder.path().join(loader.strip_prefix("/").unwrap());
        fs::create_dir_all(within.parent().unwrap()).unwrap();
        fs::write(&within, "").unwrap();
        runs_in(&view, &program).unwrap();
    }
}
