//! Real archives in real folders: what is chosen, what is refused, and in which words.

use std::{
    fs,
    io::{Cursor, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use runyard_common::testing::{TempDir, tempdir};
use zip::{ZipWriter, write::SimpleFileOptions};

use super::*;

const MAIN: &str = "Manifest-Version: 1.0\r\nMain-Class: com.example.App\r\n\r\n";

/// An archive with these entries.
fn zipped(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in entries {
        writer
            .start_file(*name, SimpleFileOptions::default())
            .unwrap();
        writer.write_all(text.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn app() -> Vec<u8> {
    zipped(&[
        ("META-INF/MANIFEST.MF", MAIN),
        ("com/example/App.class", "not really"),
    ])
}

/// A task's folder with `local/` and these files.
fn task(files: &[(&str, &[u8])]) -> TempDir {
    let task = tempdir();
    fs::create_dir(task.path().join("local")).unwrap();
    for (name, bytes) in files {
        let path = task.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    task
}

fn chosen(task: &TempDir) -> Result<Jar, JarError> {
    choose(&task.path().join("local"))
}

fn text(error: Result<Jar, JarError>) -> String {
    error.unwrap_err().to_string()
}

#[test]
fn the_only_jar_is_chosen_wherever_it_is_and_however_it_is_written() {
    for name in ["local/app.jar", "local/deep/down/App.JAR"] {
        let task = task(&[(name, &app()), ("local/app.yaml", b"a: b")]);
        let jar = chosen(&task).unwrap();
        assert_eq!(jar.path, task.path().join(name));
        assert_eq!(jar.main_class.as_deref(), Some("com.example.App"));
    }
}

#[test]
fn another_file_is_no_jar() {
    let task = task(&[("local/my-script.py", b"print(1)")]);
    let mut lines = text(chosen(&task));
    lines.push('\n');
    assert_eq!(
        lines,
        "Error: Artifact must be a .jar file, got: my-script.py\n\
         Expected: A Java archive whose name ends in .jar\n\
         Got: my-script.py\n\
         Suggestion: Point the artifact or jar_path at the JAR that your build makes\n"
    );
    let asked = inspect(task.path(), Path::new("local/my-script.py"), true);
    assert!(text(asked).starts_with("Error: Artifact must be a .jar file, got: my-script.py\n"));
}

#[test]
fn an_empty_folder_means_that_nothing_was_downloaded() {
    for files in [
        &[][..],
        &[("local/a.txt", &b"a"[..]), ("local/b.txt", b"b")],
    ] {
        let error = chosen(&task(files)).unwrap_err();
        assert!(error.is_missing());
        let text = error.to_string();
        assert!(
            text.starts_with("Error: Failed to download artifact: file not found\n"),
            "{text}"
        );
        assert!(
            text.contains("\nGot: No JAR files found in local/\n"),
            "{text}"
        );
    }
    assert!(
        choose(Path::new("/no/such/folder"))
            .unwrap_err()
            .is_missing()
    );
}

#[test]
fn several_jars_are_named() {
    let jar = app();
    let task = task(&[
        ("local/main.jar", &jar),
        ("local/lib1.jar", &jar),
        ("local/lib2.jar", &jar),
    ]);
    let text = text(chosen(&task));
    assert!(
        text.starts_with("Error: Multiple JAR files found\n"),
        "{text}"
    );
    assert!(
        text.contains("\nGot: 3 JAR files (lib1.jar, lib2.jar, main.jar)\n"),
        "{text}"
    );
    assert!(
        text.ends_with("\nSuggestion: Use a single artifact or specify which JAR to execute"),
        "{text}"
    );
}

#[test]
fn a_jar_that_was_asked_for_and_is_not_there_is_missing() {
    let task = task(&[]);
    for name in ["local/app.jar", "local/no/app.jar"] {
        let error = inspect(task.path(), Path::new(name), true).unwrap_err();
        assert!(error.is_missing());
        assert!(
            error
                .to_string()
                .starts_with("Error: Artifact file not found\n")
        );
        assert!(error.to_string().contains(name));
    }
}

#[test]
fn half_an_archive_is_corrupted() {
    let whole = app();
    let task = task(&[
        ("local/half.jar", &whole[..whole.len() / 2]),
        ("local/noise.jar", &[7; 4000]),
    ]);
    for name in ["local/half.jar", "local/noise.jar"] {
        let text = text(inspect(task.path(), Path::new(name), true));
        assert!(
            text.starts_with("Error: Invalid JAR file format\n"),
            "{text}"
        );
        assert!(
            text.contains("\nGot: Corrupted or incomplete file\n"),
            "{text}"
        );
        assert!(
            text.ends_with("\nSuggestion: Re-download the artifact or verify the source file"),
            "{text}"
        );
    }
}

#[test]
fn a_damaged_manifest_is_corrupted_and_not_believed() {
    let text = format!("Main-Class: {}\r\n\r\n", "a".repeat(400));
    let mut bytes = zipped(&[("META-INF/MANIFEST.MF", &text)]);
    let data = 30 + "META-INF/MANIFEST.MF".len() + 2;
    bytes[data] ^= 0xff;
    let task = task(&[("local/app.jar", &bytes)]);
    assert!(matches!(chosen(&task), Err(JarError::Corrupted { .. })));
}

#[test]
fn other_things_that_are_downloaded_have_their_own_words() {
    let zip = zipped(&[("readme.txt", "hello")]);
    let cases: [(&[u8], &str, &str); 3] = [
        (
            b"",
            "Error: JAR file is empty\n",
            "\nGot: 0 bytes in app.jar\n",
        ),
        (
            &zip,
            "Error: Not a valid JAR file\n",
            "\nGot: ZIP file without META-INF: app.jar\n",
        ),
        (
            b"<!doctype html><html><body>Not Found",
            "Error: Downloaded file is not a JAR\n",
            "\nGot: HTML document (possibly error page)\n",
        ),
    ];
    for (bytes, first, got) in cases {
        let text = text(chosen(&task(&[("local/app.jar", bytes)])));
        assert!(text.starts_with(first) && text.contains(got), "{text}");
    }
}

#[test]
fn a_library_is_enough_when_the_class_is_named_elsewhere() {
    let library = zipped(&[("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n")]);
    let task = task(&[("local/lib.jar", &library)]);
    let name = Path::new("local/lib.jar");
    let refused = text(inspect(task.path(), name, true));
    assert!(
        refused.starts_with("Error: JAR file has no main class\n"),
        "{refused}"
    );
    assert_eq!(inspect(task.path(), name, false).unwrap().main_class, None);
}

#[test]
fn a_shell_script_in_front_and_a_comment_behind_do_no_harm() {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer
        .start_file(
            "META-INF/MANIFEST.MF",
            SimpleFileOptions::default().large_file(true),
        )
        .unwrap();
    writer.write_all(MAIN.as_bytes()).unwrap();
    writer.set_comment("x".repeat(60_000)).unwrap();
    let archive = writer.finish().unwrap().into_inner();
    let mut executable = b"#!/bin/sh\nexec java -jar \"$0\" \"$@\"\n".to_vec();
    executable.extend(archive);
    let task = task(&[("local/app.jar", &executable)]);
    assert!(chosen(&task).unwrap().main_class.is_some());
}

/// The same archive with its directory described in the ZIP64 way, as archives of more than 65535 entries or 4 GiB are
/// (APPNOTE.TXT 4.3.14 to 4.3.16).
fn as_zip64(mut archive: Vec<u8>) -> Vec<u8> {
    let old = archive.split_off(archive.len() - 22);
    let number = |at: usize| u64::from(u32::from_le_bytes(old[at..at + 4].try_into().unwrap()));
    let entries = u64::from(u16::from_le_bytes([old[10], old[11]]));
    let place = archive.len() as u64;
    archive.extend(b"PK\x06\x06");
    archive.extend(44_u64.to_le_bytes());
    archive.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for field in [entries, entries, number(12), number(16)] {
        archive.extend(field.to_le_bytes());
    }
    archive.extend(b"PK\x06\x07\0\0\0\0");
    archive.extend(place.to_le_bytes());
    archive.extend(1_u32.to_le_bytes());
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend([0xff; 12]);
    archive.extend([0, 0]);
    archive
}

#[test]
fn the_format_for_large_archives_is_fine() {
    let task = task(&[("local/app.jar", &as_zip64(app()))]);
    assert!(chosen(&task).unwrap().main_class.is_some());
}

fn replaced(mut bytes: Vec<u8>, old: &[u8], new: &[u8]) -> Vec<u8> {
    for at in 0..=bytes.len() - old.len() {
        if bytes[at..].starts_with(old) {
            bytes[at..at + old.len()].copy_from_slice(new);
        }
    }
    bytes
}

#[test]
fn entries_that_are_there_twice_do_no_harm() {
    // Renamed to the same length, so that offsets stay true; the writer itself refuses a second entry of a name.
    let single = zipped(&[
        ("META-INF/MANIFEST.MF", MAIN),
        ("META-INF/LICENSE", "a"),
        ("META-INF/LICENSX", "b"),
    ]);
    let renamed = replaced(single, b"LICENSX", b"LICENSE");
    let task = task(&[("local/app.jar", &renamed)]);
    assert!(chosen(&task).is_ok());
}

#[test]
fn a_symlink_out_of_the_task_is_refused() {
    let outside = tempdir();
    fs::write(outside.path().join("secret.jar"), app()).unwrap();
    let target = outside.path().join("secret.jar");
    let links = [
        ("app.jar", target.clone()),
        (
            "up.jar",
            PathBuf::from("../../..").join(target.strip_prefix("/").unwrap()),
        ),
        ("proc.jar", PathBuf::from("/proc/self/exe")),
    ];
    for (name, target) in links {
        let task = task(&[]);
        symlink(&target, task.path().join("local").join(name)).unwrap();
        let text = text(chosen(&task));
        assert!(
            text.starts_with("Error: JAR file is a symbolic link\n"),
            "{text}"
        );
        assert!(
            text.contains("pointing outside the task directory"),
            "{text}"
        );
        assert!(text.contains(&target.display().to_string()), "{text}");
    }
}

#[test]
fn a_folder_that_leads_out_of_the_task_is_refused() {
    let outside = tempdir();
    fs::write(outside.path().join("app.jar"), app()).unwrap();
    let task = task(&[]);
    symlink(outside.path(), task.path().join("local/lib")).unwrap();
    let asked = inspect(task.path(), Path::new("local/lib/app.jar"), true);
    assert!(matches!(asked, Err(JarError::Link { target: None, .. })));
    assert!(chosen(&task).unwrap_err().to_string().contains("lib"));
}

#[test]
fn a_name_that_leads_out_of_the_task_is_refused() {
    let task = task(&[("local/app.jar", &app())]);
    for name in ["../app.jar", "local/../../app.jar", "/etc/app.jar"] {
        let asked = inspect(task.path(), Path::new(name), true);
        assert!(
            matches!(asked, Err(JarError::Outside { .. })),
            "{name}: {asked:?}"
        );
    }
    assert!(inspect(task.path(), Path::new("local/../local/app.jar"), true).is_ok());
}

#[test]
fn a_symlink_that_stays_inside_is_followed() {
    let task = task(&[("local/releases/app-1.0.zip", &app())]);
    symlink("releases/app-1.0.zip", task.path().join("local/app.jar")).unwrap();
    assert!(chosen(&task).is_ok());
    assert!(inspect(task.path(), Path::new("local/app.jar"), true).is_ok());
}

#[test]
fn links_in_a_circle_are_refused() {
    let task = task(&[]);
    symlink("b.jar", task.path().join("local/a.jar")).unwrap();
    symlink("a.jar", task.path().join("local/b.jar")).unwrap();
    let asked = inspect(task.path(), Path::new("local/a.jar"), true);
    assert!(matches!(asked, Err(JarError::Link { .. })), "{asked:?}");
}

#[test]
fn a_fifo_or_a_folder_named_like_a_jar_is_refused_without_waiting() {
    let task = task(&[]);
    fs::create_dir(task.path().join("local/folder.jar")).unwrap();
    let fifo = task.path().join("local/fifo.jar");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for name in ["local/folder.jar", "local/fifo.jar"] {
        let asked = inspect(task.path(), Path::new(name), true);
        assert!(matches!(asked, Err(JarError::NotAFile { .. })), "{asked:?}");
    }
    assert!(chosen(&task).unwrap_err().is_missing());
}

#[test]
fn the_tasks_user_must_be_able_to_read_it_although_root_always_can() {
    let task = task(&[("local/lib/app.jar", &app())]);
    let local = task.path().join("local");
    let jar = choose(&local).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    mode(&local, 0o755).unwrap();
    mode(&local.join("lib"), 0o755).unwrap();
    mode(&jar.path, 0o644).unwrap();
    jar.readable_by(65534, 65534, &[]).unwrap();

    mode(&jar.path, 0o640).unwrap();
    let text = jar.readable_by(65534, 65534, &[]).unwrap_err().to_string();
    assert!(text.starts_with("Error: Cannot read JAR file\n"), "{text}");
    assert!(
        text.contains("\nGot: Permission denied on app.jar for uid 65534\n"),
        "{text}"
    );
    let owner = rustix::process::getgid().as_raw();
    jar.readable_by(65534, 65534, &[owner]).unwrap();

    mode(&jar.path, 0o644).unwrap();
    mode(&local.join("lib"), 0o700).unwrap();
    assert!(jar.readable_by(65534, 65534, &[]).is_err());
}

#[test]
fn a_file_at_the_command_line_may_be_a_link_to_anywhere() {
    let task = task(&[("elsewhere/real.jar", &app())]);
    let link = task.path().join("app.jar");
    symlink("elsewhere/real.jar", &link).unwrap();
    assert_eq!(inspect_file(&link, true).unwrap().path, link);
    let missing = inspect_file(&task.path().join("no.jar"), true).unwrap_err();
    assert!(
        missing
            .to_string()
            .starts_with("Error: Artifact file not found\n")
    );
}

#[test]
fn an_executable_war_can_be_named_but_is_not_looked_for() {
    let task = task(&[("local/app.war", &app())]);
    assert!(inspect(task.path(), Path::new("local/app.war"), true).is_ok());
    assert!(matches!(
        chosen(&task),
        Err(JarError::WrongExtension { .. })
    ));
}

#[test]
fn every_error_is_four_lines_whatever_the_file_is_called() {
    let task = task(&[("local/a\nError: b\x1b[31m.jar", b"")]);
    let text = text(chosen(&task));
    let labels: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split(':').next())
        .collect();
    assert_eq!(labels, ["Error", "Expected", "Got", "Suggestion"], "{text}");
    assert!(!text.contains('\x1b'));
}

#[test]
fn what_the_jdk_builds_is_a_jar() {
    let folder = tempdir();
    let long = format!(
        "com.example.{}.Main",
        "verylong.".repeat(12).trim_end_matches('.')
    );
    fs::write(folder.path().join("a.txt"), "a").unwrap();
    let built = Command::new("jar")
        .args([
            "--create",
            "--file",
            "app.jar",
            "--main-class",
            &long,
            "a.txt",
        ])
        .current_dir(folder.path())
        .output();
    let Ok(built) = built else {
        println!("skipped: there is no `jar` program here");
        return;
    };
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let jar = inspect_file(&folder.path().join("app.jar"), true).unwrap();
    assert_eq!(jar.main_class, Some(long));
}
