//! The built-in page in a real browser, before the daemon and a real build: what it lists, what it shows as it happens, and that
//! it ends a build.

use std::net::TcpListener;

use runyard_common::testing::{Browser, program};

use crate::{
    site::{DOCKERFILE, Site},
    support::{Repository, ready},
};

#[test]
fn a_build_is_listed_followed_and_killed() {
    let Some(chromium) = program("chromium", "CHROMIUM_BIN") else {
        return;
    };
    if !ready() {
        return;
    }
    // The build waits there for the test.
    let gate = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = gate.local_addr().unwrap().port();
    let waits =
        format!("{DOCKERFILE}RUN echo '<b>waiting</b>' && wget -q -O - http://127.0.0.1:{port}/\n");
    let repository = Repository::with(DOCKERFILE);
    let site = Site::open(repository);
    let done = site.submit("done");
    site.until(&done, &["SUCCEEDED"]);
    site.repository.commit("Dockerfile", &waits);
    let running = site.submit("waiting");
    let waiting = gate.accept().unwrap();

    let mut page = Browser::open(&chromium, &site.url);
    for (id, state) in [(&done, "SUCCEEDED"), (&running, "BUILDING")] {
        page.eventually(&format!(
            "document.querySelector('tr[data-job-id=\"{id}\"]')?.dataset.state === '{state}'"
        ));
    }
    page.evaluate(&format!(
        "document.querySelector('tr[data-job-id=\"{running}\"]').click()"
    ));
    page.eventually("document.querySelector('#log').innerText.includes('<b>waiting</b>')");
    page.eventually("document.querySelector('#phases .running')?.innerText.startsWith('build ')");
    page.evaluate("document.querySelector('#kill').click()");
    page.eventually("document.querySelector('#sure').open === true");
    page.evaluate("document.querySelector('#sure button[value=kill]').click()");
    page.eventually("document.querySelector('#job').dataset.complete === 'true'");
    page.eventually("document.querySelector('#error').textContent === 'Job killed by user'");
    drop(waiting);
    site.until(&running, &["FAILED"]);

    // One that is over: all of its phases, and what was published.
    page.evaluate(&format!(
        "document.querySelector('tr[data-job-id=\"{done}\"]').click()"
    ));
    page.eventually("document.querySelector('#job').dataset.complete === 'true'");
    page.eventually("document.querySelector('#log').innerText.includes('STEP 1/3: FROM scratch')");
    page.eventually(&format!(
        "document.querySelector('#phases').innerText.includes('tags {done}')"
    ));
}
