use std::time::Duration;

use runyard_common::testing::{TempDir, tempdir};

use super::{fake::Fake, *};
use crate::{proto::drivers::TaskConfig, state::StateRoot};

struct Scene {
    registry: Registry<Fake>,
    engine: Fake,
    _dir: TempDir,
}

fn scene() -> Scene {
    let dir = tempdir();
    let engine = Fake::new(StateRoot::new(dir.path()));
    Scene {
        registry: Registry::new(engine.clone()),
        engine,
        _dir: dir,
    }
}

fn id() -> TaskId {
    TaskId("9f0c/web/01234567".to_owned())
}

fn task() -> Task {
    let wire = TaskConfig {
        id: id().0,
        name: "web".to_owned(),
        alloc_id: "9f0c".to_owned(),
        ..TaskConfig::default()
    };
    let compute = crate::config::Compute {
        megahertz: 0,
        cpus: 1,
    };
    crate::api::task::task(
        &wire,
        &crate::api::options::TaskOptions::default(),
        &Config::default(),
        compute,
    )
    .unwrap()
}

#[tokio::test]
async fn two_starts_of_one_task_are_one() {
    let scene = scene();
    scene.engine.hold_starts(true);
    let (one, other) = (scene.registry.clone(), scene.registry.clone());
    let one = tokio::spawn(async move { one.start(task()).await });
    let other = tokio::spawn(async move { other.start(task()).await });
    tokio::task::yield_now().await;
    scene.engine.hold_starts(false);
    assert_eq!(one.await.unwrap().unwrap(), other.await.unwrap().unwrap());
    assert_eq!(
        scene.registry.start(task()).await.unwrap().started.pid,
        4711
    );
    assert_eq!(scene.engine.starts(), 1);
}

#[tokio::test]
async fn a_start_goes_on_when_nobody_waits_for_it_any_more() {
    let scene = scene();
    scene.engine.hold_starts(true);
    let registry = scene.registry.clone();
    let asker = tokio::spawn(async move { registry.start(task()).await });
    tokio::task::yield_now().await;
    asker.abort();
    assert!(asker.await.unwrap_err().is_cancelled());
    scene.engine.hold_starts(false);
    scene.registry.start(task()).await.unwrap();
    assert_eq!(scene.engine.starts(), 1);
}

#[tokio::test]
async fn a_task_that_failed_to_start_may_be_started_again() {
    let scene = scene();
    scene.engine.fail_next_start(StartError::fatal("Error: no"));
    assert_eq!(
        scene.registry.start(task()).await.unwrap_err().text,
        "Error: no"
    );
    assert_eq!(scene.registry.wait(&id()).await, Err(TaskError::NotFound));
    scene.registry.start(task()).await.unwrap();
}

#[tokio::test]
async fn many_wait_for_one_end_and_it_is_known_until_destruction() {
    let scene = scene();
    scene.registry.start(task()).await.unwrap();
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let registry = scene.registry.clone();
            tokio::spawn(async move { registry.wait(&id()).await })
        })
        .collect();
    let exit = Exit {
        code: 42,
        ..Exit::default()
    };
    scene.engine.finish(&id(), exit.clone());
    for one in waiting {
        assert_eq!(one.await.unwrap(), Ok(exit.clone()));
    }
    assert_eq!(scene.registry.wait(&id()).await, Ok(exit));
    scene.registry.destroy(&id(), false).await.unwrap();
    assert_eq!(scene.registry.wait(&id()).await, Err(TaskError::NotFound));
}

#[tokio::test]
async fn stopping_what_has_ended_is_no_error_and_sends_nothing() {
    let scene = scene();
    scene.registry.start(task()).await.unwrap();
    scene.engine.finish(&id(), Exit::default());
    scene.registry.wait(&id()).await.unwrap();
    scene
        .registry
        .stop(&id(), libc::SIGTERM, Duration::ZERO)
        .await
        .unwrap();
    assert!(scene.engine.signals(&id()).is_empty());
    assert_eq!(
        scene.registry.signal(&id(), libc::SIGHUP).await,
        Err(TaskError::NotRunning(id()))
    );
}

#[tokio::test]
async fn one_that_ignores_the_signal_is_killed_after_the_timeout() {
    let scene = scene();
    scene.registry.start(task()).await.unwrap();
    scene.engine.ignore_term(&id());
    scene
        .registry
        .stop(&id(), libc::SIGTERM, Duration::from_millis(30))
        .await
        .unwrap();
    assert_eq!(scene.engine.signals(&id()), [libc::SIGTERM, libc::SIGKILL]);
    assert_eq!(scene.registry.wait(&id()).await.unwrap().code, 137);
}

#[tokio::test]
async fn destruction_of_what_runs_needs_force_and_tells_those_who_wait() {
    let scene = scene();
    scene.registry.start(task()).await.unwrap();
    assert_eq!(
        scene.registry.destroy(&id(), false).await,
        Err(TaskError::StillRunning(id()))
    );
    let registry = scene.registry.clone();
    let waiting = tokio::spawn(async move { registry.wait(&id()).await });
    tokio::task::yield_now().await;
    scene.registry.destroy(&id(), true).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().signal, libc::SIGKILL);
    scene.registry.destroy(&id(), true).await.unwrap();
    assert_eq!(scene.engine.destroyed().len(), 2);
}

#[tokio::test]
async fn a_task_that_ended_unwatched_keeps_its_true_end() {
    let scene = scene();
    let exit = Exit {
        code: 3,
        ..Exit::default()
    };
    scene.engine.left_behind(&id(), Some(exit.clone()));
    let who = Identity::of(&task());
    scene.registry.recover(who.clone(), None).await.unwrap();
    assert_eq!(scene.registry.wait(&id()).await, Ok(exit));
    scene.registry.recover(who, None).await.unwrap();
}

#[tokio::test]
async fn a_task_that_left_nothing_cannot_be_recovered() {
    let scene = scene();
    let error = scene
        .registry
        .recover(Identity::of(&task()), None)
        .await
        .unwrap_err();
    assert!(matches!(error, TaskError::Engine(_)));
    assert_eq!(scene.registry.wait(&id()).await, Err(TaskError::NotFound));
}

#[tokio::test]
async fn start_and_lack_of_memory_are_told() {
    let scene = scene();
    let mut events = scene.registry.events();
    scene.registry.start(task()).await.unwrap();
    let started = events.recv().await.unwrap();
    assert_eq!(
        (started.who.alloc_id.as_str(), started.who.name.as_str()),
        ("9f0c", "web")
    );
    assert_eq!(started.annotations["pid"], "4711");
    scene.engine.finish(
        &id(),
        Exit {
            code: 137,
            oom_killed: true,
            ..Exit::default()
        },
    );
    assert!(
        events
            .recv()
            .await
            .unwrap()
            .message
            .contains("out of memory")
    );
}
