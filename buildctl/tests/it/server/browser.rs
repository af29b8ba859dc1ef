//! The built-in page in a real browser, where there is a Chromium.

use std::{fs, time::Duration};

use buildctl::{job::State, logs::Stream, phase::Run, scheduler::fake::Play};
use runyard_common::testing::{Browser, program, tempdir};

use super::*;
use crate::service::config;

#[tokio::test(flavor = "multi_thread")]
async fn the_page_asks_for_a_token_lists_builds_follows_one_and_kills_it() {
    let Some(chromium) = program("chromium", "CHROMIUM_BIN") else {
        return;
    };
    let folder = tempdir();
    let file = folder.path().join("tokens");
    fs::write(&file, "of-the-page\n").unwrap();
    let bench = Bench::with(&|_, run| match run {
        Run::Build => Play {
            says: vec![
                (
                    Duration::ZERO,
                    Stream::Stdout,
                    "<b>seen</b> in the page".to_owned(),
                ),
                (Duration::from_secs(5), Stream::Stderr, "later".to_owned()),
            ],
            ..Play::endless()
        },
        _ => Play::default(),
    });
    let stage = Stage::with(bench, &[("BUILDCTL_TOKEN_FILE", file.to_str().unwrap())]).await;
    let id = stage.bench.submit(config("app")).await;
    stage.bench.in_state(id, State::Building).await;
    let (url, clock) = (
        format!("http://{}/", stage.address),
        stage.bench.clock.clone(),
    );
    let browsing = tokio::task::spawn_blocking(move || {
        let mut browser = Browser::open(&chromium, &url);
        browser.eventually("document.querySelector('#ask').open === true");
        browser.evaluate(
            "document.querySelector('#token').value = 'of-the-page'; document.querySelector('#ask form button').click()",
        );
        browser.eventually(&format!(
            "document.querySelector('tr[data-job-id=\"{id}\"]')?.dataset.state === 'BUILDING'"
        ));
        assert_eq!(
            browser.evaluate("sessionStorage.getItem('buildctl.token')"),
            "of-the-page"
        );
        browser.evaluate("document.querySelector('tr.job').click()");
        browser.eventually(
            "document.querySelector('#log').innerText.includes('<b>seen</b> in the page')",
        );
        clock.advance(Duration::from_secs(6));
        browser.eventually("document.querySelector('#log .stderr')?.textContent === 'later\\n'");
        browser.evaluate("document.querySelector('#kill').click()");
        browser.eventually("document.querySelector('#sure').open === true");
        browser.evaluate("document.querySelector('#sure button[value=kill]').click()");
        browser.eventually("document.querySelector('#job').dataset.complete === 'true'");
        browser.eventually("document.querySelector('#error').textContent === 'Job killed by user'");
        browser.eventually(&format!(
            "document.querySelector('tr[data-job-id=\"{id}\"]').dataset.state === 'FAILED'"
        ));
    });
    browsing.await.unwrap();
    stage.bench.settled(id).await;
}
