//! Verbs: their answers, their errors, their exit codes.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use runyard_common::exit::Exit;
use runyard_common::testing::Output;

use super::keeper;

fn run(words: &[&str]) -> Output {
    Output::of(&mut keeper(words))
}

#[test]
fn an_answer_is_on_stdout_in_the_wished_form_and_nothing_is_on_stderr() {
    assert_eq!(
        run(&["show", "lamp"]).to_string(),
        "exit code: 0\n--- stdout\nNAME  SIZE\nlamp     4\n--- stderr\n"
    );
    assert_eq!(
        run(&["show", "lamp", "-o", "yaml"]).success(),
        "name: lamp\nsize: 4\n"
    );
    assert_eq!(
        run(&["-o", "json", "show", "lamp"]).success(),
        "{\n  \"name\": \"lamp\",\n  \"size\": 4\n}\n"
    );
}

#[test]
fn an_error_is_on_stderr_with_its_hint_and_its_code() {
    assert_eq!(
        run(&["show", "nothing"]).to_string(),
        "exit code: 5\n--- stdout\n--- stderr\nerror: there is no thing `nothing`\n  hint: known things: all others\n"
    );
}

#[test]
fn colour_is_a_wish_where_there_is_no_terminal() {
    let stderr = run(&["show", "nothing", "--color", "always"]).failure(Exit::NotFound);
    assert!(
        stderr.starts_with("\x1b[1;31merror:\x1b[0m there is"),
        "{stderr}"
    );
    assert!(
        run(&["show", "lamp", "--color", "always"])
            .success()
            .starts_with("\x1b[1mNAME")
    );
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let stderr = run(&["shwo"]).failure(Exit::Usage);
    assert!(
        stderr.starts_with("error: unrecognized subcommand 'shwo'"),
        "{stderr}"
    );
    let stderr = run(&["show", "x", "--log-level", "loud"]).failure(Exit::Usage);
    assert!(
        stderr.starts_with("error: log filter `loud` is not valid\n"),
        "{stderr}"
    );
}

#[test]
fn help_and_version_are_answers() {
    assert!(
        run(&["--help"])
            .success()
            .contains("Keep things and show them")
    );
    assert!(run(&["--version"]).success().starts_with("keeper "));
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_run_quietly() {
    let mut child = keeper(&["count", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(
        [
            lines.next().unwrap().unwrap(),
            lines.next().unwrap().unwrap()
        ],
        ["0", "1"]
    );
    drop(lines);
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap().as_str()
        ),
        (Some(0), "")
    );
}

#[test]
fn a_panic_is_named_as_a_bug_with_its_place() {
    let stderr = run(&["bug"]).failure(Exit::Internal);
    let (first, rest) = stderr.split_once('\n').unwrap();
    assert!(
        first.starts_with("error: internal error, which is a bug: index out of bounds"),
        "{stderr}"
    );
    assert!(
        rest.starts_with("  caused by: panic at common/examples/keeper.rs:")
            || rest.contains("keeper.rs:"),
        "{stderr}"
    );
    assert!(
        rest.ends_with("  hint: run again with RUST_BACKTRACE=1 and report what it prints\n"),
        "{stderr}"
    );
}

#[cfg(unix)]
#[test]
fn a_childs_code_is_handed_through() {
    assert_eq!(run(&["exec", "sh", "-c", "exit 42"]).code, 42);
    assert_eq!(run(&["exec", "sh", "-c", "kill -KILL $$"]).code, 137);
    let stderr = run(&["exec", "no-such-program"]).failure(Exit::NotFound);
    assert!(
        stderr.ends_with("  hint: is `no-such-program` in PATH?\n"),
        "{stderr}"
    );
}

#[test]
fn completions_and_the_manual_page_are_written() {
    assert!(run(&["completions", "bash"]).success().contains("_keeper"));
    let page = run(&["man"]).success();
    assert!(
        page.contains(".TH keeper 1") && page.contains("\"KEEPER SHOW\""),
        "{page}"
    );
}
