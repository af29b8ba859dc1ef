//! From an open file to its manifest: is this a ZIP archive, a JAR, or what a server sent instead? An archive is found
//! from its end, so that shell scripts in front of it, comments behind it and ZIP64 are all fine.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek},
    path::Path,
};

use zip::{ZipArchive, result::ZipError};

use super::{
    error::{JarError, shown},
    manifest::Manifest,
};

/// A manifest's main section is far shorter; what is behind may sign a hundred thousand entries, or be a bomb.
const MANIFEST_BYTES: u64 = 1 << 20;

/// So much of a file tells a web page from an archive.
const SNIFFED_BYTES: u64 = 1024;

/// The manifest of the JAR in `file`, which errors call `called`. A JAR without one has an empty one.
pub(super) fn manifest(file: File, called: &Path) -> Result<Manifest, JarError> {
    let name = || shown(called);
    let unreadable = |error: io::Error| JarError::Unreadable {
        name: name(),
        reason: error.to_string(),
    };
    if file.metadata().map_err(unreadable)?.len() == 0 {
        return Err(JarError::Empty { name: name() });
    }
    let mut sniffed = file.try_clone().map_err(unreadable)?;
    let mut archive = match ZipArchive::new(BufReader::new(file)) {
        Ok(archive) => archive,
        Err(error) => return Err(not_an_archive(&mut sniffed, name(), &error)),
    };
    if !archive.file_names_raw().any(is_meta_inf) {
        return Err(JarError::PlainZip { name: name() });
    }
    let text = manifest_text(&mut archive).map_err(|error| JarError::Corrupted {
        name: name(),
        reason: error.to_string(),
    })?;
    Ok(Manifest::parse(&text))
}

fn manifest_text<R: Read + Seek>(archive: &mut ZipArchive<R>) -> Result<Vec<u8>, ZipError> {
    // A JVM knows it in any case, too.
    let found = archive
        .file_names_raw()
        .position(|name| name.eq_ignore_ascii_case(b"META-INF/MANIFEST.MF"));
    let mut text = Vec::new();
    if let Some(index) = found {
        let entry = archive.by_index(index)?;
        entry.take(MANIFEST_BYTES).read_to_end(&mut text)?;
    }
    Ok(text)
}

fn is_meta_inf(name: &[u8]) -> bool {
    name.get(..9)
        .is_some_and(|folder| folder.eq_ignore_ascii_case(b"META-INF/"))
}

fn not_an_archive(file: &mut File, name: String, error: &ZipError) -> JarError {
    let mut beginning = Vec::new();
    let sniffed = file
        .rewind()
        .and_then(|()| file.take(SNIFFED_BYTES).read_to_end(&mut beginning));
    match (sniffed, page(&beginning)) {
        (Ok(_), Some(kind)) => JarError::Page { name, kind },
        _ => JarError::Corrupted {
            name,
            reason: error.to_string(),
        },
    }
}

/// What a server sends in place of a file, by its beginning.
fn page(beginning: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(beginning).to_ascii_lowercase();
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if text.starts_with('<')
        && ["<html", "<!doctype html", "<head", "<body"]
            .iter()
            .any(|tag| text.contains(tag))
    {
        return Some("HTML document (possibly error page)");
    }
    if text.starts_with("<?xml") {
        return Some("XML document (possibly error page)");
    }
    if text.starts_with("{\"") || text.starts_with("{\n") {
        return Some("JSON document (possibly error page)");
    }
    text.starts_with("version https://git-lfs")
        .then_some("Git LFS pointer instead of the file it stands for")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_pages_are_known_by_their_beginning() {
        let html = Some("HTML document (possibly error page)");
        assert_eq!(page(b"\xef\xbb\xbf\n <!DOCTYPE HTML><title>404"), html);
        assert_eq!(page(b"<!-- hello --><html lang=en>"), html);
        assert!(page(b"<?xml version=\"1.0\"?><Error><Code>AccessDenied").is_some());
        assert!(page(b"{\"errors\": []}").is_some());
        assert!(page(b"version https://git-lfs.github.com/spec/v1").is_some());
    }

    #[test]
    fn binaries_and_scripts_are_no_pages() {
        assert_eq!(page(b"PK\x03\x04"), None);
        assert_eq!(page(b"#!/bin/sh\nexec java -jar $0 <html"), None);
        assert_eq!(page(b""), None);
    }
}
